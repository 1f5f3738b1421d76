//! Receiving side: the desired rooms, and the connection that is subscribed to them.
//!
//! ```text
//!   connecting ── all desired rooms subscribed, confirmed ──▶ listening ── closed, failed, silent ──▶ connecting
//!                                                              │ set changed: subscribe, unsubscribe
//! ```
//!
//! Callers change a set of desired rooms, which never waits and is never full; this task applies the set to Redis. So
//! subscribe and unsubscribe of a room cannot overtake each other, and no subscription is lost. Redis answers commands
//! in order: the reply to a PING confirms that all earlier subscriptions are active.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::{Builder, ConnectHandle, Message};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::channels::{Channels, Known};
use super::link::{Link, RETRY};
use crate::bus::BusEvent;
use crate::domain::ids::RoomId;
use crate::sync::{Guard, Ordered, Rank};
use crate::telemetry::{self, LogThrottle};

/// Maximum channels in one SUBSCRIBE.
const BATCH: usize = 512;
/// Interval at which a cluster client subscribes to everything again.
const RESUBSCRIBE: Duration = Duration::from_secs(5);
/// Interval between checks of the link.
const CHECK: Duration = Duration::from_millis(100);
/// Time without a probe after which the connection is replaced.
const SILENT: Duration = Duration::from_secs(4);
/// Minimum time between log lines about the state of the link.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Throttle of the log line about unsigned messages, and of the comparisons that they cause.
static UNSIGNED: LogThrottle = LogThrottle::new();
/// Throttle of the log line about failed subscriptions.
static FAILED: LogThrottle = LogThrottle::new();
/// Throttle of the log line about messages that were dropped unread.
static LAGGED: LogThrottle = LogThrottle::new();

#[derive(Default)]
struct Desired {
    rooms: HashSet<RoomId>,
    /// True while a connection applies changes. Without one, only the set itself is kept, no changes.
    connected: bool,
    /// Rooms that changed since they were last applied, with the waiters for each.
    changed: HashMap<RoomId, Vec<oneshot::Sender<()>>>,
}

/// Rooms that this replica is to be subscribed to.
pub(super) struct DesiredSubscriptions {
    desired: Ordered<Desired>,
    changed: Notify,
}

impl Default for DesiredSubscriptions {
    fn default() -> Self {
        Self {
            desired: Ordered::new(Rank::Bus, Desired::default()),
            changed: Notify::new(),
        }
    }
}

impl DesiredSubscriptions {
    fn desired(&self) -> Guard<'_, Desired> {
        self.desired.lock()
    }

    /// Number of desired rooms.
    pub(super) fn count(&self) -> usize {
        self.desired().rooms.len()
    }

    /// Marks every desired room as changed, for a new connection.
    fn begin(&self) {
        let mut desired = self.desired();
        let desired = &mut *desired;
        desired.connected = true;
        for room in &desired.rooms {
            desired.changed.entry(room.clone()).or_default();
        }
    }

    /// Stops recording changes, and releases all waiters, because the connection is gone.
    fn end(&self) {
        let mut desired = self.desired();
        desired.connected = false;
        desired.changed.clear();
    }

    /// Adds a room. The receiver resolves once it is subscribed, or fails if the connection does.
    pub(super) fn subscribe(&self, room: &RoomId) -> oneshot::Receiver<()> {
        let (done, confirmed) = oneshot::channel();
        let mut desired = self.desired();
        desired.rooms.insert(room.clone());
        if desired.connected {
            let waiting = desired.changed.entry(room.clone()).or_default();
            waiting.retain(|waiting| !waiting.is_closed());
            waiting.push(done);
        }
        drop(desired);
        self.changed.notify_one();
        confirmed
    }

    /// Removes a room.
    pub(super) fn unsubscribe(&self, room: &RoomId) {
        let mut desired = self.desired();
        desired.rooms.remove(room);
        if desired.connected {
            desired.changed.entry(room.clone()).or_default();
        }
        drop(desired);
        self.changed.notify_one();
    }
}

pub(super) struct Subscriber {
    pub(super) builder: Builder,
    pub(super) sharded: bool,
    pub(super) replica: String,
    pub(super) channels: Known,
    pub(super) link: Arc<Link>,
    pub(super) desired: Arc<DesiredSubscriptions>,
    pub(super) to: mpsc::Sender<BusEvent>,
}

