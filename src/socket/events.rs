//! Handlers of the clients' events.
//!
//! Each handler does its order-dependent work before it awaits anything: socketioxide calls the handlers in the order
//! of a socket's events and spawns only their futures. A malformed payload is counted, refused if the client asked for
//! an acknowledgement, and has no other effect. If the database fails, `subscribe` is refused and the client retries.

use std::sync::Arc;

use serde_json::Value;
use socketioxide::extract::{SocketRef, TryData};

use super::ack::Ack;
use super::budget::Budget;
use super::client::Client;
use super::context::SocketContext;
use super::request::{answer, payload, room_of};
use super::subscribing;
use crate::auth::shown_by_id;
use crate::domain::lease::Person;
use crate::protocol::{Code, CursorPosition, Object, RefreshToken, Refusal, SubscribePayload, ack};
use crate::rooms::roster::{CursorRefused, MAX_CURSORS};

/// Registers the handlers of a socket.
pub(super) fn register(context: &Arc<SocketContext>, client: &Arc<Client>, socket: &SocketRef) {
    let (h, s) = (context.clone(), client.clone());
    socket.on(
        "subscribe",
        move |socket: SocketRef, TryData(data): TryData<Value>, ack: Ack| {
            let begun = s
                .spend(Budget::event)
                .and_then(|()| subscribing::begin(&h, &s, socket, data.ok()));
            subscribing::finish(h, s, begun, ack)
        },
    );
    let s = client.clone();
    socket.on(
        "unsubscribe",
        move |TryData(data): TryData<Value>, ack: Ack| {
            let done = s
                .spend(Budget::cheap)
                .and_then(|()| unsubscribe(&s, data.ok()));
            answer("unsubscribe", &s, ack, done);
            std::future::ready(())
        },
    );
    let (h, s) = (context.clone(), client.clone());
    socket.on(
        "cursor-position",
        move |TryData(data): TryData<Value>, ack: Ack| {
            let done = s
                .spend(Budget::cursor)
                .and_then(|()| cursor_position(&h, &s, data.ok()));
            match done {
                Ok(shown) => {
                    h.moves.increment(1);
                    s.answer(ack, &self::ack(Ok(shown)));
                }
                Err(refusal) => answer("cursor-position", &s, ack, Err(refusal)),
            }
            std::future::ready(())
        },
    );
    let (h, s) = (context.clone(), client.clone());
    socket.on(
        "refresh-token",
        async move |TryData(data): TryData<Value>, ack: Ack| {
            let done = match s.spend(Budget::event) {
                Ok(()) => refresh_token(&h, &s, data.ok()).await,
                Err(refusal) => Err(refusal),
            };
            answer("refresh-token", &s, ack, done);
        },
    );
    let s = client.clone();
    socket.on_fallback(move || {
        // An unknown event: not answered, but charged to the budget.
        let _ = s.spend(Budget::cheap);
        std::future::ready(())
    });
}

fn unsubscribe(client: &Client, data: Option<Value>) -> Result<&'static str, Refusal> {
    let SubscribePayload { appointment_id, .. } = payload("unsubscribe", data)?;
    client.leave(&room_of(client, appointment_id));
    Ok("Unsubscribed")
}

async fn refresh_token(
    context: &SocketContext,
    client: &Client,
    data: Option<Value>,
) -> Result<&'static str, Refusal> {
    // The value may be a token, and is not repeated.
    let Object(RefreshToken { token }) = payload("refresh-token", data)
        .map_err(|_| Refusal::invalid("token", "is missing or is not a string"))?;
    let fresh = context
        .auth
        .principal(Some(&token), &context.limits, client.info.address)
        .await?;
    client.refresh(&fresh)?;
    Ok("Refreshed")
}

fn cursor_position(
    context: &SocketContext,
    client: &Client,
    data: Option<Value>,
) -> Result<&'static str, Refusal> {
    let Object(CursorPosition {
        appointment_id,
        position,
        user_id,
        user_info,
    }) = payload("cursor-position", data)?;
    let person: Person = match (user_id, &client.info.person) {
        (Some(named), Some(known)) if named == known.user_id && user_info.is_none() => {
            known.clone()
        }
        (None, Some(known)) => known.clone(),
        // Shown by the id, as an admin who takes over is.
        (Some(named), _) if client.info.principal.identity.is_none() && user_info.is_none() => {
            let user_info = shown_by_id(&named);
            Person {
                user_id: named,
                user_info,
            }
        }
        (named, _) => client
            .info
            .principal
            .person(named, user_info.map(Into::into))?,
    };
    let room = room_of(client, appointment_id);
    context
        .rooms
        .add_cursor(&room, &client.socket, &person.user_id)
        .map_err(cursor_refusal)?;
    context
        .cursors
        .move_to(&room, &person, position, &client.socket);
    context.activity.moved(
        &room,
        &person.user_id,
        client.info.session_id.as_ref(),
        position,
    );
    Ok("Shown")
}

/// Refusal of a cursor, for the client.
fn cursor_refusal(refused: CursorRefused) -> Refusal {
    match refused {
        CursorRefused::NotSubscribed => {
            Refusal::new(Code::NotSubscribed, "Subscribe to the appointment first")
        }
        CursorRefused::TooMany => Refusal::invalid(
            "userId",
            format!(
                "is one too many: a socket may send the cursors of {MAX_CURSORS} users in a room"
            ),
        ),
    }
}
