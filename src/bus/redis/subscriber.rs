//! What this end hears: the rooms it wants, and the connection that has subscribed to them.
//!
//! ```text
//!   connecting ── all desired rooms subscribed, confirmed ──▶ listening ── ended, failed, silent ──▶ connecting
//!                                                              │ changed set: subscribe, unsubscribe
//! ```
//!
//! Rooms say what they want by changing a set, which never waits and is never full; this task makes Redis
//! follow it. So subscribe and unsubscribe of a room cannot overtake each other, and a subscription cannot be lost.
//! Redis confirms in the order of commands: a PING that is answered says that what was subscribed before it
//! is in force.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::{Builder, ConnectHandle, Message};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::channels::{Channels, Known};
use super::link::{Link, RETRY};
use crate::bus::BusEvent;
use crate::domain::ids::RoomId;
use crate::sync::{Guard, Ordered, Rank};
use crate::telemetry::{self, LogThrottle};

/// Channels in one SUBSCRIBE; centrifuge found 512 a good batch.
const BATCH: usize = 512;
/// On a cluster, how often everything is subscribed anew.
const AFRESH: Duration = Duration::from_secs(5);
/// How often the link is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// After this long without a probe the connection is given up for another one.
const SILENT: Duration = Duration::from_secs(4);

/// Lines about messages that are not signed, and comparisons for their sake.
static UNSIGNED: LogThrottle = LogThrottle::new();

#[derive(Default)]
struct Desired {
    rooms: HashSet<RoomId>,
    /// Whether a connection follows. While none does, only what is desired counts, not how it came to be.
    followed: bool,
    /// Rooms whose subscription may have changed since the subscriber looked, and who waits for them.
    changed: HashMap<RoomId, Vec<oneshot::Sender<()>>>,
}

/// The rooms that this end wants.
pub(super) struct DesiredSubscriptions {
    desired: Ordered<Desired>,
    something: Notify,
}

impl Default for DesiredSubscriptions {
    fn default() -> Self {
        Self {
            desired: Ordered::new(Rank::Bus, Desired::default()),
            something: Notify::new(),
        }
    }
}

