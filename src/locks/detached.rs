//! Execution of an operation in a task of its own, so that its change is published even if the caller is gone.

use std::sync::Arc;
use std::time::Instant;

use tracing::{Instrument, Span};

use super::error::LockError;
use super::operations::Locks;
use super::outcome::count;
use super::shared::Shared;

impl Locks {
    pub(super) async fn run_detached<T, F>(
        &self,
        span: Span,
        operation: &'static str,
        transition: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, LockError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LockError>> + Send + 'static,
    {
        if self.0.tasks.is_closed() {
            return Err(LockError::Stopping);
        }
        let (since, work) = (Instant::now(), transition(self.0.clone()));
        // In the task, so that it counts even if the caller is gone.
        let recorded = span.clone();
        let counted = async move {
            let outcome = work.await;
            let outcome_is = count(operation, since, &outcome);
            recorded.record("apptlock.outcome", outcome_is);
            if outcome_is == "failed" {
                recorded.record("otel.status_code", "ERROR");
            }
            outcome
        };
        let task = self.0.tasks.spawn(counted.instrument(span));
        task.await.unwrap_or_else(|end| {
            let fault = Err(if end.is_panic() {
                LockError::Fault(end.to_string())
            } else {
                LockError::Stopping
            });
            count(operation, since, &fault);
            fault
        })
    }
}
