//! Bodies of answers, with a deadline for each part.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use super::{AnswerBody, ClientError};
use crate::model::Address;

/// Reads the body of an answer; a peer that falls silent is given up.
#[derive(Debug)]
pub struct Reader {
    body: AnswerBody,
    address: Address,
    idle: Duration,
}

impl Reader {
    pub(super) const fn new(body: AnswerBody, address: Address, idle: Duration) -> Self {
        Self { body, address, idle }
    }

    /// That the body is not what it should be.
    pub(super) fn not_understood(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::NotUnderstood { address: self.address.clone(), reason: reason.to_string() }
    }

    /// The next bytes; `None` at the end, which is only there if the body is whole.
    ///
    /// # Errors
    /// [`ClientError::BrokenOff`] or [`ClientError::Late`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame())
                .await
                .map_err(|_| ClientError::Late { address: self.address.clone(), after: self.idle })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // What is no data is a trailer, which the protocol does not use.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(error)) => {
                    return Err(ClientError::BrokenOff { address: self.address.clone(), source: error.into() });
                }
            }
        }
    }

    /// All bytes, if they are at most `limit`.
    ///
    /// # Errors
    /// As [`Reader::chunk`], or [`ClientError::NotUnderstood`] if there are more.
    pub async fn read_all(mut self, limit: usize) -> Result<Bytes, ClientError> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.chunk().await? {
            if all.len() + bytes.len() > limit {
                let reason = format!("more than {limit} bytes");
                return Err(ClientError::NotUnderstood { address: self.address, reason });
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }
}