impl DesiredSubscriptions {
    fn desired(&self) -> Guard<'_, Desired> {
        self.desired.lock()
    }

    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.desired().rooms.len()
    }

    /// A connection begins to follow: all that is desired is news to it.
    fn begin(&self) {
        let mut desired = self.desired();
        let desired = &mut *desired;
        desired.followed = true;
        for room in &desired.rooms {
            desired.changed.entry(room.clone()).or_default();
        }
    }

    /// No connection follows any more. Whoever waits for one goes on without.
    fn end(&self) {
        let mut desired = self.desired();
        desired.followed = false;
        desired.changed.clear();
    }

    /// Wants a room. What is handed back resolves when it is subscribed, or fails when that went wrong.
    pub(super) fn subscribe(&self, room: &RoomId) -> oneshot::Receiver<()> {
        let (done, confirmed) = oneshot::channel();
        let mut desired = self.desired();
        desired.rooms.insert(room.clone());
        if desired.followed {
            let waiting = desired.changed.entry(room.clone()).or_default();
            waiting.retain(|waiting| !waiting.is_closed());
            waiting.push(done);
        }
        drop(desired);
        self.something.notify_one();
        confirmed
    }

    /// No longer wants a room.
    pub(super) fn unsubscribe(&self, room: &RoomId) {
        let mut desired = self.desired();
        desired.rooms.remove(room);
        if desired.followed {
            desired.changed.entry(room.clone()).or_default();
        }
        drop(desired);
        self.something.notify_one();
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
    /// Listens until stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut told = Told::default();
        let work = async {
            let channels = self.channels.clone().await;
            loop {
                match self.connect().await {
                    Ok((client, ended)) => {
                        self.listen(&client, ended, &channels, &mut told).await;
                    }
                    Err(error) => told.away(&error),
                }
                self.link.set_subscribed(false);
                self.look(&mut told).await;
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

    /// Listens over one connection until that is of no use any more.
    async fn listen(
        &self,
        client: &Client,
        mut ended: ConnectHandle,
        channels: &Channels,
        told: &mut Told,
    ) {
        let mut messages = client.message_rx();
        let mut subscribed = HashSet::new();
        let since = tokio::time::Instant::now();
        self.desired.begin();
        let follow = async {
            let alive = || vec![channels.alive().to_owned()];
            self.subscribe(client, alive()).await?;
            loop {
                self.follow(client, channels, &mut subscribed).await?;
                self.link.set_subscribed(true);
                tokio::select! {
                    () = self.desired.something.notified() => {}
                    // A slot that moves ends the subscriptions of its rooms without a word.
                    () = tokio::time::sleep(AFRESH), if self.sharded => {
                        subscribed.clear();
                        self.desired.begin();
                        self.subscribe(client, alive()).await?;
                        self.follow(client, channels, &mut subscribed).await?;
                        let _ = self.to.send(BusEvent::Gap).await;
                    }
                }
            }
        };
        let hear = async { while self.hear(messages.recv().await, channels).await {} };
        let look = async {
            loop {
                tokio::time::sleep(LOOK).await;
                self.look(told).await;
                if since.elapsed() > SILENT && self.link.silence() > SILENT {
                    return;
                }
            }
        };
        tokio::select! {
            outcome = &mut ended => debug!(?outcome, "the connection for subscribing ended"),
            outcome = follow => {
                let outcome: Result<(), Error> = outcome;
                if let Err(error) = outcome {
                    warn!(%error, "could not subscribe; trying on another connection");
                }
            }
            () = hear => {}
            () = look => debug!("the connection for subscribing is silent"),
        }
        self.desired.end();
        // Its socket ends with its task, whatever state it is in.
        ended.abort();
    }

    /// Makes Redis follow what is desired now.
    async fn follow(
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
            // Whoever gave up waiting has gone on without.
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

    /// The channels of one command each: on a cluster all of a command must lie in one slot.
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

    /// Hands over what is heard. A slow replica slows only this; what fred drops meanwhile is a gap. False
    /// where there is nothing more to hear.
    async fn hear(&self, heard: Result<Message, RecvError>, channels: &Channels) -> bool {
        let event = match heard {
            Ok(message) => {
                let Some(bytes) = message.value.into_bytes() else {
                    return true;
                };
                let signer = channels.signer();
                if message.channel != channels.alive() {
                    match signer.verify(&bytes) {
                        Some(message) => BusEvent::Message(message.into()),
                        None => return self.distrust().await,
                    }
                } else {
                    let text = String::from_utf8_lossy(&bytes);
                    let Some(probe) = signer.verify_text(&text) else {
                        return self.distrust().await;
                    };
                    match self.link.heard(probe, &self.replica) {
                        Some(other) => BusEvent::Alive(other),
                        None => return true,
                    }
                }
            }
            Err(RecvError::Lagged(missed)) => {
                warn!(
                    missed,
                    "this replica reads the bus too slowly; comparing with PostgreSQL"
                );
                metrics::counter!(telemetry::BUS_GAPS).increment(1);
                BusEvent::Gap
            }
            Err(RecvError::Closed) => return false,
        };
        self.to.send(event).await.is_ok()
    }

    /// A message that no replica of this installation has signed: a forged one, or one of a release that did not sign
    /// yet. It is not believed, and its room is compared, with all others, at most once a second.
    async fn distrust(&self) -> bool {
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

    /// Says where the link has come or gone: either way something may have been missed, here or there.
    async fn look(&self, told: &mut Told) {
        let up = self.link.is_up();
        if told.up == up {
            return;
        }
        told.up = up;
        metrics::gauge!(telemetry::BUS_UP).set(if up { 1.0 } else { 0.0 });
        if up {
            told.warned = false;
            info!(rooms = self.desired.count(), "Redis is there");
            metrics::counter!(telemetry::BUS_GAPS).increment(1);
        } else {
            told.warned = true;
            warn!("Redis is away; locks go on, other replicas' changes come from PostgreSQL");
            self.link.note_unsent();
        }
        let _ = self.to.send(BusEvent::Gap).await;
    }
}

/// What was said of the link last.
#[derive(Default)]
struct Told {
    up: bool,
    warned: bool,
}

impl Told {
    fn away(&mut self, error: &Error) {
        if self.warned {
            debug!(%error, "Redis is still not there for subscribing");
        } else {
            self.warned = true;
            warn!(%error, "Redis is not there for subscribing; trying until it is");
        }
    }
}
