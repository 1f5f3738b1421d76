//! From bytes to a checked value. Owns the difference between malformed (not JSON: 400) and invalid (JSON with an
//! invalid field: 422), and that the message names the field.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::refusal::{Code, Refusal};

/// Rejected input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// Not JSON.
    #[error("the body is not JSON: {0}")]
    Malformed(String),
    /// JSON with a field that is missing, of the wrong type, or out of range.
    #[error("{field}: {fault}")]
    Invalid {
        /// Path of the field, or `body` for the whole.
        field: String,
        /// Description of the fault.
        fault: String,
    },
}

impl InvalidInput {
    /// The same fault in something other than a body: the payload of an event, or a handshake's `auth`.
    #[must_use]
    pub fn of_a(self, whole: &str) -> Self {
        match self {
            Self::Invalid { field, fault } if field == "body" => Self::Invalid {
                field: whole.into(),
                fault,
            },
            other => other,
        }
    }
}

impl From<InvalidInput> for Refusal {
    fn from(input: InvalidInput) -> Self {
        let code = match input {
            InvalidInput::Malformed(_) => Code::Malformed,
            InvalidInput::Invalid { .. } => Code::Invalid,
        };
        Self::new(code, input.to_string())
    }
}

/// Value that must be a JSON object. Structs that derive `Deserialize` would also accept a list, by position, which no
/// client intends.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Fields(PhantomData))
    }
}

/// Deserializes a field that is an object: `#[serde(deserialize_with = "object")]`.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Object::deserialize(from).map(|Object(value)| value)
}

/// Deserializes a field that is an object, null or missing: `#[serde(default, deserialize_with = "maybe_object")]`.
pub(super) fn maybe_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(from)?.map(|Object(value)| value))
}

/// Whole number, which may be written as 20.0: JSON Schema calls that an integer, and the encoders of some clients write
/// every number with a fraction. Large ones are rejected, since serde_json may round their last bits.
struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Whole;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Whole, E> {
                Ok(Whole(number))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                i64::try_from(number)
                    .map(Whole)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                const SURE: f64 = 1e15;
                if number.fract() == 0.0 && number.abs() <= SURE {
                    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
                    Ok(Whole(number as i64))
                } else {
                    Err(E::invalid_type(Unexpected::Float(number), &self))
                }
            }
        }
        from.deserialize_i64(Number)
    }
}

/// Deserializes a field that is a whole number: `#[serde(deserialize_with = "whole")]`.
pub(super) fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    Whole::deserialize(from).map(|Whole(number)| number)
}

/// Deserializes a field that is a whole number, null or missing: `#[serde(default, deserialize_with = "maybe_whole")]`.
pub(super) fn maybe_whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<Whole>::deserialize(from)?.map(|Whole(number)| number))
}

/// Parses a body, which must be an object.
///
/// # Errors
/// [`InvalidInput`], which names the field and the fault.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, InvalidInput> {
    // The whole text, since serde_json does not validate the fields that it skips.
    let text = std::str::from_utf8(bytes).map_err(|fault| {
        InvalidInput::Malformed(format!("invalid UTF-8 at byte {}", fault.valid_up_to()))
    })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let Object(value) = serde_path_to_error::deserialize(&mut reader).map_err(|fault| {
        // A syntax error takes precedence over an invalid field before it.
        match serde_json::from_str::<IgnoredAny>(text) {
            Err(error) => InvalidInput::Malformed(error.to_string()),
            Ok(IgnoredAny) => explain(fault),
        }
    })?;
    reader
        .end()
        .map_err(|fault| InvalidInput::Malformed(fault.to_string()))?;
    Ok(value)
}

/// Deserializes an event's payload, which has been parsed as JSON.
///
/// # Errors
/// [`InvalidInput::Invalid`], which names the field and the fault.
pub fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, InvalidInput> {
    serde_path_to_error::deserialize(value).map_err(explain)
}

fn explain(error: serde_path_to_error::Error<serde_json::Error>) -> InvalidInput {
    let path = error.path().to_string();
    let fault = error.into_inner();
    let whole = fault.to_string();
    if matches!(
        fault.classify(),
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof
    ) {
        return InvalidInput::Malformed(whole);
    }
    // serde_json may end a data error with its position in the text; the path is more useful.
    let position = format!(" at line {} column {}", fault.line(), fault.column());
    let fault = whole.strip_suffix(&position).unwrap_or(&whole);
    // serde names Rust's types.
    let fault = fault.strip_suffix("expected f64").map_or_else(
        || fault.to_owned(),
        |head| format!("{head}expected a number"),
    );
    let inside = |field: &str| {
        if path == "." {
            field.to_owned()
        } else {
            format!("{path}.{field}")
        }
    };
    let quoted = |prefix: &str| {
        fault
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix('`'))
    };
    if let Some(field) = quoted("missing field `") {
        return InvalidInput::Invalid {
            field: inside(field),
            fault: "is missing".into(),
        };
    }
    InvalidInput::Invalid {
        field: if path == "." { "body".into() } else { path },
        fault: on_one_line(&fault),
    }
}

