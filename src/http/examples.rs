//! Examples in the OpenAPI document. Owns that every field of a body has one, and that a request made of them is
//! answered well by a replica that has just been started: what the API's page sends untouched works.
//!
//! One table by the field's name, since a name means the same wherever it stands.

use serde_json::{Value, json};
use utoipa::openapi::schema::Object;
use utoipa::openapi::{OpenApi, RefOr, Schema};

/// A whole body, by its schema's name: what a client sends at the least, and no guess at a token.
fn of_body(name: &str) -> Option<Value> {
    let ann = json!({ "name": "Ann", "email": "ann@example.com" });
    let admin = json!({ "name": "Root", "email": "root@example.com" });
    Some(match name {
        "AcquireBody" => json!({ "userId": "ann", "userInfo": ann }),
        "ReleaseBody" => json!({ "userId": "ann" }),
        "ForceReleaseBody" => {
            json!({ "adminId": "root", "adminInfo": admin, "reason": "The holder is on holiday" })
        }
        "PositionBody" => json!({ "userId": "ann", "position": { "x": 120.5, "y": 48 } }),
        "VerifyBody" => json!({ "fencingToken": 1 }),
        "UserInfoInput" => ann,
        _ => return None,
    })
}

/// A field, by its name.
fn of_field(name: &str) -> Option<Value> {
    Some(match name {
        "appointmentId" | "id" => json!("42"),
        "userId" => json!("ann"),
        "adminId" => json!("root"),
        "name" => json!("Ann"),
        "email" => json!("ann@example.com"),
        "sessionId" => json!("tab-1"),
        "transfer" => json!(false),
        "fencingToken" | "version" => json!(1),
        "reason" => json!("The holder is on holiday"),
        "x" => json!(120.5),
        "y" => json!(48),
        "success" | "locked" => json!(true),
        "message" => json!("Lock acquired"),
        "code" => json!("LOCK_HELD"),
        "createdAt" | "serverTime" | "at" => json!("2026-11-24T04:31:34.973Z"),
        "expiresAt" => json!("2026-11-24T04:36:34.973Z"),
        "expiresInMs" => json!(300_000),
        "limit" => json!(100),
        "after" => json!("41"),
        "before" => json!(9),
        _ => return None,
    })
}

fn add(object: &mut Object) {
    for (name, field) in &mut object.properties {
        if let RefOr::T(Schema::Object(field)) = field {
            if field.example.is_none() && field.properties.is_empty() {
                field.example = of_field(name);
            }
            add(field);
        }
    }
}

/// Puts the examples in.
pub(super) fn put_in(document: &mut OpenApi) {
    for (name, schema) in document
        .components
        .iter_mut()
        .flat_map(|it| &mut it.schemas)
    {
        if let RefOr::T(Schema::Object(object)) = schema {
            object.example = of_body(name);
            add(object);
        }
    }
    let paths = document.paths.paths.values_mut();
    let operations = paths.flat_map(|path| [&mut path.get, &mut path.post, &mut path.delete]);
    let parameters = operations.flatten().filter_map(|it| it.parameters.as_mut());
    for parameter in parameters.flatten() {
        let RefOr::T(parameter) = parameter else {
            continue;
        };
        if let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema {
            // A page of a list begins at its beginning.
            if parameter.name == "id" {
                schema.example = of_field("id");
            }
        }
    }
}
