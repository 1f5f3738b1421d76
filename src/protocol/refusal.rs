//! Refusals: every way in which a request can end without its wish, as a code, a sentence and, in a
//! conflict, the holder's lock. The codes are the contract; the HTTP status belongs to the code.

use serde::{Deserialize, Serialize};

use super::lock::Lock;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// Somebody else holds the lock.
    LockHeld,
    /// The same user holds it in another tab.
    HeldByYou,
    /// Nobody holds the lock.
    NotLocked,
    /// Somebody holds it, but not the one who asks.
    NotHolder,
    /// Only an admin may do this.
    NotAdmin,
    /// The fencing token is not that of the lease in force.
    StaleToken,
    /// No identity, or a bad one.
    Unauthenticated,
    /// The body names somebody other than the identity.
    IdentityMismatch,
    /// Not JSON, or not UTF-8.
    Malformed,
    /// JSON, but not what was expected; the message names the field.
    Invalid,
    /// No such route.
    NotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body is over 16 KiB.
    TooLarge,
    /// The body's type is not JSON.
    UnsupportedMediaType,
    /// This socket has not subscribed to that appointment.
    NotSubscribed,
    /// Too much at once; try again later.
    RateLimited,
    /// As many as there may be: sockets, or subscriptions of one.
    LimitExceeded,
    /// A page of an origin that may not use this.
    OriginNotAllowed,
    /// A request to a name that this service may not be called by.
    HostNotAllowed,
    /// The database is away, or did not answer in time; try again.
    Unavailable,
    /// A fault of ours. Nothing earns it; if it is seen, it is a bug.
    Internal,
}

impl Code {
    /// The HTTP status that goes with it.
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

    /// How long a client should wait before it tries again, in seconds, where trying again helps.
    #[must_use]
    pub fn retry_after(self) -> Option<u32> {
        matches!(
            self,
            Self::Unavailable | Self::RateLimited | Self::LimitExceeded
        )
        .then_some(1)
    }
}

/// A wish that was not granted: one line that names the fault and the mend.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
    /// In a conflict: the lease that stands in the way.
    pub lock: Option<Box<Lock>>,
}

impl Refusal {
    /// A refusal without a lock.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            lock: None,
        }
    }

    /// A conflict, with the lock that stands in the way.
    #[must_use]
    pub fn conflict(code: Code, message: impl Into<String>, lock: Option<Lock>) -> Self {
        Self {
            code,
            message: message.into(),
            lock: lock.map(Box::new),
        }
    }

    /// A well-formed request with a bad field.
    #[must_use]
    pub fn invalid(field: &str, fault: impl std::fmt::Display) -> Self {
        Self::new(Code::Invalid, format!("{field}: {fault}"))
    }
}
