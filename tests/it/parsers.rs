//! The parsers of every wire shape, with random input: nothing panics, a rejection is one readable line, and accepted
//! input is within the contract's bounds.

mod bounds;
mod strategies;

use std::fmt::Debug;
use std::net::IpAddr;

use apptlock::domain::ids::{AppointmentId, Email, Name, Note, SessionId, TenantId, UserId};
use apptlock::limits::Proxies;
use apptlock::protocol::{
    AcquireBody, CursorPosition, Envelope, ForceReleaseBody, Handshake, InvalidInput, Lock,
    Message, Object, PositionBody, RefreshToken, ReleaseBody, SubscribePayload, VerifyBody,
    from_slice, from_value,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;

use bounds::{Bounded, id, within};
use strategies::{any_json, hop, nearly_good, nearly_json, network, samples, text};

/// Every field that a client may name.
const FIELDS: [&str; 22] = [
    "userId",
    "userInfo",
    "name",
    "email",
    "sessionId",
    "transfer",
    "fencingToken",
    "adminId",
    "adminInfo",
    "reason",
    "position",
    "x",
    "y",
    "token",
    "appointmentId",
    "cursors",
    "presence",
    // Only between replicas.
    "from",
    "message",
    "change",
    "room",
    "frames",
];

/// Maximum length of a rejection, whatever the input.
const LONGEST_MESSAGE: usize = 1000;

/// The message without its quotations of the input.
fn unquoted(message: &str) -> String {
    let mut text = message.to_owned();
    for quote in ['"', '`'] {
        if let (Some(first), Some(last)) = (text.find(quote), text.rfind(quote)) {
            text.replace_range(first..=last, "");
        }
    }
    text
}

fn readable(fault: &InvalidInput) -> Result<(), TestCaseError> {
    let message = fault.to_string();
    prop_assert!(!message.trim().is_empty());
    prop_assert!(
        !message.chars().any(char::is_control) && !message.contains(['\u{2028}', '\u{2029}']),
        "more than one line: {message:?}"
    );
    prop_assert!(
        message.len() <= LONGEST_MESSAGE,
        "{} bytes: {message:?}",
        message.len()
    );
    let ours = unquoted(&message);
    for word in [
        "i64", "u64", "i32", "u32", "f64", "f32", "struct", "enum", "unit", "::", "Option",
        "newtype", "tuple",
    ] {
        prop_assert!(!ours.contains(word), "names {word}: {message:?}");
    }
    match fault {
        InvalidInput::Malformed(_) => {
            prop_assert!(message.starts_with("the body is not JSON: "), "{message:?}");
        }
        InvalidInput::Invalid { field, .. } => {
            prop_assert!(message.starts_with(&format!("{field}: ")), "{message:?}");
            for part in field.split('.') {
                prop_assert!(
                    part == "body" || FIELDS.contains(&part),
                    "no field of ours: {field:?}"
                );
            }
        }
    }
    Ok(())
}

fn judge<T: Bounded + Debug>(outcome: &Result<T, InvalidInput>) -> Result<(), TestCaseError> {
    match outcome {
        Ok(value) => value
            .bounds()
            .map_err(|fault| TestCaseError::fail(format!("accepted {value:?}: {fault}"))),
        Err(fault) => readable(fault),
    }
}

/// A body of REST, which arrives as bytes.
fn bytes_as<T: DeserializeOwned + Bounded + Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
    let outcome = from_slice::<T>(bytes);
    judge(&outcome)?;
    let json = serde_json::from_slice::<Value>(bytes);
    // An ignored field only has to be well-formed: a number in it may be out of any range.
    let form = std::str::from_utf8(bytes)
        .is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
    if let Err(InvalidInput::Malformed(fault)) = &outcome {
        prop_assert!(
            json.is_err(),
            "called malformed ({fault}), and is JSON: {json:?}"
        );
    } else if outcome.is_ok() {
        prop_assert!(form, "accepted what is not JSON");
    }
    Ok(())
}

/// A payload of a socket, which arrives as JSON; read as bytes it has the same meaning.
fn value_as<T: DeserializeOwned + Bounded + Debug>(value: &Value) -> Result<(), TestCaseError> {
    let outcome = from_value::<Object<T>>(value.clone());
    judge(&outcome)?;
    if let Err(fault) = &outcome {
        prop_assert!(
            matches!(fault, InvalidInput::Invalid { .. }),
            "it is JSON: {fault:?}"
        );
    }
    let bytes = value.to_string().into_bytes();
    judge(&from_slice::<T>(&bytes))?;
    prop_assert_eq!(
        outcome.is_ok(),
        from_slice::<T>(&bytes).is_ok(),
        "{} means two things",
        value
    );
    Ok(())
}

fn every_body(bytes: &[u8]) -> Result<(), TestCaseError> {
    bytes_as::<AcquireBody>(bytes)?;
    bytes_as::<ReleaseBody>(bytes)?;
    bytes_as::<ForceReleaseBody>(bytes)?;
    bytes_as::<PositionBody>(bytes)?;
    bytes_as::<VerifyBody>(bytes)
}

fn every_payload(value: &Value) -> Result<(), TestCaseError> {
    value_as::<AcquireBody>(value)?;
    value_as::<ReleaseBody>(value)?;
    value_as::<ForceReleaseBody>(value)?;
    value_as::<PositionBody>(value)?;
    value_as::<VerifyBody>(value)?;
    value_as::<Handshake>(value)?;
    value_as::<CursorPosition>(value)?;
    value_as::<RefreshToken>(value)?;
    judge(&from_value::<SubscribePayload>(value.clone()))
}

