//! The bus over Redis pub/sub: one channel per room, sharded channels on a cluster. Only this module uses fred.
//!
//! ```text
//!   publish ──▶ queue ──▶ publisher ──▶ Redis ──▶ subscriber ──▶ BusEvent::Message, Alive
//!                            │                        ▲   └ reconnected, or too slow ─▶ BusEvent::Gap
//!                            └──── probe ─────────────┘ must come back, or the link is down
//!   subscribe, unsubscribe ──▶ the set of desired rooms ──▶ subscriber, which applies it
//! ```
//!
//! Each of two tasks owns one connection for its whole lifetime. If a connection fails or is silent for too long, the
//! task drops it and opens a new one, resolved through Sentinel or the cluster's nodes again: it inherits no state from
//! the old one. On failure: if Redis is unavailable, at startup or later, both tasks reconnect in the background;
//! meanwhile messages are counted and dropped, and [`Bus::take_unsent`] reports them.

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

/// Length of the publish queue; messages beyond it are dropped and counted.
const OUT_QUEUE: usize = 8192;
/// Length of the receive queues, in fred and between this module and the replica.
const IN_QUEUE: usize = 8192;
/// Timeout of a command, of the wait for a channel, and of a stop.
const TIMEOUT: Duration = Duration::from_secs(2);

/// URL schemes accepted in `REDIS_URL`.
const SCHEMES: [&str; 6] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
];

/// Redis endpoint of one replica.
pub struct RedisBus {
    out: mpsc::Sender<Outgoing>,
    desired: Arc<DesiredSubscriptions>,
    link: Arc<Link>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl RedisBus {
    /// Starts the bus and returns it with its events. Redis need not be available yet. `replica` is this replica's
    /// name, unique among replicas and restarts. `installation` resolves once the installation is known; until then
    /// nothing is sent or received.
    ///
    /// # Errors
    /// [`BadSetting`] if `REDIS_URL` or the authorities are invalid. It does not repeat the URL, which may contain a
    /// password.
    pub fn start(
        redis: &Redis,
        replica: &str,
        installation: impl Future<Output = Installation> + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<BusEvent>), BadSetting> {
        let bad = || {
            BadSetting::new(
                "REDIS_URL",
                "is not a Redis URL",
                "write redis://host:6379, or rediss://, redis-sentinel:// or redis-cluster://",
            )
        };
        // fred takes any unknown scheme for a standalone Redis.
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
                performance.default_command_timeout = TIMEOUT;
            })
            .with_connection_config(|connection| {
                connection.connection_timeout = TIMEOUT;
                connection.internal_command_timeout = TIMEOUT;
                connection.max_command_attempts = 1;
                connection.max_command_buffer_len = OUT_QUEUE;
                connection.tcp = TcpConfig {
                    nodelay: Some(true),
                    ..TcpConfig::default()
                };
            });
        // Validates the configuration now; each connection builds a client of its own later.
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

    fn has_room(&self) -> bool {
        self.out.capacity() >= OUT_QUEUE / 2
    }

    fn subscribe(&self, room: &RoomId) -> Subscribing {
        let confirmed = self.desired.subscribe(room);
        let link = self.link.clone();
        Box::pin(async move {
            // While the link is down there is nothing to wait for: reconcile runs every second.
            if link.is_up() {
                let _ = tokio::time::timeout(TIMEOUT, confirmed).await;
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
            if tokio::time::timeout(TIMEOUT, tasks.wait()).await.is_err() {
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
