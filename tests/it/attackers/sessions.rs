//! Sessions that would outlive their end: the user left, the token expired, or a second upgrade hides a connection.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::poller::Poller;
use super::{JWT, counted, until_counted};
use crate::support::tokens::{claims, in_seconds, token, token_of};
use crate::support::{Socket, Stack};

type Raw = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

/// A WebSocket to which a polling session upgrades.
async fn upgraded(poller: &Poller<'_>) -> Option<Raw> {
    let url = poller.url.replace("http", "ws");
    let url = url.replace("transport=polling", "transport=websocket");
    let (stream, _) = tokio_tungstenite::connect_async(url).await.ok()?;
    Some(stream)
}

async fn heard(stream: &mut Raw) -> Option<String> {
    let next = tokio::time::timeout(Duration::from_secs(5), stream.next());
    let message = next.await.expect("heard nothing")?.ok()?;
    message.into_text().ok().map(|text| text.to_string())
}

#[tokio::test]
async fn leaving_the_namespace_ends_the_session_and_its_connection() {
    let stack = Stack::start(1, &JWT).await;
    let replica = &stack.replicas[0];
    let ann = json!({ "token": token("ann") });
    let mut socket = Socket::connect(replica, ann.clone()).await;
    socket.send("41").await;
    assert!(socket.ends_within(Duration::from_secs(5)).await);
    assert_eq!(
        counted(replica, "connections_closed_total{reason=\"left\"}").await,
        1.0
    );
    for leaving in ["41", "3\u{1e}41,"] {
        let poller = Poller::joined(replica, &ann).await;
        assert_eq!(poller.say(leaving).await, 200);
        assert_eq!(poller.poll().await.0, 400, "the session is gone");
    }
    // A client that disconnects properly is not counted.
    let mut polite = Socket::connect(replica, ann).await;
    polite.send("41").await;
    polite.close().await;
    until_counted(replica, "sockets", |open| open == 0.0).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(
        counted(replica, "connections_closed_total{reason=\"left\"}").await,
        1.0
    );
}

/// A polling session was not closed when its token expired.
#[tokio::test]
async fn a_session_that_polls_ends_with_its_token() {
    let stack = Stack::start(1, &JWT).await;
    let replica = &stack.replicas[0];
    let mut short = claims("ann");
    short["exp"] = json!(in_seconds(-4));
    let poller = Poller::joined(replica, &json!({ "token": token_of(&short) })).await;
    let since = Instant::now();
    while poller.poll().await.0 == 200 {
        assert!(since.elapsed() < Duration::from_secs(10), "it polls on");
    }
}

/// Otherwise nothing could close the first one: leaving, expiry of the token, abuse.
#[tokio::test]
async fn a_second_upgrade_hides_no_connection() {
    let stack = Stack::start(1, &JWT).await;
    let replica = &stack.replicas[0];
    let poller = Poller::joined(replica, &json!({ "token": token("ann") })).await;
    let mut first = upgraded(&poller).await.unwrap();
    first.send(Message::text("2probe")).await.unwrap();
    assert_eq!(heard(&mut first).await.as_deref(), Some("3probe"));
    first.send(Message::text("5")).await.unwrap();
    assert!(upgraded(&poller).await.is_none(), "a second connection");
    first.send(Message::text("41")).await.unwrap();
    while heard(&mut first).await.is_some() {}
    let left = "connections_closed_total{reason=\"left\"}";
    assert_eq!(counted(replica, left).await, 1.0);
    // An invalid session id is not stored.
    let url = format!(
        "{}/socket.io/?EIO=4&transport=websocket&sid={}",
        replica.url.replace("http", "ws"),
        "x".repeat(3000)
    );
    assert!(tokio_tungstenite::connect_async(url).await.is_err());
}

/// socketioxide ignores everything after the packet's type.
#[tokio::test]
async fn however_a_session_that_polls_leaves_it_ends() {
    let stack = Stack::start(1, &JWT).await;
    let replica = &stack.replicas[0];
    for leaving in ["41x", "410", "41[]"] {
        let poller = Poller::joined(replica, &json!({ "token": token("ann") })).await;
        poller.say(leaving).await;
        let since = Instant::now();
        while poller.poll().await.0 == 200 {
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{leaving}: it polls on"
            );
        }
    }
}
