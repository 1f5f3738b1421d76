//! Message signatures. Owns the authenticity of messages: any client of Redis can publish there, and a forged version
//! that is too high would hide all later changes of a room.
//!
//! HMAC-SHA256 (RFC 2104) with a key stored in PostgreSQL. The signature is the last field of the message's JSON
//! object, so that a release without signatures can still read the message. Replays are harmless: a version that was
//! seen before is dropped.

use ring::hmac;

/// Bytes before and after the signature.
const BEFORE: &[u8] = br#","mac":""#;
const AFTER: &[u8] = br#""}"#;
/// Length of a signature in hexadecimal digits.
const DIGITS: usize = 64;

/// Signing key of one installation.
#[derive(Debug)]
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Adds the signature to a message, a JSON object with at least one field.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.0, message);
        let open = message.strip_suffix(b"}").unwrap_or(message);
        let mut signed = Vec::with_capacity(message.len() + BEFORE.len() + DIGITS + 1);
        signed.extend_from_slice(open);
        signed.extend_from_slice(BEFORE);
        signed.extend_from_slice(hex(tag.as_ref()).as_bytes());
        signed.extend_from_slice(AFTER);
        signed
    }

    /// Message without its signature, if it was signed with this key.
    pub(super) fn verify(&self, signed: &[u8]) -> Option<Vec<u8>> {
        let open = signed.strip_suffix(AFTER)?;
        let (open, digits) = open.split_at_checked(open.len().checked_sub(DIGITS)?)?;
        let message = [open.strip_suffix(BEFORE)?, b"}"].concat();
        hmac::verify(&self.0, &message, &unhex(digits)?).ok()?;
        Some(message)
    }

    /// Appends the signature to a short text.
    pub(super) fn sign_text(&self, text: &str) -> String {
        let tag = hmac::sign(&self.0, text.as_bytes());
        format!("{text} {}", hex(tag.as_ref()))
    }

    /// Text without its signature, if it was signed with this key.
    pub(super) fn verify_text<'a>(&self, signed: &'a str) -> Option<&'a str> {
        let (text, digits) = signed.rsplit_once(' ')?;
        let tag = unhex(digits.as_bytes())?;
        hmac::verify(&self.0, text.as_bytes(), &tag).ok()?;
        Some(text)
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGIT: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes
        .iter()
        .flat_map(|byte| [DIGIT[usize::from(byte >> 4)], DIGIT[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_believed_as_it_was_signed_and_no_other() {
        let (ours, theirs) = (Signer::new(&[1; 32]), Signer::new(&[2; 32]));
        let message = br#"{"from":"a","version":7}"#;
        let signed = ours.sign(message);
        assert_eq!(ours.verify(&signed).as_deref(), Some(&message[..]));
        assert_eq!(theirs.verify(&signed), None);
        assert_eq!(ours.verify(message), None);
        for at in 0..signed.len() {
            let mut forged = signed.clone();
            forged[at] ^= 1;
            assert_eq!(ours.verify(&forged), None, "{at}");
        }
        for length in 0..signed.len() {
            assert_eq!(ours.verify(&signed[..length]), None);
        }
    }

    #[test]
    fn what_is_signed_is_still_the_message_to_a_release_that_knows_no_signatures() {
        let signed = Signer::new(&[1; 32]).sign(br#"{"from":"a"}"#);
        let read: serde_json::Value = serde_json::from_slice(&signed).unwrap();
        assert_eq!(read["from"], "a");
        assert_eq!(read["mac"].as_str().unwrap().len(), DIGITS);
    }

    #[test]
    fn a_probe_is_signed_too() {
        let (ours, theirs) = (Signer::new(&[1; 32]), Signer::new(&[2; 32]));
        let signed = ours.sign_text("17 me");
        assert_eq!(ours.verify_text(&signed), Some("17 me"));
        assert_eq!(theirs.verify_text(&signed), None);
        assert_eq!(ours.verify_text("17 me"), None);
        assert_eq!(ours.verify_text(&signed.replace("17", "18")), None);
    }
}
