//! Services that the handlers of REST share.

use std::sync::Arc;

use crate::auth::Auth;
use crate::limits::Limits;
use crate::locks::Locks;
use crate::store::Store;

/// State of the handlers.
#[derive(Clone)]
pub struct Web {
    /// Operations on locks.
    pub locks: Locks,
    /// Database, for routes that only read.
    pub store: Store,
    /// Source of identities.
    pub auth: Auth,
    /// Rate limits.
    pub limits: Arc<Limits>,
    /// True if the caller's `traceparent` decides about sampling.
    pub trust_callers: bool,
    /// True if pages are served.
    pub pages: bool,
    /// True if the demo page is served at `/`.
    pub demo: bool,
}
