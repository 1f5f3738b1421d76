//! The parsers of every wire shape, at random: whatever comes, nothing panics, what is refused is refused in
//! one line that a client can read, and what is accepted keeps the contract's bounds.

use std::fmt::Debug;
use std::net::IpAddr;

use apptlock::domain::ids::{AppointmentId, Email, Name, Note, SessionId, TenantId, UserId};
use apptlock::limits::Proxies;
use apptlock::protocol::{
    AcquireBody, CursorPosition, Envelope, ForceReleaseBody, Handshake, InvalidInput, Lock,
    Message, Object, PositionBody, RefreshToken, ReleaseBody, SubscribePayload, UserInfoBody,
    VerifyBody, from_slice, from_value,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

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
    // What only replicas say.
    "from",
    "message",
    "change",
    "room",
    "frames",
];

/// A refusal is never longer than this, whatever was sent.
const LONGEST_MESSAGE: usize = 1000;

/// What was accepted, as far as the contract bounds it.
trait Bounded {
    fn bounds(&self) -> Result<(), String>;
}

fn id(text: &str) -> Result<(), String> {
    within(text, 1, 200)
}

fn within(text: &str, least: usize, most: usize) -> Result<(), String> {
    if !(least..=most).contains(&text.len()) {
        return Err(format!("{text:?} is {} bytes long", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} has control characters"));
    }
    Ok(())
}

fn ids(user: Option<&UserId>, session: Option<&SessionId>) -> Result<(), String> {
    user.map_or(Ok(()), |user| id(user.as_str()))?;
    session.map_or(Ok(()), |session| id(session.as_str()))
}

fn person(info: Option<&UserInfoBody>) -> Result<(), String> {
    let Some(info) = info else { return Ok(()) };
    within(info.name.as_str(), 1, 200)?;
    if info.name.as_str().trim().is_empty() {
        return Err("a blank name".into());
    }
    within(info.email.as_str(), 0, 320)
}

/// What PostgreSQL gives back as it was given.
fn near(numbers: [f64; 2]) -> Result<(), String> {
    if numbers.iter().all(|number| number.abs() <= 1e15) {
        Ok(())
    } else {
        Err(format!("{numbers:?} is too far away"))
    }
}

impl Bounded for AcquireBody {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), self.session_id.as_ref())?;
        person(self.user_info.as_ref())
    }
}

impl Bounded for ReleaseBody {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), self.session_id.as_ref())
    }
}

impl Bounded for ForceReleaseBody {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), None)?;
        ids(self.admin_id.as_ref(), None)?;
        person(self.admin_info.as_ref())?;
        match &self.reason {
            Some(reason) if reason.as_str().len() > 1000 => Err("a long reason".into()),
            _ => Ok(()),
        }
    }
}

impl Bounded for PositionBody {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), None)?;
        near([self.position.x, self.position.y])
    }
}

impl Bounded for VerifyBody {
    fn bounds(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Bounded for Handshake {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), self.session_id.as_ref())?;
        person(self.user_info.as_ref())
    }
}

