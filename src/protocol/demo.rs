//! The demo page's own routes, which only `dev` serves: its records, and which installation this is.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;

use crate::domain::ids::UserId;

use super::input::whole;
use super::lock::rfc3339_millis;

/// Body of a save.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DemoSaveBody {
    /// The token that came with the lease.
    #[serde(deserialize_with = "whole")]
    pub fencing_token: i64,
    /// The user who saves: must be the lease's holder.
    pub user_id: Option<UserId>,
    /// The fields, each a text.
    #[serde(deserialize_with = "fields")]
    pub record: BTreeMap<String, String>,
}

/// Texts that PostgreSQL can keep in `jsonb`.
fn fields<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let fields = BTreeMap::<String, String>::deserialize(from)?;
    let texts = fields.iter().flat_map(|(name, text)| [name, text]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(D::Error::custom("must not hold the character U+0000"));
    }
    Ok(fields)
}

/// The record, after a look or a save.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DemoRecordAnswer {
    /// True.
    pub success: bool,
    /// For people.
    pub message: String,
    /// The fields, or null if none were saved yet.
    pub record: Option<BTreeMap<String, String>>,
    /// The number of saves so far.
    pub revision: i64,
    /// The user who saved last.
    pub saved_by: Option<String>,
    /// Name of that user.
    pub saved_by_name: Option<String>,
    /// The time of the last save.
    #[serde(serialize_with = "maybe_time")]
    pub saved_at: Option<OffsetDateTime>,
}

fn maybe_time<S: serde::Serializer>(at: &Option<OffsetDateTime>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339_millis(at, to),
        None => to.serialize_none(),
    }
}

/// The product and the installation, so that a page can tell another replica of its own from any other server.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DemoInfoAnswer {
    /// True.
    pub success: bool,
    /// For people.
    pub message: String,
    /// Always `apptlock`.
    pub product: &'static str,
    /// The name that all replicas over one database share.
    pub installation: String,
}

#[cfg(test)]
mod tests {
    use super::super::from_slice;
    use super::*;

    #[test]
    fn a_record_is_an_object_of_texts_that_postgresql_can_keep() {
        let body = |record: &str| {
            let text = format!(r#"{{"fencingToken": 1, "record": {record}}}"#);
            from_slice::<DemoSaveBody>(text.as_bytes()).map_err(|fault| fault.to_string())
        };
        assert_eq!(body(r#"{"notes": "x"}"#).unwrap().record["notes"], "x");
        for record in [
            "[]",
            "3",
            "null",
            r#"{"a": 1}"#,
            r#"{"a\u0000": ""}"#,
            r#"{"a": "\u0000"}"#,
        ] {
            let fault = body(record).unwrap_err();
            assert!(fault.starts_with("record"), "{record}: {fault}");
        }
    }
}
