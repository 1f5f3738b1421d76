//! Refusal of a handshake as a `connect_error` packet: `{ message, data: { code } }`, which clients read as
//! `error.message` and `error.data.code`.
//!
//! socketioxide sends only a message. So the code is appended to it after a marker, and moved to `data` when the bytes
//! are written. Marker and `data` have the same length, so the frame's header stays valid. User text never contains the
//! marker, since it consists of control characters. Only output to connections that have not joined is searched.

use std::fmt;

use crate::protocol::{Code, Refusal};

/// Marker in the message, and in its JSON encoding.
const MARKER: &str = "\u{1f}\u{1f}\u{1f}~";
const ENCODED: &[u8] = br"\u001f\u001f\u001f~";
/// Replacement of the marker, and text after the code.
const BEFORE: &[u8] = br#"","data":{"code":""#;
const AFTER: &[u8] = br#""}}"#;

/// Refusal of a connection.
#[derive(Debug)]
pub(super) struct ConnectError(Refusal);

impl ConnectError {
    /// Refusal of a field of `auth`.
    pub(super) fn of_auth(field: &str, refusal: Refusal) -> Self {
        Self(Refusal {
            message: format!("auth{field}{}", refusal.message),
            ..refusal
        })
    }
}

impl From<Refusal> for ConnectError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{MARKER}{}", self.0.message, code_name(self.0.code))
    }
}

fn code_name(code: Code) -> String {
    let quoted = serde_json::to_string(&code).unwrap_or_default();
    quoted.trim_matches('"').to_owned()
}

/// Moves the code of each `connect_error` to `data`. `None` if the bytes contain none.
pub(super) fn with_code(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut at = 0;
    let mut patched: Option<Vec<u8>> = None;
    while let Some(found) = bytes[at..]
        .windows(ENCODED.len())
        .position(|it| it == ENCODED)
    {
        let begin = at + found;
        let code = begin + ENCODED.len();
        let length = bytes[code..]
            .iter()
            .take_while(|it| it.is_ascii_uppercase() || **it == b'_')
            .count();
        at = code + length;
        if bytes[at..].starts_with(br#""}"#) {
            let tail = [BEFORE, &bytes[code..at], AFTER].concat();
            let patched = patched.get_or_insert_with(|| bytes.to_vec());
            patched[begin..begin + tail.len()].copy_from_slice(&tail);
        }
    }
    patched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_where_clients_look_for_it_and_the_length_stays() {
        let refusal = Refusal::new(Code::Unauthenticated, "auth.token: \"quoted\"");
        let message = ConnectError::from(refusal).to_string();
        let sent = format!("44{}", serde_json::json!({ "message": message }));
        let patched = with_code(sent.as_bytes()).unwrap();
        assert_eq!(patched.len(), sent.len());
        let read: serde_json::Value = serde_json::from_slice(&patched[2..]).unwrap();
        assert_eq!(
            read,
            serde_json::json!({ "message": "auth.token: \"quoted\"", "data": { "code": "UNAUTHENTICATED" } })
        );
        let twice = format!("{sent}\u{1e}{sent}");
        let twice = with_code(twice.as_bytes()).unwrap();
        assert_eq!(twice, [&patched[..], b"\x1e", &patched].concat());
    }

    #[test]
    fn what_is_no_refusal_stays_as_it_is() {
        for bytes in [
            "",
            "2",
            r"42[\u001f]",
            r"44\u001f\u001f\u001f~CODE",
            r#"\u001f\u001f\u001f~lower"}"#,
        ] {
            assert_eq!(with_code(bytes.as_bytes()), None, "{bytes}");
        }
    }
}