impl Bounded for RefreshToken {
    fn bounds(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Bounded for SubscribePayload {
    fn bounds(&self) -> Result<(), String> {
        id(self.appointment_id.as_str())
    }
}

impl Bounded for CursorPosition {
    fn bounds(&self) -> Result<(), String> {
        id(self.appointment_id.as_str())?;
        ids(self.user_id.as_ref(), None)?;
        person(self.user_info.as_ref())?;
        near([self.position.x, self.position.y])
    }
}

impl<T: Bounded> Bounded for Object<T> {
    fn bounds(&self) -> Result<(), String> {
        self.0.bounds()
    }
}

/// The message without what it quotes of the client's own words.
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

/// A body of REST, which comes as bytes.
fn bytes_as<T: DeserializeOwned + Bounded + Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
    let outcome = from_slice::<T>(bytes);
    judge(&outcome)?;
    let json = serde_json::from_slice::<Value>(bytes);
    // Of a field that nobody reads only the form counts: a number in it may be larger than any.
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

/// A payload of a socket, which comes as JSON; read as bytes it means the same.
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

/// What came over the bus: whatever is read can be shown to clients and sent on, and says the same there.
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

/// Bodies and payloads that are good, and messages of the bus.
fn samples() -> Vec<Value> {
    let user_info = json!({ "name": "Ann Ü", "email": "ann@example.com" });
    let room = json!({ "tenant": "red", "appointment": "a-1" });
    let lease = json!({
        "user_id": "ann", "user_info": { "name": "Ann", "email": "", "position": { "x": 1.5, "y": -2 } },
        "session_id": "tab", "granted_at": "2026-11-04T10:00:00Z", "expires_at": "2026-11-04T10:05:00.123456Z",
        "fencing_token": 7
    });
    vec![
        json!({ "userId": "ann", "userInfo": user_info, "sessionId": "tab", "transfer": true }),
        json!({ "userId": "ann", "sessionId": "tab", "fencingToken": 7 }),
        json!({ "adminId": "root", "adminInfo": user_info, "userId": "ann", "reason": "two\nlines", "fencingToken": 7 }),
        json!({ "userId": "ann", "position": { "x": 1, "y": -2.5 } }),
        json!({ "fencingToken": i64::MAX }),
        json!({ "token": "a.b.c", "userId": "ann", "userInfo": user_info, "sessionId": "tab" }),
        json!("a-1"),
        json!({ "appointmentId": "a-1", "cursors": "each", "presence": false }),
        json!({ "appointmentId": "a-1", "position": { "x": 1, "y": 2 }, "userId": "ann", "userInfo": user_info }),
        json!({ "from": "replica", "message": { "change": {
            "state": { "room": room, "version": 9, "reason": "acquired", "lease": lease, "now": "2026-11-04T10:00:01+01:00" },
            "admin": { "admin_id": "root", "admin_info": { "name": "Root", "email": "" } } } } }),
        json!({ "from": "replica", "message": { "cursors": { "room": room, "frames": [
            { "user_id": "ann", "update": { "position": { "x": 1, "y": 2 } } } ] } } }),
        json!({ "from": "replica", "message": { "cursor-left": { "room": room, "user_id": "ann" } } }),
        json!({ "from": "replica", "message": { "joined": { "room": room, "member": { "user_id": "ann" } } } }),
        json!({ "from": "replica", "message": { "left": { "room": room, "member": { "user_id": "ann", "session_id": "tab" } } } }),
        json!({ "from": "replica", "message": { "roster": { "room": room, "members": [{ "user_id": "ann" }] } } }),
        json!({ "from": "replica", "message": { "roster-wanted": { "room": room } } }),
    ]
}

fn text() -> BoxedStrategy<String> {
    prop_oneof![
        4 => any::<String>(),
        2 => "[a-z]{1,8}",
        1 => "\\PC{190,210}",
        1 => (190_usize..=1010).prop_map(|length| "x".repeat(length)),
        1 => select(vec!["", " ", "\0", "\n", "a\u{85}b", "a\u{2028}b", "each", "batch", "none", "at line 3", "a at line 1 column 2",
            "expected i64", "missing field `x`", "9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+23:59",
            "2016-12-31T23:59:60Z", "2026-11-04T10:00:00.999999999+00:00"]).prop_map(str::to_owned),
    ]
    .boxed()
}

fn key() -> BoxedStrategy<String> {
    let inner = [
        "tenant",
        "appointment",
        "state",
        "lease",
        "user_id",
        "expires_at",
        "now",
        "version",
        "update",
    ];
    prop_oneof![
        4 => select(FIELDS.to_vec()).prop_map(str::to_owned),
        2 => select(inner.to_vec()).prop_map(str::to_owned),
        1 => text(),
    ]
    .boxed()
}

/// Any JSON. Fractions are such that every reader agrees on them to the last bit.
fn any_json() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        select(vec![f64::MAX, 1e300, -0.0, 5e-324, 9.3e18, 1e19]).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((key(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
    .boxed()
}

/// The pointers to every place in it.
fn places(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    walk(value, &format!("{at}/{key}"), found);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    walk(value, &format!("{at}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

/// Puts `value` in a place; or adds or removes a field, where the place is an object.
fn change(sample: &mut Value, place: &Index, value: Value, key: String, how: u8) {
    let places: Vec<String> = places(sample);
    let place: &String = place.get(&places);
    let Some(found) = sample.pointer_mut(place) else {
        return;
    };
    match (how, found) {
        (0, Value::Object(fields)) => {
            fields.insert(key, value);
        }
        (1, Value::Object(fields)) => {
            if let Some(key) = fields.keys().next().cloned() {
                fields.remove(&key);
            }
        }
        (_, found) => *found = value,
    }
}

/// A good sample in which one place holds something else, or which has a field more or less.
fn nearly_good() -> BoxedStrategy<Value> {
    (
        select(samples()),
        vec((any::<Index>(), any_json(), key(), 0..4_u8), 0..3),
    )
        .prop_map(|(mut sample, changes)| {
            for (index, value, key, how) in changes {
                change(&mut sample, &index, value, key, how);
            }
            sample
        })
        .boxed()
}

/// The bytes of a good sample, with some of them changed.
fn nearly_json() -> BoxedStrategy<Vec<u8>> {
    let edit = (any::<Index>(), any::<u8>(), 0..4_u8);
    (nearly_good(), vec(edit, 0..4))
        .prop_map(|(value, edits)| {
            let mut bytes = value.to_string().into_bytes();
            for (place, byte, how) in edits {
                if bytes.is_empty() {
                    break;
                }
                let place = place.index(bytes.len());
                match how {
                    0 => bytes.insert(place, byte),
                    1 => drop(bytes.remove(place)),
                    2 => bytes.truncate(place),
                    _ => bytes[place] = byte,
                }
            }
            bytes
        })
        .boxed()
}

/// Makes one of each kind of name out of a text, and says whether that is what its bounds ask for.
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

fn network() -> BoxedStrategy<String> {
    prop_oneof![
        (any::<[u8; 4]>(), 0..=34_u8)
            .prop_map(|(address, bits)| format!("{}/{bits}", IpAddr::from(address))),
        (any::<[u8; 16]>(), 0..=130_u8)
            .prop_map(|(address, bits)| format!("{}/{bits}", IpAddr::from(address))),
        Just("10.0.0.0/8".to_owned()),
        Just("0.0.0.0/0".to_owned()),
        any::<[u8; 4]>().prop_map(|address| IpAddr::from(address).to_string()),
        text(),
    ]
    .boxed()
}

fn hop() -> BoxedStrategy<String> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|address| IpAddr::from(address).to_string()),
        any::<[u8; 16]>().prop_map(|address| IpAddr::from(address).to_string()),
        any::<[u8; 3]>().prop_map(|[a, b, c]| format!("10.{a}.{b}.{c}")),
        any::<[u8; 3]>().prop_map(|[a, b, c]| format!("::ffff:10.{a}.{b}.{c}")),
        (any::<[u8; 16]>(), any::<u16>())
            .prop_map(|(address, port)| format!("[{}]:{port}", IpAddr::from(address))),
        text(),
    ]
    .boxed()
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
        // What a client forges stands before what the proxies write, and is looked at only where all that
        // they wrote are proxies too: then it changes nothing but that.
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