/// serde quotes its input verbatim and at full length. This escapes what would begin a new line or move a terminal's
/// cursor, and cuts the middle of a long message.
fn on_one_line(fault: &str) -> String {
    const HEAD: usize = 150;
    const TAIL: usize = 100;
    let mut line = String::with_capacity(fault.len());
    for c in fault.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_unicode());
        } else {
            line.push(c);
        }
    }
    let count = line.chars().count();
    if count > HEAD + TAIL {
        let head: String = line.chars().take(HEAD).collect();
        let tail: String = line.chars().skip(count - TAIL).collect();
        line = format!("{head} … {tail}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::rest::AcquireBody;
    use super::*;

    fn fault(body: &str) -> String {
        from_slice::<AcquireBody>(body.as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_message_names_the_field_and_the_fault() {
        assert_eq!(
            fault(r#"{"userId":7}"#),
            "userId: invalid type: integer `7`, expected a string"
        );
        let token = from_slice::<super::super::rest::VerifyBody>(br#"{"fencingToken":"7"}"#);
        assert_eq!(
            token.unwrap_err().to_string(),
            "fencingToken: invalid type: string \"7\", expected a whole number"
        );
        assert_eq!(fault(r#"{"userId":""}"#), "userId: must not be empty");
        assert_eq!(
            fault(r#"{"userInfo":{"name":"A"}}"#),
            "userInfo.email: is missing"
        );
        assert_eq!(
            fault(r#"{"userInfo":{"email":"","name":"a\u0000"}}"#)
                .split(" (")
                .next()
                .unwrap(),
            "userInfo.name: must not contain control characters"
        );
        assert_eq!(
            fault("[1]").split(',').next().unwrap(),
            "body: invalid type: sequence"
        );
        assert_eq!(
            fault("null").split(',').next().unwrap(),
            "body: invalid type: null"
        );
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_fraction() {
        let token = |number: &str| {
            let body = format!(r#"{{"fencingToken":{number}}}"#);
            let verify = from_slice::<super::super::rest::VerifyBody>(body.as_bytes());
            let release = from_slice::<super::super::rest::ReleaseBody>(body.as_bytes());
            let token = verify.map(|it| it.fencing_token);
            assert_eq!(token.is_ok(), release.is_ok(), "{number}");
            token.map_err(|fault| fault.to_string())
        };
        for (number, value) in [
            ("20", 20),
            ("20.0", 20),
            ("2e1", 20),
            ("-1.0", -1),
            ("999999999999999.0", 999_999_999_999_999),
            ("999999999999999.00000", 999_999_999_999_999),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(token(number), Ok(value), "{number}");
        }
        for number in [
            "1.5",
            "1e300",
            "9007199254740991.0",
            "9223372036854775808",
            "-9223372036854775809",
        ] {
            let fault = token(number).unwrap_err();
            assert!(
                fault.starts_with("fencingToken: invalid ")
                    && fault.ends_with("expected a whole number"),
                "{number}: {fault}"
            );
        }
    }

    #[test]
    fn what_a_message_quotes_is_one_short_line() {
        let long = format!(r#"{{"userInfo":"{}"}}"#, "x".repeat(9000));
        let message = fault(&long);
        assert!(message.len() < 300, "{message}");
        assert!(
            message.ends_with("xxx\", expected a JSON object"),
            "{message}"
        );
        let room = |cursors: &str| {
            let room = serde_json::json!({ "appointmentId": "a", "cursors": cursors });
            from_value::<super::super::socket::SubscribePayload>(room)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            room("a\nb\u{2028}"),
            "cursors: unknown variant `a\\u{a}b\\u{2028}`, expected one of `each`, `batch`, `none`"
        );
        let info = serde_json::json!({ "userInfo": "here at line 3" });
        assert_eq!(
            from_value::<Object<AcquireBody>>(info)
                .unwrap_err()
                .to_string(),
            "userInfo: invalid type: string \"here at line 3\", expected a JSON object"
        );
    }

    #[test]
    fn a_list_is_not_an_object() {
        assert_eq!(
            fault(r#"{"userInfo":["Ann","a@example.com"]}"#),
            "userInfo: invalid type: sequence, expected a JSON object"
        );
        assert_eq!(
            fault("[]"),
            "body: invalid type: sequence, expected a JSON object"
        );
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for body in [
            "",
            "{",
            "{]",
            "{\"userId\":\"a\"} x",
            "{\"userId\":1e999}",
            "\u{feff}{}",
        ] {
            assert!(
                matches!(
                    from_slice::<AcquireBody>(body.as_bytes()),
                    Err(InvalidInput::Malformed(_))
                ),
                "{body:?} gave {:?}",
                from_slice::<AcquireBody>(body.as_bytes())
            );
        }
        for body in [
            &b"{\"userId\":\"\xff\"}"[..],
            b"{\"unknown\":\"\xff\"}",
            b"{\"userId\":\"a\"}\xff",
        ] {
            assert!(matches!(
                from_slice::<AcquireBody>(body),
                Err(InvalidInput::Malformed(_))
            ));
        }
    }
}
