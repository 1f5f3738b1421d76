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
    /// Whether the `traceparent` of a caller decides about sampling.
    pub trust_callers: bool,
    /// Whether any pages are served.
    pub pages: bool,
    /// Whether the demo page is served at `/`.
    pub demo: bool,
}
