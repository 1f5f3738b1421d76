//! The bus over Redis pub/sub: one channel per room; sharded channels on a cluster. The only place with fred.
//!
//! ```text
//!   publish ──▶ queue ──▶ publisher ──▶ Redis ──▶ reader ──▶ BusEvent::Message
//!   subscribe ─▶ queue ──▶ subscriber ─▶ Redis      └ lagged ─▶ BusEvent::Gap
//!                             └ connected again ─▶ all wanted rooms, in batches ─▶ BusEvent::Gap
//! ```
//!
//! Who decides: one task owns the set of wanted rooms and talks to the subscribing connection, so that
//! subscribe and unsubscribe of a room never overtake each other. On failure: Redis away at the start, or
//! later, is waited for in the background; meanwhile messages are counted and dropped.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::{Config, ReconnectPolicy, TcpConfig};
use fred::types::{Builder, RespVersion};
use fred::util::redis_keyslot;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{Bus, BusEvent, Subscribing};
use crate::config::{BadSetting, Secret};
use crate::domain::ids::RoomId;
use crate::telemetry;

/// Messages that wait to be published; beyond that they are dropped and counted.
const OUT_QUEUE: usize = 8192;
/// Messages that wait to be read, in fred and towards the replica.
const IN_QUEUE: usize = 8192;
/// Subscriptions that wait to be sent.
const WISH_QUEUE: usize = 65_536;
/// Channels in one SUBSCRIBE; centrifuge found 512 a good batch.
const BATCH: usize = 512;
/// Messages published in one go.
const PIPELINE: usize = 128;
/// How long a command may take, and how long a subscriber waits for its room's channel.
const PATIENCE: Duration = Duration::from_secs(2);
/// Partitions of the rooms over a cluster's slots.
const PARTITIONS: u16 = 256;

/// What a `REDIS_URL` may start with.
const SCHEMES: [&str; 6] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
];

enum Wish {
    Subscribe(RoomId, oneshot::Sender<()>),
    Unsubscribe(RoomId),
}

