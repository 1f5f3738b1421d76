//! The bus over Redis pub/sub: one channel per room; sharded channels on a cluster. The only place with fred.
//!
//! ```text
//!   publish ──▶ queue ──▶ publisher ──▶ Redis ──▶ subscriber ──▶ BusEvent::Message, Alive
//!                            │                        ▲   └ connected again, or too slow ─▶ BusEvent::Gap
//!                            └──── probe ─────────────┘ must come back, or the link counts as down
//!   subscribe, unsubscribe ──▶ the set of desired rooms ──▶ subscriber, which makes it so
//! ```
//!
//! Who decides: each of two tasks owns one connection from its beginning to its end. A connection that fails,
//! or says nothing for too long, is dropped whole and another one is made, through Sentinel or the cluster's
//! nodes again: nothing is inherited from the old one. On failure: Redis away at the start, or later, is
//! waited for in the background; meanwhile messages are counted and dropped, and [`Bus::take_unsent`] says so.

mod channels;
mod link;
mod publisher;
mod signature;
mod subscriber;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::types::config::{Config, TcpConfig};
use fred::types::{Builder, RespVersion};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Span;

use super::{Bus, BusEvent, Installation, Load, Subscribing};
use crate::config::{BadSetting, Redis};
use crate::domain::ids::RoomId;
use crate::telemetry;

use channels::Channels;
use link::Link;
use publisher::{Outgoing, Publisher};
use subscriber::{DesiredSubscriptions, Subscriber};

/// Messages that wait to be published; beyond that they are dropped and counted.
const OUT_QUEUE: usize = 8192;
/// Messages that wait to be read, in fred and towards the replica.
const IN_QUEUE: usize = 8192;
/// How long a command may take, and how long a subscriber waits for its room's channel.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a `REDIS_URL` may start with.
const SCHEMES: [&str; 6] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
];

/// One replica's end of Redis.
pub struct RedisBus {
    out: mpsc::Sender<Outgoing>,
    desired: Arc<DesiredSubscriptions>,
    link: Arc<Link>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl RedisBus {
    /// Starts towards that Redis, and hands back what is heard. Redis need not be there yet. `replica` is
    /// this end's name, unique among replicas and starts; `installation` is what all replicas over one PostgreSQL
    /// share, and resolves when it is known: until then nothing is sent or heard.
    ///
    /// # Errors
    /// [`BadSetting`] where `REDIS_URL` or the authorities cannot be read; the URL, which may hold a password, is
    /// not in it.
    pub fn start(
        redis: &Redis,
        replica: &str,
        installation: impl Future<Output = Installation> + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<BusEvent>), BadSetting> {
        let bad = || {
            BadSetting::new(
                "REDIS_URL",
                "is not the URL of a Redis",
                "write redis://host:6379, or rediss://, redis-sentinel:// or redis-cluster://",
            )
        };
        // fred would take any scheme for a standalone Redis.
        let scheme = redis.url.expose().split("://").next().unwrap_or_default();
        if !SCHEMES.contains(&scheme) {
            return Err(bad());
        }
        let mut config = Config::from_url(redis.url.expose()).map_err(|_| bad())?;
        config.version = RespVersion::RESP3;
        if let Some(pem) = &redis.ca {
            config.tls = Some(tls::trusting(pem)?);
        }
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
            });
        // Whether a client can be made of this shows now; each connection is a client of its own.
        builder.build().map_err(|_| bad())?;

        metrics::gauge!(telemetry::BUS_UP).set(0.0);
        let (out, to_publish) = mpsc::channel(OUT_QUEUE);
        let (to, events) = mpsc::channel(IN_QUEUE);
        let bus = Self {
            out,
            desired: Arc::default(),
            link: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let channels = Channels::of(installation);
        let publisher = Publisher {
            builder: builder.clone(),
            sharded,
            replica: replica.to_owned(),
            channels: channels.clone(),
            link: bus.link.clone(),
        };
        bus.tasks.spawn(publisher.run(to_publish, bus.stop.clone()));
        let subscriber = Subscriber {
            builder,
            sharded,
            replica: replica.to_owned(),
            channels,
            link: bus.link.clone(),
            desired: bus.desired.clone(),
            to,
        };
        bus.tasks.spawn(subscriber.run(bus.stop.clone()));
        bus.tasks.close();
        Ok((bus, events))
    }
}

impl Bus for RedisBus {
    fn publish(&self, room: &RoomId, message: Bytes) {
        let outgoing = Outgoing {
            room: room.clone(),
            message,
            span: Span::current(),
        };
        if self.out.try_send(outgoing).is_err() {
            metrics::counter!(telemetry::BUS_UNPUBLISHED).increment(1);
            self.link.note_unsent();
        } else if !self.link.is_up() {
            self.link.note_unsent();
        }
    }

    fn subscribe(&self, room: &RoomId) -> Subscribing {
        let confirmed = self.desired.subscribe(room);
        let link = self.link.clone();
        Box::pin(async move {
            // While messages do not flow there is nothing to wait for: reconcile looks every second.
            if link.is_up() {
                let _ = tokio::time::timeout(PATIENCE, confirmed).await;
            }
        })
    }

    fn unsubscribe(&self, room: &RoomId) {
        self.desired.unsubscribe(room);
    }

    fn healthy(&self) -> bool {
        self.link.is_up()
    }

    fn take_unsent(&self) -> bool {
        self.link.take_unsent()
    }

    fn load(&self) -> Load {
        Load {
            subscriptions: self.desired.count(),
            queued: OUT_QUEUE - self.out.capacity(),
        }
    }

    fn close(&self) -> Subscribing {
        self.stop.cancel();
        let (tasks, link) = (self.tasks.clone(), self.link.clone());
        Box::pin(async move {
            if tokio::time::timeout(PATIENCE, tasks.wait()).await.is_err() {
                link.note_unsent();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_one_line_without_the_password() {
        let nobody = std::future::pending();
        let Err(bad) = RedisBus::start(&Redis::at("redis://:geheim@"), "me", nobody) else {
            panic!("accepted")
        };
        assert!(bad.to_string().starts_with("REDIS_URL: "));
        assert!(!bad.to_string().contains("geheim"));
    }
}
