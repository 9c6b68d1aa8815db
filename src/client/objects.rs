//! Objects and blobs of a node.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RANGE};
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::{AnswerBody, Body, ClientError, Peer, Reader, empty};
use crate::model::{ContentHash, FieldValue, ObjectKey, WaitFor};
use crate::protocol::status::{Known, Objects, Receipt};
use crate::protocol::{COPIES_HEADER, OBJECTS, blob_path, encode_path, entry_path, object_path};

/// What is to be stored.
#[derive(Debug)]
pub struct Upload<'a> {
    /// Under which key.
    pub key: &'a ObjectKey,
    /// How many bytes the body has.
    pub size: u64,
    /// The media type; the node guesses it from the key if there is none.
    pub media_type: Option<&'a FieldValue>,
    /// The `Cache-Control` to be served; the node's default if there is none.
    pub cache_control: Option<&'a FieldValue>,
    /// On how many nodes it is to be durable before the answer; as the node is configured if it does not say.
    pub wait_for: Option<WaitFor>,
}

/// An object on its way.
#[derive(Debug)]
pub struct ObjectReply {
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// The bytes.
    pub body: Reader,
}

impl Peer {
    /// Stores an object.
    ///
    /// # Errors
    /// When the node does not answer or refuses, or the body fails; [`ClientError::FewerCopies`] when it is stored, but not
    /// on as many nodes as it asks for.
    pub async fn put_object(&self, upload: &Upload<'_>, body: Body) -> Result<Receipt, ClientError> {
        let mut request = self.request(Method::PUT, &waiting(upload.key, upload.wait_for), body)?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(upload.size));
        for (name, value) in [(CONTENT_TYPE, upload.media_type), (CACHE_CONTROL, upload.cache_control)] {
            if let Some(value) = value {
                let value = HeaderValue::from_str(value.as_str()).map_err(|error| self.not_understood(&error))?;
                headers.insert(name, value);
            }
        }
        let response = self.send_while_moving(request).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        self.read_json(response).await
    }

    /// Sends `request`, whose body may take any time as long as it moves, and answers the head of whatever comes back.
    ///
    /// # Errors
    /// When the node does not answer, or the body fails.
    pub async fn pass_on(&self, request: Request<Body>) -> Result<Response<AnswerBody>, ClientError> {
        self.send_while_moving(request).await
    }

    /// The newest that the node knows of `key`.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn newest(&self, key: &ObjectKey) -> Result<Known, ClientError> {
        self.ask_json(Method::GET, &entry_path(key)).await
    }

    /// Fetches an object, from byte `from` on.
    ///
    /// # Errors
    /// When the node does not answer or has no such object (404).
    pub async fn get_object(&self, key: &ObjectKey, from: u64) -> Result<ObjectReply, ClientError> {
        self.fetch(&object_path(key), from).await
    }

    /// The headers of an object.
    ///
    /// # Errors
    /// When the node does not answer or has no such object (404).
    pub async fn head_object(&self, key: &ObjectKey) -> Result<HeaderMap, ClientError> {
        let response = self.ask(self.request(Method::HEAD, &object_path(key), empty())?).await?;
        Ok(response.into_parts().0.headers)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When the node does not answer or has no such object (404).
    pub async fn delete_object(&self, key: &ObjectKey) -> Result<(), ClientError> {
        self.delete_object_waiting(key, None).await.map(drop)
    }

    /// Deletes an object and waits until so many nodes know it; answers how many do.
    ///
    /// # Errors
    /// As [`Peer::delete_object`]; [`ClientError::FewerCopies`] when it is deleted, but fewer nodes know it.
    pub async fn delete_object_waiting(&self, key: &ObjectKey, wait_for: Option<WaitFor>) -> Result<u32, ClientError> {
        let answer = self.ask(self.request(Method::DELETE, &waiting(key, wait_for), empty())?).await?;
        let copies = answer.headers().get(COPIES_HEADER).and_then(|copies| copies.to_str().ok()?.parse().ok());
        // The node that answers has it in any case.
        Ok(copies.unwrap_or(1))
    }

    /// A part of the list of objects: those below `prefix` after the key `after`.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn list_objects(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Objects, ClientError> {
        let mut path = format!("{OBJECTS}?limit={limit}&prefix={}", encode_query(prefix));
        if let Some(after) = after {
            path.push_str(&format!("&after={}", encode_query(after.as_str())));
        }
        self.ask_json(Method::GET, &path).await
    }

    /// Whether the node holds the blob `hash`.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn holds_blob(&self, hash: &ContentHash) -> Result<bool, ClientError> {
        match self.ask(self.request(Method::HEAD, &blob_path(hash), empty())?).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches the blob `hash`, from byte `from` on.
    ///
    /// # Errors
    /// When the node does not answer or does not hold the blob (404).
    pub async fn blob(&self, hash: &ContentHash, from: u64) -> Result<Reader, ClientError> {
        self.fetch(&blob_path(hash), from).await.map(|reply| reply.body)
    }

    async fn fetch(&self, path: &str, from: u64) -> Result<ObjectReply, ClientError> {
        let mut request = self.request(Method::GET, path, empty())?;
        if from > 0 {
            let range = format!("bytes={from}-");
            request.headers_mut().insert(RANGE, HeaderValue::from_str(&range).map_err(|e| self.not_understood(&e))?);
        }
        let response = self.ask(request).await?;
        let expected = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if response.status() != expected {
            let reason = format!("{} to a request for bytes from {from} on", response.status());
            return Err(ClientError::NotUnderstood { address: self.address.clone(), reason });
        }
        let (head, body) = response.into_parts();
        Ok(ObjectReply { headers: head.headers, body: self.reader(body) })
    }
}

/// The path of a write to `key` that is to be answered when so many nodes have it.
fn waiting(key: &ObjectKey, wait_for: Option<WaitFor>) -> String {
    let path = object_path(key);
    wait_for.map_or_else(|| path.clone(), |wait_for| format!("{path}?wait_for={wait_for}"))
}

/// `text` as a value in a query: as in a path, where `&`, `+` and `=` are encoded, too.
pub(super) fn encode_query(text: &str) -> String {
    encode_path(text).replace('=', "%3D")
}
