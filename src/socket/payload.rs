//! The body of a polling client's POST: several packets in one (Engine.IO protocol 4, "payload"). Owns how many
//! there are, and what is not passed on.

use axum::body::Bytes;

use super::frames::{FOREIGN, is_foreign, price};

/// Between two packets.
const SEPARATOR: u8 = 0x1e;
/// An Engine.IO packet that ends the session.
const CLOSE: &[u8] = b"\x1e1";

/// What a payload holds, as far as is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload {
    /// Packets, empty ones too.
    pub(super) packets: u32,
    /// What they cost: as frames of the same lengths.
    pub(super) price: u32,
    /// Whether one is binary.
    pub(super) binary: bool,
    /// Whether one is for another namespace, and long: its refusal would be as long.
    pub(super) foreign: bool,
    /// Whether the client leaves the namespace, and with it all that there is to this session.
    pub(super) leaves: bool,
}

impl Payload {
    /// Looks at a payload.
    pub(super) fn of(body: &[u8]) -> Self {
        let mut seen = Self {
            packets: 0,
            price: 0,
            binary: false,
            foreign: false,
            leaves: false,
        };
        for packet in body.split(|byte| *byte == SEPARATOR) {
            seen.packets = seen.packets.saturating_add(1);
            seen.price = seen.price.saturating_add(price(packet.len() as u64));
            seen.binary |= packet.starts_with(b"b");
            seen.foreign |= packet.len() as u64 > FOREIGN && is_foreign(packet);
            seen.leaves |= packet == b"41"
                || packet.starts_with(b"41,")
                || packet == b"41/"
                || packet.starts_with(b"41/,");
        }
        seen
    }

    /// The payload in parts of so many packets each, with the end of the session after the last where its client
    /// leaves.
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
                price: _,
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
