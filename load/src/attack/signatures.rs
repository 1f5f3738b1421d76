//! The attack with forged tokens: header and claims are right, the signature is not, and each is another one, so that
//! each has to be checked. A connection that the server ends is opened again, within a pace.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Target;
use super::tokens;
use super::wire::{self, Pace};
use crate::client::Connection;

/// Requests a second of two connections, at most: of sixteen 600.
const REQUESTS_OF_TWO: u32 = 75;
/// Connections a second that are opened again, at most.
const RECONNECTS: u32 = 500;
/// Time limit of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Attacks until it is dropped.
pub(crate) async fn run(target: Arc<Target>, _until: Instant) -> Vec<String> {
    let requests = Arc::new(Pace::per_second(
        u32::from(target.forgers) * REQUESTS_OF_TWO / 2,
    ));
    let reconnects = Arc::new(Pace::per_second(RECONNECTS));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..target.forgers {
        let (target, requests, reconnects) = (target.clone(), requests.clone(), reconnects.clone());
        tasks.spawn(async move {
            loop {
                reconnects.turn().await;
                if let Err(error) = forge(&target, &requests).await {
                    target.tally.saw(error.kind());
                }
            }
        });
    }
    tasks.join_all().await;
    Vec::new()
}

async fn forge(target: &Target, pace: &Pace) -> io::Result<()> {
    let stream = wire::dial(target.address, &target.tally).await?;
    let mut connection = Connection::over(stream);
    loop {
        pace.turn().await;
        let token = tokens::forged(&target.unsigned);
        let ask = wire::get(
            "/api/appointments/attack-0/lock-status",
            &format!("authorization: Bearer {token}\r\n"),
        );
        target.tally.requests(1);
        let (status, _) = timeout(PATIENCE, connection.ask(&ask)).await??;
        target.tally.saw(status);
    }
}
