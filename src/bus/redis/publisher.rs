//! Publishing side: the queue, the probe, and the connection for both.
//!
//! ```text
//!   connecting ── connected ──▶ sending ── a command failed, or the connection ended ──▶ connecting
//!       │ meanwhile queued messages are dropped, counted and recorded as unsent
//! ```
//!
//! While there is no connection, messages are dropped instead of kept: changes are read from PostgreSQL, and an old
//! cursor position is useless.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::{ClientLike, PubsubInterface};
use fred::types::{Builder, ConnectHandle};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, warn};

use super::channels::{Channels, Known};
use super::link::{self, Link, RETRY};
use crate::domain::ids::RoomId;
use crate::telemetry::{self, LogThrottle};

/// Maximum messages in one pipeline.
const PIPELINE: usize = 128;

/// Throttle of the log line about failed connections.
static UNAVAILABLE: LogThrottle = LogThrottle::new();

/// Message waiting to be sent.
pub(super) struct Outgoing {
    pub(super) room: RoomId,
    pub(super) message: Bytes,
    /// Span of its sender, open until Redis has accepted the message or it is dropped.
    pub(super) span: Span,
}

/// Spans that end when this is dropped.
struct OpenSpans(Vec<Span>);

impl Drop for OpenSpans {
    fn drop(&mut self) {
        // The exporter takes a span's last exit, not its close, for its end.
        self.0.iter().for_each(|span| span.in_scope(|| {}));
    }
}

pub(super) struct Publisher {
    pub(super) builder: Builder,
    pub(super) sharded: bool,
    pub(super) replica: String,
    pub(super) channels: Known,
    pub(super) link: Arc<Link>,
}

impl Publisher {
    /// Publishes until stopped, then flushes the queue.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Outgoing>, stop: CancellationToken) {
        let mut warned = false;
        loop {
            let connected = tokio::select! {
                () = stop.cancelled() => return self.abandon(&mut queue),
                connected = self.connect() => connected,
                () = self.drop_all(&mut queue) => return,
            };
            match connected {
                Ok((client, ended)) => {
                    warned = false;
                    // Resolved already: connecting waits for it.
                    let channels = self.channels.clone().await;
                    if self
                        .send_all(&client, ended, &channels, &mut queue, &stop)
                        .await
                    {
                        let _ = client.quit().await;
                        return;
                    }
                }
                Err(error) if !warned => {
                    if let Some(hidden) = UNAVAILABLE.allow() {
                        warned = true;
                        warn!(%error, hidden, "could not connect to Redis for publishing; retrying");
                    }
                }
                Err(error) => debug!(%error, "still could not connect to Redis for publishing"),
            }
            tokio::select! {
                () = stop.cancelled() => return self.abandon(&mut queue),
                () = tokio::time::sleep(RETRY) => {}
                () = self.drop_all(&mut queue) => return,
            }
        }
    }

    /// Drops and counts what is queued, because there is no connection at the stop.
    fn abandon(&self, queue: &mut mpsc::Receiver<Outgoing>) {
        while queue.try_recv().is_ok() {
            metrics::counter!(telemetry::BUS_UNPUBLISHED).increment(1);
            self.link.note_unsent();
        }
    }

    async fn connect(&self) -> Result<(Client, ConnectHandle), fred::error::Error> {
        self.channels.clone().await;
        let client = self.builder.build()?;
        let ended = client.init().await?;
        Ok((client, ended))
    }

    /// Drops and counts messages as they arrive, until the queue closes.
    async fn drop_all(&self, queue: &mut mpsc::Receiver<Outgoing>) {
        while queue.recv().await.is_some() {
            metrics::counter!(telemetry::BUS_UNPUBLISHED).increment(1);
            self.link.note_unsent();
        }
    }

    /// Sends over one connection. Returns false if the connection failed, true once stopped with everything sent.
    async fn send_all(
        &self,
        client: &Client,
        mut ended: ConnectHandle,
        channels: &Channels,
        queue: &mut mpsc::Receiver<Outgoing>,
        stop: &CancellationToken,
    ) -> bool {
        let mut batch = Vec::with_capacity(PIPELINE);
        let mut probed = Instant::now();
        let mut pause = Duration::ZERO;
        let completed = loop {
            let mut stopping = false;
            tokio::select! {
                biased;
                _ = &mut ended => return false,
                () = stop.cancelled() => stopping = true,
                () = tokio::time::sleep_until(probed + pause) => {}
                _ = queue.recv_many(&mut batch, PIPELINE) => {}
            }
            // The queue is drained after any wake-up: if Redis takes longer than the probe interval, a probe is always
            // due and the select never reaches the queue; and messages published before a stop are still sent.
            while batch.len() < PIPELINE
                && let Ok(message) = queue.try_recv()
            {
                batch.push(message);
            }
            if stopping && batch.is_empty() {
                break true;
            }
            let probe = probed.elapsed() >= pause;
            if probe {
                probed = Instant::now();
                pause = if self.link.is_up() {
                    link::PROBE
                } else {
                    link::PROBE_DOWN
                };
            }
            let count = batch.len() as u64;
            let lost = self.send(client, channels, batch.drain(..), probe).await;
            metrics::counter!(telemetry::BUS_PUBLISHED).increment(count.saturating_sub(lost));
            if lost > 0 {
                metrics::counter!(telemetry::BUS_UNPUBLISHED).increment(lost.min(count));
                self.link.note_unsent();
                break false;
            }
        };
        // Aborting the task closes its socket in any state.
        if !completed {
            ended.abort();
        }
        completed
    }

    /// Publishes in order without waiting for each reply. Returns the number of commands that failed.
    async fn send(
        &self,
        client: &Client,
        channels: &Channels,
        batch: impl Iterator<Item = Outgoing>,
        probe: bool,
    ) -> u64 {
        let probe = probe.then(|| {
            (
                channels.alive().to_owned(),
                channels
                    .signer()
                    .sign_text(&self.link.probe(&self.replica))
                    .into(),
            )
        });
        let mut messages: Vec<(String, Bytes)> = Vec::with_capacity(PIPELINE);
        let mut spans = OpenSpans(Vec::new());
        for outgoing in batch {
            let signed = channels.signer().sign(&outgoing.message);
            messages.push((channels.room(&outgoing.room), signed.into()));
            if !outgoing.span.is_disabled() {
                spans.0.push(outgoing.span);
            }
        }
        let messages = messages.into_iter().chain(probe);
        if self.sharded {
            // A pipeline goes to one node, but on a cluster each message has its own.
            let sends =
                messages.map(|(channel, message)| client.spublish::<(), _, _>(channel, message));
            let sent = futures_util::future::join_all(sends).await;
            return sent.iter().filter(|outcome| outcome.is_err()).count() as u64;
        }
        let pipeline = client.pipeline();
        for (channel, message) in messages {
            // This only queues the command: errors are in the pipeline's result.
            let _ = pipeline.publish::<(), _, _>(channel, message).await;
        }
        let sent = pipeline.try_all::<i64>().await;
        sent.iter().filter(|outcome| outcome.is_err()).count() as u64
    }
}
