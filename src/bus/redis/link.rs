//! State of the link to Redis: up or down, and messages that were possibly not sent.
//!
//! The link is *up* if every desired room is subscribed and this replica's own probe came back recently. The probe is
//! sent on one connection and received on the other, so it detects a silent, half-open link as well as a closed one.
//! The publisher and the subscriber record facts here; everybody else reads them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pause between connection attempts.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// Probe interval while the link is up.
pub(super) const PROBE: Duration = Duration::from_millis(250);
/// Probe interval while the link is down, so that recovery is detected soon.
pub(super) const PROBE_DOWN: Duration = Duration::from_millis(50);
/// Maximum age of the last probe that came back. Together with the second between passes of reconcile it stays below
/// the two seconds in which a change must be shown.
const TOLERANCE: Duration = Duration::from_millis(900);

/// Link of one replica to Redis.
#[derive(Debug)]
pub(super) struct Link {
    since: Instant,
    /// Send time of the last probe that came back, in milliseconds after `since`, plus one; 0 if none has.
    heard: AtomicU64,
    subscribed: AtomicBool,
    unsent: AtomicBool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            heard: AtomicU64::new(0),
            subscribed: AtomicBool::new(false),
            unsent: AtomicBool::new(false),
        }
    }
}

impl Link {
    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Payload of a probe sent now: the time and this replica's name.
    pub(super) fn probe(&self, replica: &str) -> String {
        format!("{} {replica}", self.now())
    }

    /// Reads a received probe. Returns the sender, or `None` if it is this replica's own, which is recorded with its
    /// send time, so that a slow link counts as down too.
    pub(super) fn heard(&self, probe: &str, replica: &str) -> Option<String> {
        let (sent, from) = probe.split_once(' ')?;
        if from != replica {
            return Some(from.to_owned());
        }
        let sent = sent.parse().unwrap_or(0).min(self.now());
        self.heard.fetch_max(sent + 1, Ordering::Relaxed);
        None
    }

    /// Time since the send time of the last probe that came back, or since the start.
    pub(super) fn silence(&self) -> Duration {
        let heard = self.heard.load(Ordering::Relaxed).saturating_sub(1);
        Duration::from_millis(self.now().saturating_sub(heard))
    }

    /// Records if all desired rooms are subscribed.
    pub(super) fn set_subscribed(&self, subscribed: bool) {
        self.subscribed.store(subscribed, Ordering::Relaxed);
    }

    /// True if messages flow.
    pub(super) fn is_up(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
            && self.heard.load(Ordering::Relaxed) > 0
            && self.silence() < TOLERANCE
    }

    /// Records that a published message was possibly not sent.
    pub(super) fn note_unsent(&self) {
        self.unsent.store(true, Ordering::Relaxed);
    }

    /// True if a message was possibly not sent since the last call.
    pub(super) fn take_unsent(&self) -> bool {
        self.unsent.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_up_while_probes_come_back_and_everything_is_subscribed() {
        let link = Link::default();
        assert!(!link.is_up(), "nothing is known yet");
        assert_eq!(link.heard(&link.probe("me"), "me"), None);
        assert!(!link.is_up(), "nothing is subscribed yet");
        link.set_subscribed(true);
        assert!(link.is_up());
        link.set_subscribed(false);
        assert!(!link.is_up());
    }

    #[test]
    fn a_probe_that_comes_late_or_from_others_keeps_no_link_up() {
        let link = Link {
            since: Instant::now() - Duration::from_secs(60),
            ..Link::default()
        };
        link.set_subscribed(true);
        assert_eq!(link.heard(&link.probe("you"), "me").as_deref(), Some("you"));
        assert_eq!(link.heard("57000 me", "me"), None);
        assert!(!link.is_up(), "it took three seconds");
        assert_eq!(link.heard("no probe", "me").as_deref(), Some("probe"));
        link.heard("99999999 me", "me");
        assert!(
            link.silence() < Duration::from_secs(1),
            "never ahead of now"
        );
    }

    #[test]
    fn what_did_not_get_out_is_said_once() {
        let link = Link::default();
        assert!(!link.take_unsent());
        link.note_unsent();
        assert!(link.take_unsent());
        assert!(!link.take_unsent());
    }
}
