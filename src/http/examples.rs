//! Examples in the OpenAPI document. Owns that every field of a body has one, and that a request built from them succeeds
//! on a replica that has just been started: the API's page works with the values that it suggests.
//!
//! One table by field name, since a name means the same in every schema.

use serde_json::{Value, json};
use utoipa::openapi::schema::Object;
use utoipa::openapi::{OpenApi, RefOr, Schema};

/// Example of a body, by the name of its schema: the minimum that a client sends, without a guessed token.
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

/// Example of a field, by its name.
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

/// Adds the examples to the document.
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
            // None for `before` and `after`: a list starts with its first page.
            if parameter.name == "id" {
                schema.example = of_field("id");
            }
        }
    }
}
