//! Random input: valid samples, nearly valid ones, and any text, JSON, network or address.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::FIELDS;

/// Valid bodies and payloads, and messages of the bus.
pub(super) fn samples() -> Vec<Value> {
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

pub(super) fn text() -> BoxedStrategy<String> {
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
pub(super) fn any_json() -> BoxedStrategy<Value> {
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

/// A valid sample with another value in one place, or with one field more or less.
pub(super) fn nearly_good() -> BoxedStrategy<Value> {
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

/// The bytes of a valid sample, with some of them changed.
pub(super) fn nearly_json() -> BoxedStrategy<Vec<u8>> {
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

pub(super) fn network() -> BoxedStrategy<String> {
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

pub(super) fn hop() -> BoxedStrategy<String> {
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
