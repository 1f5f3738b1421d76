//! Body of a polling client's POST, an Engine.IO "payload" of several packets (protocol 4). Owns the count and cost of
//! packets, and the detection of those that are not passed on.

use axum::body::Bytes;

use super::frames::{MAX_FOREIGN, cost, is_foreign};

/// Separator of packets.
const SEPARATOR: u8 = 0x1e;
/// Engine.IO packet that closes the Engine.IO session.
const CLOSE: &[u8] = b"\x1e1";

/// Properties of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload {
    /// Number of packets, including empty ones.
    pub(super) packets: u32,
    /// Total cost, as of frames of the same lengths.
    pub(super) cost: u32,
    /// True if a packet is binary.
    pub(super) binary: bool,
    /// True if a packet is long and for a namespace other than the root: its refusal would be as long.
    pub(super) foreign: bool,
    /// True if the client leaves the namespace, which ends its Engine.IO session.
    pub(super) leaves: bool,
}

impl Payload {
    /// Examines a payload.
    pub(super) fn of(body: &[u8]) -> Self {
        let mut seen = Self {
            packets: 0,
            cost: 0,
            binary: false,
            foreign: false,
            leaves: false,
        };
        for packet in body.split(|byte| *byte == SEPARATOR) {
            seen.packets = seen.packets.saturating_add(1);
            seen.cost = seen.cost.saturating_add(cost(packet.len() as u64));
            seen.binary |= packet.starts_with(b"b");
            seen.foreign |= packet.len() as u64 > MAX_FOREIGN && is_foreign(packet);
            seen.leaves |= packet == b"41"
                || packet.starts_with(b"41,")
                || packet == b"41/"
                || packet.starts_with(b"41/,");
        }
        seen
    }

    /// Splits the payload into parts of `packets` packets each. If the client leaves, an Engine.IO close packet is
    /// appended.
    pub(super) fn parts(self, body: &Bytes, packets: usize) -> Vec<Bytes> {
        let (mut parts, mut begin, mut count) = (Vec::new(), 0, 0);
        for (at, _) in body
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == SEPARATOR)
        {
            count += 1;
            if count == packets {
                parts.push(body.slice(begin..at));
                (begin, count) = (at + 1, 0);
            }
        }
        let last = body.slice(begin..);
        parts.push(if self.leaves {
            [&last[..], CLOSE].concat().into()
        } else {
            last
        });
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_and_what_ends_a_session_is_seen() {
        let of = |text: &str| {
            let Payload {
                packets,
                binary,
                leaves,
                foreign,
                cost: _,
            } = Payload::of(text.as_bytes());
            assert!(!foreign, "{text}");
            (packets, binary, leaves)
        };
        assert_eq!(of("40"), (1, false, false));
        assert_eq!(of(""), (1, false, false));
        assert_eq!(of("42[\"a\"]\u{1e}\u{1e}3"), (3, false, false));
        assert_eq!(of("3\u{1e}bAAAA"), (2, true, false));
        assert_eq!(of("42[\"b\"]\u{1e}41"), (2, false, true));
        assert_eq!(of("41/x,"), (1, false, false));
        let long = format!("3\u{1e}40/{},", "A".repeat(600));
        assert!(Payload::of(long.as_bytes()).foreign);
        let leaves = Bytes::from_static(b"41");
        assert_eq!(Payload::of(&leaves).parts(&leaves, 9), ["41\u{1e}1"]);
    }

    #[test]
    fn a_long_payload_comes_in_parts_and_nothing_of_it_is_lost() {
        let parts = |text: &'static str, packets| {
            let body = Bytes::from_static(text.as_bytes());
            Payload::of(&body).parts(&body, packets)
        };
        assert_eq!(parts("a", 2), ["a"]);
        assert_eq!(parts("a\u{1e}b", 2), ["a\u{1e}b"]);
        assert_eq!(
            parts("a\u{1e}b\u{1e}c\u{1e}d\u{1e}e", 2),
            ["a\u{1e}b", "c\u{1e}d", "e"]
        );
    }
}
