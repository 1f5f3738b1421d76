//! Refusals: each reason for which a request is not granted, as a code, a message and, in a conflict, the holder's lock.
//! The codes are part of the contract; each has one HTTP status.

use serde::{Deserialize, Serialize};

use super::lock::Lock;

/// Machine-readable code of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// Somebody else holds the lock.
    LockHeld,
    /// The same user holds the lock in another tab.
    HeldByYou,
    /// Nobody holds the lock.
    NotLocked,
    /// Somebody else than the caller holds the lock.
    NotHolder,
    /// Only an admin may do this.
    NotAdmin,
    /// The fencing token is not that of the lease in force.
    StaleToken,
    /// No identity, or an invalid one.
    Unauthenticated,
    /// The body names somebody other than the identity.
    IdentityMismatch,
    /// Not JSON, or not UTF-8.
    Malformed,
    /// JSON with an invalid field, which the message names.
    Invalid,
    /// No such route.
    NotFound,
    /// The route does not have this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body is over 16 KiB.
    TooLarge,
    /// The body's content type is not JSON.
    UnsupportedMediaType,
    /// This socket has not subscribed to that appointment.
    NotSubscribed,
    /// Too many requests; try again later.
    RateLimited,
    /// Too many sockets, or too many subscriptions of one socket.
    LimitExceeded,
    /// The page's origin may not use this service.
    OriginNotAllowed,
    /// The `Host` of the request is not a name of this service.
    HostNotAllowed,
    /// The database is unavailable, or did not answer in time; try again.
    Unavailable,
    /// Internal error: always a bug of this service.
    Internal,
}

impl Code {
    /// HTTP status of this code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::NotHolder
            | Self::NotAdmin
            | Self::IdentityMismatch
            | Self::NotSubscribed
            | Self::OriginNotAllowed
            | Self::HostNotAllowed => 403,
            Self::NotLocked | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::LockHeld | Self::HeldByYou | Self::StaleToken => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::RateLimited | Self::LimitExceeded => 429,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// Seconds that a client should wait before it tries again, if that can help.
    #[must_use]
    pub fn retry_after(self) -> Option<u32> {
        matches!(
            self,
            Self::Unavailable | Self::RateLimited | Self::LimitExceeded
        )
        .then_some(1)
    }
}

/// Request that was not granted: one line that says what is wrong and how to fix it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Refusal {
    /// Machine-readable code.
    pub code: Code,
    /// Human-readable message.
    pub message: String,
    /// Conflicting lease.
    pub lock: Option<Box<Lock>>,
}

impl Refusal {
    /// Refusal without a lock.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            lock: None,
        }
    }

    /// Refusal because of a conflicting lock.
    #[must_use]
    pub fn conflict(code: Code, message: impl Into<String>, lock: Option<Lock>) -> Self {
        Self {
            code,
            message: message.into(),
            lock: lock.map(Box::new),
        }
    }

    /// Refusal of a well-formed request with an invalid field.
    #[must_use]
    pub fn invalid(field: &str, fault: impl std::fmt::Display) -> Self {
        Self::new(Code::Invalid, format!("{field}: {fault}"))
    }
}