impl Subscriber {
    /// Receives until stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut log = LinkLog::default();
        let work = async {
            let channels = self.channels.clone().await;
            loop {
                match self.connect().await {
                    Ok((client, ended)) => {
                        self.listen(&client, ended, &channels, &mut log).await;
                    }
                    Err(error) => log.connection_failed(&error),
                }
                self.link.set_subscribed(false);
                self.check(&mut log).await;
                tokio::time::sleep(RETRY).await;
            }
        };
        stop.run_until_cancelled(work).await;
        metrics::gauge!(telemetry::BUS_UP).set(0.0);
        self.link.set_subscribed(false);
    }

    async fn connect(&self) -> Result<(Client, ConnectHandle), Error> {
        let client = self.builder.build()?;
        let ended = client.init().await?;
        Ok((client, ended))
    }

    /// Receives over one connection until it is closed, fails or is silent.
    async fn listen(
        &self,
        client: &Client,
        mut ended: ConnectHandle,
        channels: &Channels,
        log: &mut LinkLog,
    ) {
        let mut messages = client.message_rx();
        let mut subscribed = HashSet::new();
        let since = Instant::now();
        self.desired.begin();
        let apply = async {
            let alive = || vec![channels.alive().to_owned()];
            self.subscribe(client, alive()).await?;
            loop {
                self.apply(client, channels, &mut subscribed).await?;
                self.link.set_subscribed(true);
                tokio::select! {
                    () = self.desired.changed.notified() => {}
                    // A slot that migrates drops the subscriptions of its channels silently.
                    () = tokio::time::sleep(RESUBSCRIBE), if self.sharded => {
                        subscribed.clear();
                        self.desired.begin();
                        self.subscribe(client, alive()).await?;
                        self.apply(client, channels, &mut subscribed).await?;
                        let _ = self.to.send(BusEvent::Gap).await;
                    }
                }
            }
        };
        let receive = async { while self.deliver(messages.recv().await, channels).await {} };
        let check = async {
            loop {
                tokio::time::sleep(CHECK).await;
                self.check(log).await;
                if since.elapsed() > SILENT && self.link.silence() > SILENT {
                    return;
                }
            }
        };
        tokio::select! {
            outcome = &mut ended => debug!(?outcome, "the subscriber's connection was closed"),
            outcome = apply => {
                let outcome: Result<(), Error> = outcome;
                if let Err(error) = outcome {
                    match FAILED.allow() {
                        Some(hidden) => {
                            warn!(%error, hidden, "could not subscribe on Redis; retrying on a new connection");
                        }
                        None => debug!(%error, "could not subscribe on Redis"),
                    }
                }
            }
            () = receive => {}
            () = check => debug!("the subscriber's connection is silent"),
        }
        self.desired.end();
        // Aborting the task closes its socket in any state.
        ended.abort();
    }

    /// Subscribes and unsubscribes what changed in the set of desired rooms.
    async fn apply(
        &self,
        client: &Client,
        named: &Channels,
        subscribed: &mut HashSet<RoomId>,
    ) -> Result<(), Error> {
        let (mut joining, mut leaving, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        {
            let mut desired = self.desired.desired();
            for (room, waits) in std::mem::take(&mut desired.changed) {
                waiting.extend(waits);
                match (desired.rooms.contains(&room), subscribed.contains(&room)) {
                    (true, false) => joining.push(room),
                    (false, true) => leaving.push(room),
                    _ => {}
                }
            }
        }
        for rooms in leaving.chunks(BATCH) {
            for channels in self.commands(named, rooms) {
                if self.sharded {
                    client.sunsubscribe(channels).await?;
                } else {
                    client.unsubscribe(channels).await?;
                }
            }
        }
        for rooms in joining.chunks(BATCH) {
            for channels in self.commands(named, rooms) {
                self.subscribe(client, channels).await?;
            }
        }
        if !joining.is_empty() {
            client.ping::<()>(None).await?;
        }
        for room in leaving {
            subscribed.remove(&room);
        }
        subscribed.extend(joining);
        for done in waiting {
            // The waiter may have timed out.
            let _ = done.send(());
        }
        Ok(())
    }

    async fn subscribe(&self, client: &Client, channels: Vec<String>) -> Result<(), Error> {
        if self.sharded {
            client.ssubscribe(channels).await
        } else {
            client.subscribe(channels).await
        }
    }

    /// Channels grouped into commands: on a cluster all channels of a command must share a slot.
    fn commands(&self, named: &Channels, rooms: &[RoomId]) -> Vec<Vec<String>> {
        let mut channels: Vec<String> = rooms.iter().map(|room| named.room(room)).collect();
        if !self.sharded {
            return vec![channels];
        }
        channels.sort_unstable();
        let tag = |channel: &str| channel.split('}').next().map(str::to_owned);
        channels
            .chunk_by(|a, b| tag(a) == tag(b))
            .map(<[String]>::to_vec)
            .collect()
    }

    /// Delivers a received message. A slow replica blocks only this task; messages that fred drops meanwhile are a gap.
    /// False once there is nothing more to receive.
    async fn deliver(&self, received: Result<Message, RecvError>, channels: &Channels) -> bool {
        let event = match received {
            Ok(message) => {
                let Some(bytes) = message.value.into_bytes() else {
                    return true;
                };
                let signer = channels.signer();
                if message.channel != channels.alive() {
                    match signer.verify(&bytes) {
                        Some(message) => BusEvent::Message(message.into()),
                        None => return self.reject_unsigned().await,
                    }
                } else {
                    let text = String::from_utf8_lossy(&bytes);
                    let Some(probe) = signer.verify_text(&text) else {
                        return self.reject_unsigned().await;
                    };
                    match self.link.heard(probe, &self.replica) {
                        Some(other) => BusEvent::Alive(other),
                        None => return true,
                    }
                }
            }
            Err(RecvError::Lagged(missed)) => {
                if let Some(hidden) = LAGGED.allow() {
                    warn!(
                        missed,
                        hidden,
                        "messages from Redis were dropped, because this replica reads them too slowly; comparing with PostgreSQL"
                    );
                }
                metrics::counter!(telemetry::BUS_GAPS).increment(1);
                BusEvent::Gap
            }
            Err(RecvError::Closed) => return false,
        };
        self.to.send(event).await.is_ok()
    }

    /// Rejects a message without a valid signature: a forged one, or one of a release without signatures. All rooms are
    /// compared instead, at most once a second.
    async fn reject_unsigned(&self) -> bool {
        metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => "unsigned").increment(1);
        let Some(hidden) = UNSIGNED.allow() else {
            return true;
        };
        warn!(
            hidden,
            "a message on Redis is not signed by this installation; comparing with PostgreSQL instead"
        );
        self.to.send(BusEvent::Gap).await.is_ok()
    }

    /// Reports a link that went up or down. In both cases messages may have been missed, here or on other replicas.
    async fn check(&self, log: &mut LinkLog) {
        let up = self.link.is_up();
        let changed = log.changed(up);
        log.write(self.desired.count());
        if !changed {
            return;
        }
        metrics::gauge!(telemetry::BUS_UP).set(if up { 1.0 } else { 0.0 });
        if up {
            metrics::counter!(telemetry::BUS_GAPS).increment(1);
        } else {
            self.link.note_unsent();
        }
        let _ = self.to.send(BusEvent::Gap).await;
    }
}

