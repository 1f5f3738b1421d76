//! The OpenAPI document: what it says besides its routes, and what its generator cannot know.

use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, RefOr, Required, Schema};

use super::{JSON, examples};

/// The document, without routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "apptlock",
        description = "Edit locks on records, with live cursors. Socket.IO events at `/socket.io` tell every change.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact(name = "apptlock")
    ),
    modifiers(&Bearer),
    security(("bearer" = [])),
    tags(
        (name = "locks", description = "One appointment, one holder."),
        (name = "audit", description = "For admins: what happened, and who holds what.")
    )
)]
pub(super) struct Document;

/// Where tokens are asked for, this is how they come.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.bearer_format = Some("JWT".into());
        http.description = Some("Not asked for where AUTH_MODE is trusted.".into());
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(http));
    }
}

/// Says of each body that asks for no field that it may be left out: an empty one is `{}`.
fn mark_bodies(document: &mut utoipa::openapi::OpenApi) {
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

/// The document, as JSON: of a replica that trusts identities where that is so, which asks for no token.
pub(super) fn of(trusted: bool) -> String {
    let routes = super::asking()
        .merge(super::keeping())
        .merge(super::releasing());
    let mut document = routes.into_openapi();
    mark_bodies(&mut document);
    examples::put_in(&mut document);
    if trusted {
        document.security = None;
        if let Some(components) = &mut document.components {
            components.security_schemes.clear();
        }
    }
    let mut text = document
        .to_pretty_json()
        .expect("an OpenAPI document is strings and lists, which JSON can say");
    text.push('\n');
    text
}
