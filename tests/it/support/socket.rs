//! Minimal client of Socket.IO over WebSocket (protocol 5 over Engine.IO 4), written from the protocol's
//! description. It shows every frame, which the official client hides.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::http::HeaderMap;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{PATIENCE, Replica};

/// A received event, with its payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

/// A connected socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard: VecDeque<Event>,
    acks: u64,
    /// True if the server disconnected this socket by a packet, after which the official client does not reconnect.
    pub dismissed: bool,
}

impl Socket {
    /// Connects with this `auth`.
    pub async fn connect(replica: &Replica, auth: Value) -> Self {
        let mut socket = Self::open(replica).await;
        assert!(socket.join(&auth).await, "closed while connecting");
        socket
    }

    /// Joins the namespace with this `auth`; false if the connection ends meanwhile.
    pub async fn join(&mut self, auth: &Value) -> bool {
        if !self.try_send(Message::text(format!("40{auth}"))).await {
            return false;
        }
        let Some(answer) = self.frame().await else {
            return false;
        };
        assert!(answer.starts_with("40"), "not connected: {answer}");
        true
    }

    /// Connects, and expects a rejection with this message.
    pub async fn refused(replica: &Replica, auth: Value) -> String {
        let mut socket = Self::open(replica).await;
        socket.send(format!("40{auth}")).await;
        let answer = socket.frame().await.expect("closed while connecting");
        let error = answer
            .strip_prefix("44")
            .unwrap_or_else(|| panic!("not refused: {answer}"));
        serde_json::from_str::<Value>(error).unwrap()["message"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// An Engine.IO connection that has joined no namespace.
    pub async fn open(replica: &Replica) -> Self {
        Self::reach(&replica.url).await.unwrap().0
    }

    /// The same through any URL, which may not answer; with the headers of the answer.
    pub async fn reach(url: &str) -> Result<(Self, HeaderMap), String> {
        let url = format!(
            "{}/socket.io/?EIO=4&transport=websocket",
            url.replace("http", "ws")
        );
        let (stream, answer) = tokio_tungstenite::connect_async(url)
            .await
            .map_err(|error| error.to_string())?;
        Ok((Self::greeted(stream).await?, answer.headers().clone()))
    }

    async fn greeted(stream: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Result<Self, String> {
        let mut socket = Self {
            stream,
            heard: VecDeque::new(),
            acks: 0,
            dismissed: false,
        };
        let hello = socket.frame().await.ok_or("closed at once")?;
        assert!(hello.starts_with('0'), "{hello}");
        Ok(socket)
    }

    /// The same over a given connection.
    pub async fn over(replica: &Replica, stream: TcpStream) -> Self {
        let url = format!(
            "{}/socket.io/?EIO=4&transport=websocket",
            replica.url.replace("http", "ws")
        );
        let stream = MaybeTlsStream::Plain(stream);
        let (stream, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        Self::greeted(stream).await.unwrap()
    }

    /// A raw frame.
    pub async fn send(&mut self, frame: impl Into<String>) {
        self.stream.send(Message::text(frame.into())).await.unwrap();
    }

    /// A raw frame, whose delivery may fail.
    pub async fn try_send(&mut self, message: Message) -> bool {
        self.stream.send(message).await.is_ok()
    }

    /// The next text frame that is not a ping, within the time limit; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<String> {
        tokio::time::timeout(PATIENCE, self.frame_at_last())
            .await
            .expect("heard nothing")
    }

    /// The next text frame that is not a ping, however long it takes; `None` at the end of the connection.
    pub async fn frame_at_last(&mut self) -> Option<String> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    // The pong may fail because the server has disconnected: that is the end.
                    if self.stream.send(Message::text("3")).await.is_err() {
                        return None;
                    }
                }
                Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Emits without an acknowledgement.
    pub async fn emit(&mut self, event: &str, data: &Value) {
        self.send(format!("42{}", json!([event, data]))).await;
    }

    /// Emits, and waits for the acknowledgement. Events before it are kept.
    pub async fn ask(&mut self, event: &str, data: &Value) -> Value {
        self.try_ask(event, data)
            .await
            .expect("closed before the acknowledgement")
    }

    /// The same on a connection that may end meanwhile.
    pub async fn try_ask(&mut self, event: &str, data: &Value) -> Option<Value> {
        self.acks += 1;
        let id = self.acks;
        let asked = Message::text(format!("42{id}{}", json!([event, data])));
        if !self.try_send(asked).await {
            return None;
        }
        let wanted = format!("43{id}");
        loop {
            let frame = self.frame().await?;
            match frame.strip_prefix(&wanted) {
                Some(answer) => {
                    return Some(serde_json::from_str::<Value>(answer).unwrap()[0].clone());
                }
                None => self.keep(&frame),
            }
        }
    }

    /// Subscribes, and returns the snapshot.
    pub async fn subscribe(&mut self, appointment: &str) -> Value {
        let snapshot = self.ask("subscribe", &json!(appointment)).await;
        assert_eq!(snapshot["success"], true, "{snapshot}");
        snapshot
    }

    fn keep(&mut self, frame: &str) {
        if let Some(event) = frame.strip_prefix("42") {
            let event: Value = serde_json::from_str(event).unwrap();
            self.heard.push_back(Event {
                name: event[0].as_str().unwrap().to_owned(),
                data: event[1].clone(),
            });
        }
        self.dismissed |= frame.starts_with("41");
    }

    /// The next event of any name.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.heard.pop_front() {
                return event;
            }
            let frame = self
                .frame()
                .await
                .expect("closed while an event was awaited");
            self.keep(&frame);
        }
    }

    /// The next event of any name, however long it takes; `None` at the end of the connection.
    pub async fn next_at_last(&mut self) -> Option<Event> {
        while self.heard.is_empty() {
            let frame = self.frame_at_last().await?;
            self.keep(&frame);
        }
        self.heard.pop_front()
    }

    /// The next event of this name; others before it are dropped.
    pub async fn expect(&mut self, name: &str) -> Value {
        loop {
            let event = self.next().await;
            if event.name == name {
                return event.data;
            }
        }
    }

    /// The events up to now: a round trip through the server marks the end, since it answers in order.
    pub async fn so_far(&mut self) -> Vec<Event> {
        self.ask("unsubscribe", &json!("nowhere")).await;
        self.heard.drain(..).collect()
    }

    /// True if the connection ends within `limit`.
    pub async fn ends_within(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, async { while self.frame().await.is_some() {} })
            .await
            .is_ok()
    }

    pub async fn close(mut self) {
        let _ = self.stream.close(None).await;
    }
}
