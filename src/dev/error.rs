//! Reasons for a temporary server not to start.

use std::io;
use std::time::Duration;

/// Maximum time from a server's start to its first answer.
pub(super) const START: Duration = Duration::from_secs(30);

/// Reasons for a server not to start.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A program that is not installed.
    #[error("{program} was not found: {fix}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Advice on installing it.
        fix: &'static str,
    },
    /// An installed program that did not start.
    #[error("{what} did not start: {why}")]
    Failed {
        /// The step that failed.
        what: &'static str,
        /// Its last message.
        why: String,
    },
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}
