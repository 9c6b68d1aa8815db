//! What becomes of an answer: passed as it is, coded, decoded, or a variant that is kept.

use http::header::{CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::head::Form;
use super::{Accepted, Coding, Codings, Config, MediaPattern, list};

/// A signature over fields that change with the coding would not fit any more (RFC 9421).
const SIGNATURE: HeaderName = HeaderName::from_static("signature-input");

/// An answer before anything is done to it, as the origin or the store gives it.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// Its size, in bytes, if that is known.
    pub size_bytes: Option<u64>,
    /// Whether a shared cache may use it for everybody: what may not is personal.
    pub is_shared: bool,
}

/// What may become of an answer, whoever asks for it: it can be told once for all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// It is sent as it is.
    Fixed,
    /// It has no coding, and may be coded.
    Plain,
    /// It has a coding, which may be taken off.
    Coded(Coding),
}

/// What a request says that matters to codings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// What it accepts.
    pub accepted: Accepted,
    /// Whether it forbids transformation (RFC 9111 section 5.2.1.6).
    pub forbids: bool,
    /// Whether it asks for a part (RFC 9110 section 14.2: by GET alone).
    pub is_range: bool,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// It is sent as it is.
    AsIs,
    /// The variant that is kept is sent; conditions and ranges are those of the variant.
    Kept(Coding),
    /// It is coded on the way.
    Encode(Coding),
    /// Its coding is taken off on the way.
    Decode(Coding),
}

/// Why an answer is never coded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No coding is configured.
    #[error("compression is off")]
    Off,
    /// It has a coding already.
    #[error("it is coded already")]
    Coded,
    /// It is a part, has no content, or is no answer that people see.
    #[error("its status is {0}")]
    Status(StatusCode),
    /// The origin forbids it (RFC 9110 section 7.7).
    #[error("the origin allows no transformation")]
    NoTransform,
    /// It is signed with its coding (RFC 9421).
    #[error("it is signed")]
    Signed,
    /// It is for one user alone: see [`Config::personal`].
    #[error("it is personal")]
    Personal,
    /// It would hardly get smaller.
    #[error("its media type is not one that is compressed")]
    MediaType,
    /// It is too small or too large.
    #[error("it has {0} bytes")]
    Size(u64),
}

impl Config {
    /// What may become of an answer. The coding is not taken off from a part, nor where the origin forbids
    /// transformation, or has signed it; without codings in the configuration nothing is done to any.
    pub fn nature(&self, answer: &Answer<'_>) -> Nature {
        let Answer { status, headers, .. } = *answer;
        match Form::of(headers) {
            Form::Coded(coding) => {
                let is_part = status == StatusCode::PARTIAL_CONTENT || headers.contains_key(CONTENT_RANGE);
                let is_fixed = list::has(headers, &CACHE_CONTROL, "no-transform") || headers.contains_key(SIGNATURE);
                if is_part || is_fixed || self.codings.is_empty() { Nature::Fixed } else { Nature::Coded(coding) }
            }
            Form::Plain if self.judge(answer).is_ok() => Nature::Plain,
            Form::Plain | Form::Foreign => Nature::Fixed,
        }
    }

    /// Whether an answer may be coded at all.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, answer: &Answer<'_>) -> Result<(), Unfit> {
        let Answer { status, headers, .. } = *answer;
        if self.codings.is_empty() {
            return Err(Unfit::Off);
        }
        if Form::of(headers) != Form::Plain {
            return Err(Unfit::Coded);
        }
        // A part of an answer cannot be coded: its range is one of the whole (RFC 9110 section 14.4).
        let is_whole = status.is_client_error() || status.is_server_error() || matches!(status.as_u16(), 200 | 203);
        if !is_whole || headers.contains_key(CONTENT_RANGE) {
            return Err(Unfit::Status(status));
        }
        if list::has(headers, &CACHE_CONTROL, "no-transform") {
            return Err(Unfit::NoTransform);
        }
        if headers.contains_key(SIGNATURE) {
            return Err(Unfit::Signed);
        }
        if !self.personal && (!answer.is_shared || headers.contains_key(SET_COOKIE)) {
            return Err(Unfit::Personal);
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_listed = |patterns: &[MediaPattern]| MediaPattern::any_matches(patterns, content_type);
        if !is_listed(&self.media_types) || is_listed(&self.media_types_except) {
            return Err(Unfit::MediaType);
        }
        match answer.size_bytes {
            Some(size) if !(self.size_bytes_min..=self.size_bytes_max).contains(&size) => Err(Unfit::Size(size)),
            _ => Ok(()),
        }
    }
}

impl Wish {
    /// What a request with `method` and `headers` says; among codings that it likes equally those in `preference` come
    /// first.
    pub fn of(method: &Method, headers: &HeaderMap, preference: &[Coding]) -> Self {
        Self::accepting(Accepted::of(headers, preference), method, headers)
    }

    /// As [`Wish::of`], for a request of which it is known what it accepts.
    pub fn accepting(accepted: Accepted, method: &Method, headers: &HeaderMap) -> Self {
        Self {
            accepted,
            forbids: list::has(headers, &CACHE_CONTROL, "no-transform"),
            is_range: method == Method::GET && headers.contains_key(RANGE),
        }
    }

    /// The `Accept-Encoding` with which an origin is asked for what this request with `headers` wants. A part of a coding
    /// is of no use but to those who have some of it.
    pub fn ask(&self, headers: &HeaderMap) -> HeaderValue {
        let is_first_part = self.is_range && !headers.contains_key(IF_RANGE);
        if is_first_part { Accepted::UNCODED_ONLY.ask() } else { self.accepted.ask() }
    }
}

impl Nature {
    /// Whether the answer depends on `Accept-Encoding`, whatever becomes of it for one request:
    /// [`vary`](super::head::vary) says so in it.
    pub const fn varies(self) -> bool {
        !matches!(self, Self::Fixed)
    }

    /// What becomes of the answer for a request that says `wish`, where `made` can be made and `kept` are there.
    ///
    /// - What the origin has coded is passed to whom it fits; its coding is taken off for others. Nothing is coded
    ///   twice.
    /// - HEAD is planned as GET is: its fields are the same, and nothing is coded for it.
    /// - A range is one of the variant that is kept, if there is one that is accepted, and of the uncoded answer
    ///   otherwise: what is coded while it is sent has no ranges.
    /// - A request that forbids transformation gets the answer as it is.
    pub fn plan(self, wish: &Wish, made: Codings, kept: Codings) -> Plan {
        let Wish { accepted, forbids, is_range } = *wish;
        match self {
            Self::Fixed => Plan::AsIs,
            _ if forbids => Plan::AsIs,
            Self::Coded(coding) if accepted.accepts(Some(coding)) || !accepted.accepts(None) => Plan::AsIs,
            Self::Coded(coding) => Plan::Decode(coding),
            Self::Plain => match accepted.choose(if is_range { kept } else { kept.union(made) }) {
                None => Plan::AsIs,
                Some(coding) if kept.contains(coding) => Plan::Kept(coding),
                Some(coding) => Plan::Encode(coding),
            },
        }
    }
}

#[cfg(test)]
mod tests;
