//! What this end publishes: the queue, the probe, and the connection for both.
//!
//! ```text
//!   connecting ── connected ──▶ sending ── a command failed, or the connection ended ──▶ connecting
//!       │ meanwhile: what is queued is dropped, counted, and noted as unsent
//! ```
//!
//! Messages that wait are dropped rather than kept while there is no connection: a change is found in
//! PostgreSQL, and an old cursor is worth nothing.

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
use crate::telemetry;

/// Messages published in one go.
const PIPELINE: usize = 128;

/// A message that waits to go out.
pub(super) struct Outgoing {
    pub(super) room: RoomId,
    pub(super) message: Bytes,
    /// What it is a part of; it lasts until Redis has taken the message, or it is dropped.
    pub(super) span: Span,
}

/// Spans that end together with this.
struct Under(Vec<Span>);

impl Drop for Under {
    fn drop(&mut self) {
        // In a trace a span ends when it was left last, not when it was closed.
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
    /// Publishes until stopped, and then what is still queued.
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
                    // Known, since a connection was made.
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
                    warned = true;
                    warn!(%error, "Redis is not there for publishing; trying until it is");
                }
                Err(error) => debug!(%error, "Redis is still not there for publishing"),
            }
            tokio::select! {
                () = stop.cancelled() => return self.abandon(&mut queue),
                () = tokio::time::sleep(RETRY) => {}
                () = self.drop_all(&mut queue) => return,
            }
        }
    }

    /// What is queued when there is nothing to send it over any more.
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

    /// Drops what is queued, as it comes. Ends only with the queue.
    async fn drop_all(&self, queue: &mut mpsc::Receiver<Outgoing>) {
        while queue.recv().await.is_some() {
            metrics::counter!(telemetry::BUS_UNPUBLISHED).increment(1);
            self.link.note_unsent();
        }
    }

    /// Sends over one connection until that fails (false), or until it is stopped and all is sent (true).
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
        let well = loop {
            let mut leaving = false;
            tokio::select! {
                biased;
                _ = &mut ended => return false,
                () = stop.cancelled() => leaving = true,
                () = tokio::time::sleep_until(probed + pause) => {}
                _ = queue.recv_many(&mut batch, PIPELINE) => {}
            }
            // Whatever it was that woke this: where Redis takes longer than the pause between two probes, it is
            // always time for a probe; and what was published before a stop still goes out.
            while batch.len() < PIPELINE
                && let Ok(message) = queue.try_recv()
            {
                batch.push(message);
            }
            if leaving && batch.is_empty() {
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
        // Its socket ends with its task, whatever state it is in.
        if !well {
            ended.abort();
        }
        well
    }

    /// Publishes in order, without waiting for each answer. Returns how many Redis did not take.
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
        let mut spans = Under(Vec::new());
        for outgoing in batch {
            let signed = channels.signer().sign(&outgoing.message);
            messages.push((channels.room(&outgoing.room), signed.into()));
            if !outgoing.span.is_disabled() {
                spans.0.push(outgoing.span);
            }
        }
        let messages = messages.into_iter().chain(probe);
        if self.sharded {
            // A pipeline goes to one node; on a cluster each message finds its own.
            let sends =
                messages.map(|(channel, message)| client.spublish::<(), _, _>(channel, message));
            let sent = futures_util::future::join_all(sends).await;
            return sent.iter().filter(|outcome| outcome.is_err()).count() as u64;
        }
        let pipeline = client.pipeline();
        for (channel, message) in messages {
            // Only puts into the pipeline: there is no answer yet that could be an error.
            let _ = pipeline.publish::<(), _, _>(channel, message).await;
        }
        let sent = pipeline.try_all::<i64>().await;
        sent.iter().filter(|outcome| outcome.is_err()).count() as u64
    }
}
