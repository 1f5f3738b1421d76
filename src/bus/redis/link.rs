//! What one end knows of the link to Redis: whether messages come through, and whether some did not get out.
//!
//! Two facts make the link *up*: every desired room is subscribed, and this end's own probe came back a moment
//! ago. The probe goes out on one connection and comes in on the other, so it finds a link that is dead and
//! silent as well as one that is closed. Nobody decides here; the two tasks note, everybody asks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two attempts to connect.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// Between two probes while the link is up.
pub(super) const PROBE: Duration = Duration::from_millis(250);
/// Between two probes while it is not, so that it is up again soon.
pub(super) const PROBE_DOWN: Duration = Duration::from_millis(50);
/// Without a probe for this long the link counts as down. With the second between two looks of reconcile
/// this stays below the two seconds in which a change is to be seen.
const TOLERANCE: Duration = Duration::from_millis(900);

/// The link of one end.
#[derive(Debug)]
pub(super) struct Link {
    since: Instant,
    /// Milliseconds from `since` to when the last probe was sent that came back, plus one; 0: none has.
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

    /// A probe that goes out now: this end's name, and when.
    pub(super) fn probe(&self, replica: &str) -> String {
        format!("{} {replica}", self.now())
    }

    /// Reads a probe: whose, and where it is this end's own, takes note that it came back. When it was sent
    /// counts, so that a link which only is very late is found too.
    pub(super) fn heard(&self, probe: &str, replica: &str) -> Option<String> {
        let (sent, from) = probe.split_once(' ')?;
        if from != replica {
            return Some(from.to_owned());
        }
        let sent = sent.parse().unwrap_or(0).min(self.now());
        self.heard.fetch_max(sent + 1, Ordering::Relaxed);
        None
    }

    /// How long ago the last probe was sent that came back, or since the start.
    pub(super) fn silence(&self) -> Duration {
        let heard = self.heard.load(Ordering::Relaxed).saturating_sub(1);
        Duration::from_millis(self.now().saturating_sub(heard))
    }

    /// Whether all that is desired is subscribed.
    pub(super) fn set_subscribed(&self, subscribed: bool) {
        self.subscribed.store(subscribed, Ordering::Relaxed);
    }

    /// Whether messages flow.
    pub(super) fn is_up(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
            && self.heard.load(Ordering::Relaxed) > 0
            && self.silence() < TOLERANCE
    }

    /// Something was published that may not have got out.
    pub(super) fn note_unsent(&self) {
        self.unsent.store(true, Ordering::Relaxed);
    }

    /// Whether there was, since this was last asked.
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
        assert!(!link.is_up(), "three seconds on the way");
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
