//! What sockets ask, and what each is answered.
//!
//! Each event's handler does what must keep the order of a socket's events before it awaits anything:
//! socketioxide calls handlers in that order and spawns only their futures. A malformed payload is answered where
//! there is an acknowledgement, counted in any case, and harms nobody. On failure of the database `subscribe` says
//! so, and the client asks again.

use std::sync::Arc;

use serde_json::Value;
use socketioxide::extract::{SocketRef, TryData};

use super::ack::Ack;
use super::budget::Budget;
use super::context::SocketContext;
use super::request::{answer, payload, room_of};
use super::session::Session;
use super::subscribing;
use crate::auth::shown_by_id;
use crate::domain::lease::Person;
use crate::protocol::{Code, CursorPosition, Object, RefreshToken, Refusal, SubscribePayload, ack};
use crate::rooms::roster::{MAX_POINTERS, PointRefused};

/// Lets a socket ask.
pub(super) fn register(context: &Arc<SocketContext>, session: &Arc<Session>, socket: &SocketRef) {
    let (h, s) = (context.clone(), session.clone());
    socket.on(
        "subscribe",
        move |socket: SocketRef, TryData(data): TryData<Value>, ack: Ack| {
            let begun = s
                .spend(Budget::event)
                .and_then(|()| subscribing::begin(&h, &s, socket, data.ok()));
            subscribing::finish(h, s, begun, ack)
        },
    );
    let s = session.clone();
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
    let (h, s) = (context.clone(), session.clone());
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
    let (h, s) = (context.clone(), session.clone());
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
    let s = session.clone();
    socket.on_fallback(move || {
        // No event of ours: not answered, and not for ever.
        let _ = s.spend(Budget::cheap);
        std::future::ready(())
    });
}

fn unsubscribe(session: &Session, data: Option<Value>) -> Result<&'static str, Refusal> {
    let SubscribePayload { appointment_id, .. } = payload("unsubscribe", data)?;
    session.leave(&room_of(session, appointment_id));
    Ok("Unsubscribed")
}

async fn refresh_token(
    context: &SocketContext,
    session: &Session,
    data: Option<Value>,
) -> Result<&'static str, Refusal> {
    // What came instead may be a token too, and is not repeated.
    let Object(RefreshToken { token }) = payload("refresh-token", data)
        .map_err(|_| Refusal::invalid("token", "is missing, or is not text"))?;
    let fresh = context
        .auth
        .principal(Some(&token), &context.limits, session.who.address)
        .await?;
    session.refresh(&fresh)?;
    Ok("Refreshed")
}

fn cursor_position(
    context: &SocketContext,
    session: &Session,
    data: Option<Value>,
) -> Result<&'static str, Refusal> {
    let Object(CursorPosition {
        appointment_id,
        position,
        user_id,
        user_info,
    }) = payload("cursor-position", data)?;
    let person: Person = match (user_id, &session.who.person) {
        (Some(named), Some(known)) if named == known.user_id && user_info.is_none() => {
            known.clone()
        }
        (None, Some(known)) => known.clone(),
        // As an admin who takes over is shown: by the id.
        (Some(named), _) if session.who.principal.identity.is_none() && user_info.is_none() => {
            let user_info = shown_by_id(&named);
            Person {
                user_id: named,
                user_info,
            }
        }
        (named, _) => session
            .who
            .principal
            .person(named, user_info.map(Into::into))?,
    };
    let room = room_of(session, appointment_id);
    context
        .rooms
        .point(&room, &session.socket, &person.user_id)
        .map_err(not_shown)?;
    context
        .cursors
        .move_to(&room, &person, position, &session.socket);
    context.activity.moved(
        &room,
        &person.user_id,
        session.who.session_id.as_ref(),
        position,
    );
    Ok("Shown")
}

/// Why a cursor is not shown, for the client.
fn not_shown(refused: PointRefused) -> Refusal {
    match refused {
        PointRefused::NotSubscribed => {
            Refusal::new(Code::NotSubscribed, "Subscribe to the appointment first")
        }
        PointRefused::TooMany => Refusal::invalid(
            "userId",
            format!("is one too many: a socket may speak for {MAX_POINTERS} people in a room"),
        ),
    }
}
