//! Bodies of requests. Owns their maximum size, that one is read into a single piece of memory, and that one which has
//! been parsed is not parsed again.
//!
//! A body that is too large or ends early is refused here; one that is not what a route expects is kept with its fault,
//! and the route's extractor refuses it.

use axum::body::{Body, Bytes, HttpBody};
use bytes::BytesMut;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::protocol::{Code, InvalidInput, Refusal, from_slice};

/// Maximum size of a body, in bytes.
pub const MAX_BODY: usize = 16 * 1024;

/// Reason why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is larger than allowed.
    TooLarge,
    /// The connection ended before the body did.
    Incomplete,
}

impl Unread {
    /// Refusal of the request. `too_large` is the message for a body over its maximum.
    pub fn refusal(self, too_large: impl Into<String>) -> Refusal {
        match self {
            Self::TooLarge => Refusal::new(Code::TooLarge, too_large),
            Self::Incomplete => {
                Refusal::new(Code::Malformed, "The body could not be read to its end")
            }
        }
    }
}

/// Reads a body into one piece of memory. A list of its chunks would take many times its size if each is one byte.
///
/// # Errors
/// [`Unread`].
pub async fn collect(mut body: Body, max: usize) -> Result<Bytes, Unread> {
    let announced = HttpBody::size_hint(&body).lower();
    if usize::try_from(announced).is_ok_and(|length| length > max) {
        return Err(Unread::TooLarge);
    }
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Incomplete)?.into_data() else {
            continue;
        };
        if collected.len() + data.len() > max {
            return Err(Unread::TooLarge);
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

/// Reads the body of a REST request, of at most [`MAX_BODY`] bytes.
///
/// # Errors
/// `TOO_LARGE`, or `MALFORMED` if it is incomplete.
pub async fn collect_rest_body(body: Body) -> Result<Bytes, Refusal> {
    collect(body, MAX_BODY)
        .await
        .map_err(|fault| fault.refusal(format!("The body is over {} KiB", MAX_BODY / 1024)))
}

/// Body of a REST request, parsed once: by `identity`, which leaves it in the request's extensions, or by the handler's
/// extractor.
#[derive(Debug, Clone)]
pub struct ParsedBody<T> {
    /// True if it had no bytes, in which case it stands for `{}`.
    pub empty: bool,
    /// Value, or the fault that the extractor answers with.
    pub outcome: Result<T, InvalidInput>,
}

impl<T: DeserializeOwned> ParsedBody<T> {
    /// Parses a body. Its content type is not looked at: the extractor checks it.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let empty = bytes.is_empty();
        Self {
            empty,
            outcome: from_slice(if empty { b"{}" } else { bytes }),
        }
    }
}