/// Messages from the bus: each one that can be read can be shown to clients and forwarded, with the same content.
fn envelope(bytes: &[u8], exact: bool) -> Result<(), TestCaseError> {
    let Ok(read) = Envelope::decode(bytes) else {
        return Ok(());
    };
    if let Message::Change(change) = &read.message {
        id(change.state.room.appointment.as_str()).map_err(TestCaseError::fail)?;
        within(change.state.room.tenant.as_str(), 0, 200).map_err(TestCaseError::fail)?;
        // A client that is shown it gets JSON, or nothing.
        let shown = std::panic::catch_unwind(|| {
            Lock::of(&change.state).map(|lock| serde_json::to_string(&lock))
        });
        prop_assert!(shown.is_ok(), "{change:?} cannot be shown");
    }
    if matches!(read.message, Message::Unknown { .. }) {
        return Ok(());
    }
    let again = Envelope::decode(&read.clone().encode())
        .map_err(|fault| TestCaseError::fail(format!("{read:?} cannot be read again: {fault}")))?;
    if exact {
        prop_assert_eq!(format!("{:?}", &read), format!("{:?}", &again));
    }
    Ok(())
}

/// Creates each kind of name from a text, and checks that its bounds decide the result.
fn names(text: &str) -> Result<(), TestCaseError> {
    let plain = !text.chars().any(char::is_control);
    let lines = !text
        .chars()
        .any(|c| c.is_control() && !['\n', '\r', '\t'].contains(&c));
    let blank = text.trim().is_empty();
    let length = text.len();
    let id = plain && (1..=200).contains(&length);
    for (kind, made, expected) in [
        (
            "appointment",
            AppointmentId::new(text).map(|made| made.as_str() == text),
            id,
        ),
        (
            "user",
            UserId::new(text).map(|made| made.as_str() == text),
            id,
        ),
        (
            "session",
            SessionId::new(text).map(|made| made.as_str() == text),
            id,
        ),
        (
            "tenant",
            TenantId::new(text).map(|made| made.as_str() == text),
            plain && length <= 200,
        ),
        (
            "name",
            Name::new(text).map(|made| made.as_str() == text),
            id && !blank,
        ),
        (
            "email",
            Email::new(text).map(|made| made.as_str() == text),
            plain && length <= 320,
        ),
        (
            "note",
            Note::new(text).map(|made| made.as_str() == text),
            lines && length <= 1000,
        ),
    ] {
        prop_assert_eq!(made.is_ok(), expected, "{} of {:?}", kind, text);
        match made {
            Ok(same) => prop_assert!(same, "a {kind} is not the text that was given"),
            Err(fault) => {
                let fault = fault.to_string();
                prop_assert!(!fault.is_empty() && !fault.chars().any(char::is_control));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_mean_nothing_are_refused_in_one_line(bytes in vec(any::<u8>(), 0..200)) {
        every_body(&bytes)?;
        envelope(&bytes, false)?;
    }

    #[test]
    fn any_json_is_accepted_within_bounds_or_refused_by_field(value in any_json()) {
        every_payload(&value)?;
        every_body(value.to_string().as_bytes())?;
        envelope(value.to_string().as_bytes(), true)?;
    }

    #[test]
    fn what_is_nearly_good_is_accepted_within_bounds_or_refused_by_field(value in nearly_good()) {
        every_payload(&value)?;
        every_body(value.to_string().as_bytes())?;
        envelope(value.to_string().as_bytes(), true)?;
    }

    #[test]
    fn what_is_nearly_json_is_read_or_refused_in_one_line(bytes in nearly_json()) {
        every_body(&bytes)?;
        envelope(&bytes, false)?;
    }

    #[test]
    fn a_name_is_what_its_bounds_say_and_nothing_else(text in text()) {
        names(&text)?;
    }

    #[test]
    fn a_client_is_its_peer_unless_a_trusted_proxy_says_otherwise(
        networks in vec(network(), 0..4),
        peer in prop_oneof![any::<IpAddr>(), any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c]))],
        lists in vec(vec(hop(), 0..4), 0..3),
    ) {
        let text = networks.join(",");
        let Ok(proxies) = Proxies::parse(&text) else { return Ok(()) };
        let lists: Vec<String> = lists.iter().map(|hops| hops.join(", ")).collect();
        let client = proxies.client(peer, lists.iter().map(String::as_str));
        let said = lists.iter().flat_map(|list| list.split(',')).any(|hop| {
            let hop = hop.trim();
            hop.parse() == Ok(client) || hop.parse().is_ok_and(|hop: std::net::SocketAddr| hop.ip() == client)
        });
        prop_assert!(client == peer || said, "{client} came from nowhere");
        if networks.is_empty() {
            prop_assert_eq!(client, peer);
        }
        // Entries that a client forges come before those of the proxies, and count only if all of the latter are
        // proxies too.
        let forged = std::iter::once("nonsense").chain(lists.iter().map(String::as_str));
        prop_assert_eq!(proxies.client(peer, forged), client);
    }
}

#[test]
fn every_sample_is_what_it_is_meant_to_be() {
    let good: Vec<bool> = samples()
        .iter()
        .map(|sample| {
            let bytes = sample.to_string().into_bytes();
            [
                from_slice::<AcquireBody>(&bytes).is_ok(),
                from_slice::<PositionBody>(&bytes).is_ok(),
                from_slice::<VerifyBody>(&bytes).is_ok(),
                from_value::<SubscribePayload>(sample.clone()).is_ok(),
                from_value::<Object<RefreshToken>>(sample.clone()).is_ok(),
                Envelope::decode(&bytes).is_ok(),
            ]
            .contains(&true)
        })
        .collect();
    assert!(good.iter().all(|good| *good), "{good:?}");
}
