//! Callers that bodies name. If identities are trusted, the rate limit of a request is that of the user or admin in its
//! body; with a token, it is that of the token's user, and this is not asked.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::demo::DemoSaveBody;
use super::rest::{AcquireBody, ForceReleaseBody, PositionBody, ReleaseBody, VerifyBody};
use crate::domain::ids::UserId;

/// Body of a route, as far as it names the caller.
pub trait NamesCaller: DeserializeOwned + Clone + Send + Sync + 'static {
    /// User or admin that the body names.
    fn caller(&self) -> Option<&UserId>;
}

/// Body of a route that takes none. What a client sends all the same is not refused, and may name the caller.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoBody {
    user_id: Option<UserId>,
    admin_id: Option<UserId>,
}

/// Caller that an invalid body names, if that much of it can be read.
#[must_use]
pub fn named_caller(body: &[u8]) -> Option<UserId> {
    let body: NoBody = serde_json::from_slice(body).ok()?;
    body.user_id.or(body.admin_id)
}

impl NamesCaller for NoBody {
    fn caller(&self) -> Option<&UserId> {
        self.user_id.as_ref().or(self.admin_id.as_ref())
    }
}

impl NamesCaller for AcquireBody {
    fn caller(&self) -> Option<&UserId> {
        self.user_id.as_ref()
    }
}

impl NamesCaller for ReleaseBody {
    fn caller(&self) -> Option<&UserId> {
        self.user_id.as_ref()
    }
}

impl NamesCaller for ForceReleaseBody {
    fn caller(&self) -> Option<&UserId> {
        self.user_id.as_ref().or(self.admin_id.as_ref())
    }
}

impl NamesCaller for PositionBody {
    fn caller(&self) -> Option<&UserId> {
        self.user_id.as_ref()
    }
}

impl NamesCaller for VerifyBody {
    fn caller(&self) -> Option<&UserId> {
        self.user_id.as_ref()
    }
}

impl NamesCaller for DemoSaveBody {
    fn caller(&self) -> Option<&UserId> {
        self.user_id.as_ref()
    }
}
