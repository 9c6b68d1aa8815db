//! Many small blobs of a node at once.

use http::Method;

use super::{ClientError, Peer, Reader};
use crate::model::ContentHash;
use crate::protocol::BLOBS;
use crate::protocol::blobs::{BlobsQuery, Decoder, GivenBlob};

/// Small blobs on their way.
#[derive(Debug)]
pub struct BlobsReply {
    body: Reader,
    decoder: Decoder,
}

impl Peer {
    /// Asks for small blobs, at most `protocol::blobs::HASHES_MAX`.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn blobs(&self, hashes: Vec<ContentHash>) -> Result<BlobsReply, ClientError> {
        let response = self.send_json(Method::POST, BLOBS, &BlobsQuery { hashes }).await?;
        Ok(BlobsReply { body: self.reader(response.into_body()), decoder: Decoder::default() })
    }
}

impl BlobsReply {
    /// The next blob; `None` at the end. Whether its bytes are those that its hash names, nobody has looked at yet.
    ///
    /// # Errors
    /// When the answer breaks off, is late or not what the protocol says.
    pub async fn blob(&mut self) -> Result<Option<GivenBlob>, ClientError> {
        loop {
            if let Some(blob) = self.decoder.blob().map_err(|error| self.body.not_understood(&error))? {
                return Ok(Some(blob));
            }
            match self.body.chunk().await? {
                Some(bytes) => self.decoder.push(&bytes),
                None if self.decoder.is_empty() => return Ok(None),
                None => return Err(self.body.not_understood(&"it ends within a blob")),
            }
        }
    }
}