/// One replica's end of Redis.
pub struct RedisBus {
    out: mpsc::Sender<(RoomId, Bytes)>,
    wishes: mpsc::Sender<Wish>,
    up: Arc<AtomicBool>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The channel of a room. The tag in braces decides the slot on a cluster; 256 of them keep slots even.
fn channel(room: &RoomId) -> String {
    let name = room.name();
    format!(
        "apptlock:{{p{}}}:{name}",
        redis_keyslot(name.as_bytes()) % PARTITIONS
    )
}

impl RedisBus {
    /// Starts towards that Redis, and hands back what is heard. Redis need not be there yet.
    ///
    /// # Errors
    /// [`BadSetting`] where `REDIS_URL` cannot be read; its text, which may hold a password, is not in it.
    pub fn start(url: &Secret) -> Result<(Self, mpsc::Receiver<BusEvent>), BadSetting> {
        let bad = || {
            BadSetting::new(
                "REDIS_URL",
                "is not the URL of a Redis",
                "write redis://host:6379, or rediss://, redis-sentinel:// or redis-cluster://",
            )
        };
        // fred would take any scheme for a standalone Redis.
        let scheme = url.expose().split("://").next().unwrap_or_default();
        if !SCHEMES.contains(&scheme) {
            return Err(bad());
        }
        let mut config = Config::from_url(url.expose()).map_err(|_| bad())?;
        config.version = RespVersion::RESP3;
        let sharded = config.server.is_clustered();
        let mut builder = Builder::from_config(config);
        builder
            .with_performance_config(|performance| {
                performance.broadcast_channel_capacity = IN_QUEUE;
                performance.default_command_timeout = PATIENCE;
            })
            .with_connection_config(|connection| {
                connection.connection_timeout = PATIENCE;
                connection.internal_command_timeout = PATIENCE;
                connection.max_command_attempts = 1;
                connection.max_command_buffer_len = OUT_QUEUE;
                connection.tcp = TcpConfig {
                    nodelay: Some(true),
                    ..TcpConfig::default()
                };
                connection.unresponsive.max_timeout = Some(2 * PATIENCE);
            })
            .set_policy(ReconnectPolicy::new_exponential(0, 100, 1000, 2));
        let publisher = builder.build().map_err(|_| bad())?;
        let subscriber = builder.build().map_err(|_| bad())?;

        metrics::gauge!(telemetry::BUS_UP).set(0.0);
        let (out, to_publish) = mpsc::channel(OUT_QUEUE);
        let (wishes, wished) = mpsc::channel(WISH_QUEUE);
        let (to, events) = mpsc::channel(IN_QUEUE);
        let bus = Self {
            out,
            wishes,
            up: Arc::new(AtomicBool::new(false)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        bus.tasks
            .spawn(publish(publisher, to_publish, sharded, bus.stop.clone()));
        bus.tasks
            .spawn(read(subscriber.clone(), to.clone(), bus.stop.clone()));
        let subscriptions = Subscriptions {
            client: subscriber,
            wanted: HashSet::new(),
            sharded,
            up: bus.up.clone(),
            to,
        };
        bus.tasks.spawn(subscriptions.run(wished, bus.stop.clone()));
        bus.tasks.close();
        Ok((bus, events))
    }
}

impl Bus for RedisBus {
    fn publish(&self, room: &RoomId, message: Bytes) {
        if self.out.try_send((room.clone(), message)).is_err() {
            metrics::counter!(telemetry::BUS_UNPUBLISHED).increment(1);
        }
    }

    fn subscribe(&self, room: &RoomId) -> Subscribing {
        let (done, confirmed) = oneshot::channel();
        // A full queue drops the sender with the wish: the caller goes on at once, and the rooms say again
        // what they want when the next socket joins.
        let _ = self.wishes.try_send(Wish::Subscribe(room.clone(), done));
        Box::pin(async move {
            let _ = tokio::time::timeout(PATIENCE, confirmed).await;
        })
    }

    fn unsubscribe(&self, room: &RoomId) {
        let _ = self.wishes.try_send(Wish::Unsubscribe(room.clone()));
    }

    fn healthy(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    fn close(&self) -> Subscribing {
        self.stop.cancel();
        let tasks = self.tasks.clone();
        Box::pin(async move {
            let _ = tokio::time::timeout(PATIENCE, tasks.wait()).await;
        })
    }
}

/// Connects, waiting as long as it takes. fred's own policy covers only what was connected once.
async fn connect(client: &impl ClientLike, what: &str) {
    let mut warned = false;
    while let Err(error) = client.init().await {
        if !warned {
            warn!(%error, "Redis is not there for {what}; trying until it is");
            warned = true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn publish(
    client: Client,
    mut queue: mpsc::Receiver<(RoomId, Bytes)>,
    sharded: bool,
    stop: CancellationToken,
) {
    if stop
        .run_until_cancelled(connect(&client, "publishing"))
        .await
        .is_none()
    {
        return;
    }
    let mut batch = Vec::with_capacity(PIPELINE);
    loop {
        let next = queue.recv_many(&mut batch, PIPELINE);
        let count = match stop.run_until_cancelled(next).await {
            Some(count) => count,
            // What was announced before the stop still goes out.
            None => {
                while batch.len() < PIPELINE
                    && let Ok(message) = queue.try_recv()
                {
                    batch.push(message);
                }
                batch.len()
            }
        };
        if count == 0 {
            break;
        }
        let sent = send(&client, batch.drain(..), sharded).await;
        metrics::counter!(telemetry::BUS_PUBLISHED).increment(sent);
        metrics::counter!(telemetry::BUS_UNPUBLISHED).increment(count as u64 - sent);
    }
    let _ = client.quit().await;
}

/// Publishes in order, without waiting for each answer. Returns how many Redis took.
async fn send(client: &Client, batch: impl Iterator<Item = (RoomId, Bytes)>, sharded: bool) -> u64 {
    if sharded {
        // A pipeline goes to one node; on a cluster each message finds its own.
        let sends =
            batch.map(|(room, message)| client.spublish::<(), _, _>(channel(&room), message));
        let sent = futures_util::future::join_all(sends).await;
        return sent.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    }
    let pipeline = client.pipeline();
    for (room, message) in batch {
        // Only puts into the pipeline: there is no answer yet that could be an error.
        let _ = pipeline.publish::<(), _, _>(channel(&room), message).await;
    }
    pipeline
        .try_all::<i64>()
        .await
        .iter()
        .filter(|outcome| outcome.is_ok())
        .count() as u64
}

/// Hands over what is heard. A slow replica slows only this task; what fred drops meanwhile is a gap.
async fn read(client: Client, to: mpsc::Sender<BusEvent>, stop: CancellationToken) {
    let mut messages = client.message_rx();
    while let Some(heard) = stop.run_until_cancelled(messages.recv()).await {
        let event = match heard {
            Ok(message) => match message.value.into_bytes() {
                Some(bytes) => BusEvent::Message(bytes),
                None => continue,
            },
            Err(RecvError::Lagged(missed)) => {
                warn!(
                    missed,
                    "this replica reads the bus too slowly; comparing with PostgreSQL"
                );
                metrics::counter!(telemetry::BUS_GAPS).increment(1);
                BusEvent::Gap
            }
            Err(RecvError::Closed) => break,
        };
        if to.send(event).await.is_err() {
            break;
        }
    }
}

/// The rooms that this replica wants, and the connection that has subscribed to them.
struct Subscriptions {
    client: Client,
    wanted: HashSet<RoomId>,
    sharded: bool,
    up: Arc<AtomicBool>,
    to: mpsc::Sender<BusEvent>,
}

impl Subscriptions {
    async fn run(mut self, mut wished: mpsc::Receiver<Wish>, stop: CancellationToken) {
        let mut connected = self.client.reconnect_rx();
        let mut errors = self.client.error_rx();
        let client = self.client.clone();
        let init = connect(&client, "subscribing");
        tokio::pin!(init);
        let mut initialised = false;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                // A lost connection is noted before the one that replaced it.
                biased;
                () = stop.cancelled() => break,
                lost = errors.recv(), if initialised => {
                    if let Ok((error, _)) = lost && self.lost() {
                        warn!(%error, "Redis is away; locks go on, other replicas' changes come from PostgreSQL");
                    }
                }
                () = &mut init, if !initialised => {
                    initialised = true;
                    self.resubscribe().await;
                }
                back = connected.recv(), if initialised => {
                    if matches!(back, Err(RecvError::Closed)) {
                        break;
                    }
                    self.resubscribe().await;
                }
                count = wished.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    self.grant(batch.drain(..)).await;
                }
            }
        }
        self.mark(false);
        let _ = self.client.quit().await;
    }

    /// Notes whether messages flow; true where that is news.
    fn mark(&self, up: bool) -> bool {
        metrics::gauge!(telemetry::BUS_UP).set(if up { 1.0 } else { 0.0 });
        self.up.swap(up, Ordering::Relaxed) != up
    }

    /// Messages no longer flow: a gap begins, so that reconcile looks now and then every second. True where
    /// that is news.
    fn lost(&self) -> bool {
        let news = self.mark(false);
        if news {
            // A full queue has something to say already, and its own loss is a gap.
            let _ = self.to.try_send(BusEvent::Gap);
        }
        news
    }

    /// After every connect: all wanted rooms again, then a gap for what was missed meanwhile.
    async fn resubscribe(&mut self) {
        let rooms: Vec<RoomId> = self.wanted.iter().cloned().collect();
        for batch in rooms.chunks(BATCH) {
            if let Err(error) = self.subscribe(batch).await {
                warn!(%error, "could not subscribe again; waiting for the next connection");
                return;
            }
        }
        if self.mark(true) {
            info!(rooms = rooms.len(), "Redis is there");
        }
        metrics::counter!(telemetry::BUS_GAPS).increment(1);
        let _ = self.to.send(BusEvent::Gap).await;
    }

    /// Wishes in their order; neighbours of one kind in one command.
    async fn grant(&mut self, wishes: impl Iterator<Item = Wish>) {
        let (mut joining, mut waiting, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
        for wish in wishes {
            match wish {
                Wish::Subscribe(room, done) => {
                    self.leave(&mut leaving).await;
                    if self.wanted.insert(room.clone()) {
                        joining.push(room);
                    }
                    waiting.push(done);
                }
                Wish::Unsubscribe(room) => {
                    self.join(&mut joining, &mut waiting).await;
                    if self.wanted.remove(&room) {
                        leaving.push(room);
                    }
                }
            }
        }
        self.leave(&mut leaving).await;
        self.join(&mut joining, &mut waiting).await;
    }

    async fn join(&self, joining: &mut Vec<RoomId>, waiting: &mut Vec<oneshot::Sender<()>>) {
        // While Redis is away nobody waits: the room is wanted, and comes with the next connection.
        if self.up.load(Ordering::Relaxed)
            && !joining.is_empty()
            && let Err(error) = self.subscribe(joining).await
        {
            warn!(%error, rooms = joining.len(), "could not subscribe");
            self.lost();
        }
        joining.clear();
        for done in waiting.drain(..) {
            // Whoever gave up waiting has gone on without.
            let _ = done.send(());
        }
    }

    async fn leave(&self, leaving: &mut Vec<RoomId>) {
        if self.up.load(Ordering::Relaxed) && !leaving.is_empty() {
            for channels in self.commands(leaving) {
                let left = if self.sharded {
                    self.client.sunsubscribe(channels).await
                } else {
                    self.client.unsubscribe(channels).await
                };
                if let Err(error) = left {
                    warn!(%error, "could not unsubscribe; messages of a room without audience are dropped here");
                }
            }
        }
        leaving.clear();
    }

    async fn subscribe(&self, rooms: &[RoomId]) -> Result<(), Error> {
        for channels in self.commands(rooms) {
            if self.sharded {
                self.client.ssubscribe(channels).await?;
            } else {
                self.client.subscribe(channels).await?;
            }
        }
        Ok(())
    }

    /// The channels of one command each: on a cluster all of a command must lie in one slot.
    fn commands(&self, rooms: &[RoomId]) -> Vec<Vec<String>> {
        let mut channels: Vec<String> = rooms.iter().map(channel).collect();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{AppointmentId, TenantId};

    #[test]
    fn a_room_has_the_same_channel_on_every_replica() {
        let room = RoomId {
            tenant: TenantId::default(),
            appointment: AppointmentId::new("a").unwrap(),
        };
        // Another hash would split the audience of a room between two releases during an update.
        assert_eq!(channel(&room), "apptlock:{p202}:\u{1f}a");
    }

    #[test]
    fn a_bad_url_is_one_line_without_the_password() {
        let Err(bad) = RedisBus::start(&Secret::new("redis://:geheim@")) else {
            panic!("accepted")
        };
        assert!(bad.to_string().starts_with("REDIS_URL: "));
        assert!(!bad.to_string().contains("geheim"));
    }
}
