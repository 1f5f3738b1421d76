//! From bytes to a checked value. Owns the difference between malformed (not JSON: 400) and invalid (JSON,
//! but not what was expected: 422), and that the message names the field.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::refusal::{Code, Refusal};

/// Input that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// Not JSON at all.
    #[error("the body is not JSON: {0}")]
    Malformed(String),
    /// JSON with a field that is missing, of the wrong type, or not acceptable.
    #[error("{field}: {fault}")]
    Invalid {
        /// The path of the field, or `body` for the whole.
        field: String,
        /// What is wrong with it.
        fault: String,
    },
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

/// A value that comes as a JSON object. serde's derived structs would take a list too, by position, which
/// no client means.
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

/// For a field that is an object: `#[serde(deserialize_with = "object")]`.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Object::deserialize(from).map(|Object(value)| value)
}

/// For a field that is an object, null, or not there: `#[serde(default, deserialize_with = "maybe_object")]`.
pub(super) fn maybe_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(from)?.map(|Object(value)| value))
}

/// Reads a body, which is an object.
///
/// # Errors
/// [`InvalidInput`], which says where and what.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, InvalidInput> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut reader).map_err(explain)?;
    reader
        .end()
        .map_err(|fault| InvalidInput::Malformed(fault.to_string()))?;
    Ok(value)
}

/// Reads an event's payload, which is JSON already.
///
/// # Errors
/// [`InvalidInput::Invalid`], which says where and what.
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
    // serde_json ends a data error with its place in the text; the path says it better.
    let fault = whole
        .rsplit_once(" at line ")
        .map_or(whole.as_str(), |(head, _)| head);
    // serde names its own types.
    let fault = ["i64", "u64", "i32", "u32"]
        .iter()
        .find_map(|kind| fault.strip_suffix(&format!("expected {kind}")))
        .map(|head| format!("{head}expected a whole number"))
        .or_else(|| {
            Some(format!(
                "{}expected a number",
                fault.strip_suffix("expected f64")?
            ))
        })
        .unwrap_or_else(|| fault.to_owned());
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
        fault,
    }
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
        assert!(matches!(
            from_slice::<AcquireBody>(b"{\"userId\":\"\xff\"}"),
            Err(InvalidInput::Malformed(_))
        ));
    }
}
