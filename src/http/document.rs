//! The OpenAPI document: its general parts, and corrections that its generator cannot make.

use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Content, Object, OpenApi as Specification, RefOr, Required, Schema, SchemaFormat,
};

use super::examples;
use crate::domain::ids::MAX_ID_BYTES;
use crate::protocol::Answer;

/// Content type of JSON.
pub(super) const JSON: &str = "application/json";

/// Document without routes. It lists the envelope because types of responses do not register their schemas.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "apptlock",
        description = "Edit locks on records, with live cursors. Every change is sent as a Socket.IO event at `/socket.io`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact(name = "apptlock")
    ),
    components(schemas(Answer)),
    modifiers(&Bearer),
    security(("bearer" = [])),
    tags(
        (name = "locks", description = "Lock of one appointment: at most one holder at a time."),
        (name = "audit", description = "For admins: history of an appointment, and leases in force.")
    )
)]
pub(super) struct Document;

/// Security scheme: bearer tokens.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut Specification) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.bearer_format = Some("JWT".into());
        http.description = Some("Not required if AUTH_MODE is trusted.".into());
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(http));
    }
}

/// Replaces the format `id` by the schema of an id, which is here once for parameters and bodies.
fn fill_in_ids(document: &mut Specification) {
    let fields = document
        .components
        .iter_mut()
        .flat_map(|it| it.schemas.values_mut())
        .filter_map(as_object)
        .flat_map(|body| body.properties.values_mut());
    let parameters = document
        .paths
        .paths
        .values_mut()
        .flat_map(|path| [&mut path.get, &mut path.post, &mut path.delete])
        .flatten()
        .flat_map(|operation| operation.parameters.iter_mut().flatten())
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => parameter.schema.as_mut(),
            RefOr::Ref(_) => None,
        });
    let id = SchemaFormat::Custom("id".into());
    for schema in fields.chain(parameters).filter_map(as_object) {
        if schema.format.as_ref() == Some(&id) {
            schema.format = None;
            schema.min_length = Some(1);
            schema.max_length = Some(MAX_ID_BYTES);
            schema.pattern = Some(r"^[^\x00-\x1f\x7f-\x9f]*$".into());
        }
    }
}

fn as_object(schema: &mut RefOr<Schema>) -> Option<&mut Object> {
    match schema {
        RefOr::T(Schema::Object(object)) => Some(object),
        _ => None,
    }
}

/// Marks each body without required fields as optional: an empty body is `{}`.
fn mark_optional_bodies(document: &mut Specification) {
    let schemas = document.components.iter().flat_map(|it| &it.schemas);
    let free: Vec<String> = schemas
        .filter_map(|(name, schema)| match schema {
            RefOr::T(Schema::Object(fields)) if fields.required.is_empty() => {
                Some(format!("#/components/schemas/{name}"))
            }
            _ => None,
        })
        .collect();
    let operations = document
        .paths
        .paths
        .values_mut()
        .flat_map(|path| [&mut path.post, &mut path.delete]);
    for operation in operations.flatten() {
        let Some(RefOr::T(body)) = &mut operation.request_body else {
            continue;
        };
        let json = body.content.get(JSON);
        let refers = json.is_some_and(|json| match json {
            RefOr::T(Content {
                schema: Some(RefOr::Ref(to)),
                ..
            }) => free.contains(&to.ref_location),
            _ => false,
        });
        if refers {
            body.required = Some(Required::False);
        }
    }
}

/// The document as JSON, from that of the routes. With `trusted` it is that of a replica that trusts identities, which
/// requires no token.
pub(super) fn of(mut document: Specification, trusted: bool) -> String {
    fill_in_ids(&mut document);
    mark_optional_bodies(&mut document);
    examples::put_in(&mut document);
    if trusted {
        document.security = None;
        if let Some(components) = &mut document.components {
            components.security_schemes.clear();
        }
    }
    let mut text = document
        .to_pretty_json()
        .expect("an OpenAPI document is strings and lists, which JSON can express");
    text.push('\n');
    text
}