/// Log lines about the link, at most one in [`LOG_INTERVAL`]. If it changes faster, the line about its last state comes
/// late, so that the log never ends with a state that is over.
#[derive(Default)]
struct LinkLog {
    up: bool,
    /// Changes that are not in the log yet.
    unlogged: u64,
    logged_up: bool,
    logged_at: Option<Instant>,
    /// True if the log says that Redis is unavailable: connection failures are debug lines then.
    warned: bool,
}

impl LinkLog {
    /// Records the state of the link. True if it changed.
    fn changed(&mut self, up: bool) -> bool {
        let changed = self.up != up;
        self.up = up;
        self.unlogged += u64::from(changed);
        changed
    }

    /// Writes a line if the log does not have the current state yet, and a line is due.
    fn write(&mut self, rooms: usize) {
        let due = self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if self.up == self.logged_up || !due {
            return;
        }
        let hidden = self.unlogged.saturating_sub(1);
        self.unlogged = 0;
        self.logged_up = self.up;
        self.logged_at = Some(Instant::now());
        self.warned = !self.up;
        if self.up {
            info!(rooms, hidden, "Redis is connected");
        } else {
            warn!(
                hidden,
                "Redis is unavailable; locks continue, other replicas' changes are read from PostgreSQL"
            );
        }
    }

    fn connection_failed(&mut self, error: &Error) {
        if self.warned {
            debug!(%error, "still could not connect to Redis for subscribing");
        } else {
            self.warned = true;
            warn!(%error, "could not connect to Redis for subscribing; retrying");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_link_is_logged_once_an_interval_and_its_last_state_always() {
        let mut log = LinkLog::default();
        log.write(0);
        assert!(log.logged_at.is_none(), "nothing has changed");
        assert!(log.changed(true) && !log.changed(true));
        log.write(1);
        assert!(log.logged_up);
        for up in [false, true, false] {
            assert!(log.changed(up));
            log.write(1);
        }
        assert!(log.logged_up, "too soon");
        assert_eq!(log.unlogged, 3);
        log.logged_at = log.logged_at.map(|at| at - LOG_INTERVAL);
        log.write(1);
        assert!(!log.logged_up && log.warned);
        assert_eq!(log.unlogged, 0);
    }
}
