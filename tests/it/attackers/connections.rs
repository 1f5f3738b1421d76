//! Connections: the limit per address, the `Host` they name, and repeated rejections.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{JWT, counted, until_counted};
use crate::support::tokens::token;
use crate::support::{Replica, Socket, Stack, auth, fresh};

/// Sends a request as bytes, and returns the answer's status and text.
async fn raw(replica: &Replica, request: &str) -> (u16, String) {
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

/// A connection from another address of this machine.
async fn from(replica: &Replica, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let ours = format!("{address}:0").parse().unwrap();
    socket.bind(ours).unwrap();
    let theirs = replica.url.strip_prefix("http://").unwrap();
    socket.connect(theirs.parse().unwrap()).await.unwrap()
}

async fn silent(stream: &mut TcpStream) -> bool {
    let mut some = [0; 512];
    let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut some)).await;
    read.is_err()
}

/// Sends a request, and keeps the connection.
async fn ask(stream: &mut TcpStream) -> String {
    let asked = stream
        .write_all(b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let mut some = [0; 2048];
    let read = stream.read(&mut some).await.unwrap_or(0);
    let _ = asked;
    String::from_utf8_lossy(&some[..read]).into_owned()
}

#[tokio::test]
async fn idle_connections_of_one_address_make_room_for_its_own_and_cost_nobody_a_place() {
    let stack = Stack::start(1, &[("MAX_CONNECTIONS_PER_ADDRESS", "10")]).await;
    let replica = &stack.replicas[0];
    let mut idle = Vec::new();
    for _ in 0..30 {
        let mut stream = from(replica, "127.0.0.66").await;
        assert!(ask(&mut stream).await.contains(" 404 "));
        idle.push(stream);
    }
    assert!(counted(replica, "connections_closed_total{reason=\"idle\"}").await >= 19.0);
    assert!(!silent(&mut idle[0]).await, "the oldest is closed");
    assert!(silent(&mut idle[29]).await, "the newest is not");
    // Connections in use are not closed: the next one is rejected, with a reason.
    let mut busy = Vec::new();
    for _ in 0..10 {
        let mut stream = from(replica, "127.0.0.67").await;
        let half = "POST /api/appointments/a/acquire-lock HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{";
        stream.write_all(half.as_bytes()).await.unwrap();
        busy.push(stream);
    }
    until_counted(replica, "http_requests_in_flight", |now| now >= 10.0).await;
    let refused = ask(&mut from(replica, "127.0.0.67").await).await;
    assert!(
        refused.starts_with("HTTP/1.1 429 ") && refused.contains("LIMIT_EXCEEDED"),
        "{refused}"
    );
    assert_eq!(
        counted(replica, "connections_closed_total{reason=\"address\"}").await,
        1.0
    );
    assert_eq!(replica.acquire(&fresh("a"), "ann").await.status, 201);
    assert_eq!(counted(replica, "ready").await, 1.0);
}

/// A socket that joined counts for its identity: an office behind one address is no attacker.
#[tokio::test]
async fn sockets_that_joined_do_not_count_for_their_address() {
    let stack = Stack::start(1, &[("MAX_CONNECTIONS_PER_ADDRESS", "5")]).await;
    let replica = &stack.replicas[0];
    let mut sockets = Vec::new();
    for n in 0..20 {
        let stream = from(replica, "127.0.0.66").await;
        let mut socket = Socket::over(replica, stream).await;
        assert!(socket.join(&auth(&format!("user-{n}"))).await);
        sockets.push(socket);
    }
    for socket in &mut sockets {
        socket.subscribe(&fresh("a")).await;
    }
}

#[tokio::test]
async fn a_name_that_this_service_is_not_called_by_is_refused() {
    let stack = Stack::start(1, &[("ALLOWED_HOSTS", "127.0.0.1, locks.example.com")]).await;
    let replica = &stack.replicas[0];
    let at = |host: &str| {
        format!(
            "GET /api/appointments/a/lock-status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )
    };
    for host in ["127.0.0.1", "127.0.0.1:3000", "LOCKS.example.com"] {
        assert_eq!(raw(replica, &at(host)).await.0, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:3000", "[::1]"] {
        let (status, answer) = raw(replica, &at(host)).await;
        assert_eq!(status, 403, "{host}");
        assert!(answer.contains("HOST_NOT_ALLOWED"), "{answer}");
    }
    let hello = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(replica, hello).await.0, 403);
    // A proxy in front may have read the other one.
    let (status, answer) = raw(replica, &at("127.0.0.1\r\nhost: 127.0.0.1")).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("MALFORMED"), "{answer}");
}

/// A rejection costs time too: a client that continues waits for each one, and then loses the connection.
#[tokio::test]
async fn refusals_in_a_row_are_slowed_down_and_end_the_connection() {
    let stack = Stack::start_limited(1, &JWT).await;
    let replica = &stack.replicas[0];
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ask = "GET /api/appointments/a/lock-status HTTP/1.1\r\nhost: a\r\n\r\n";
    let since = Instant::now();
    stream.write_all(ask.repeat(200).as_bytes()).await.unwrap();
    let (mut answers, mut some) = (String::new(), [0; 4096]);
    while answers.matches("HTTP/1.1 429").count() < 20 {
        let read = stream.read(&mut some).await.unwrap();
        assert_ne!(read, 0, "{answers}");
        answers += std::str::from_utf8(&some[..read]).unwrap();
    }
    assert!(
        since.elapsed() > Duration::from_millis(400),
        "{:?}",
        since.elapsed()
    );
    let known = token("ann");
    assert_eq!(replica.bearing(&known).status_of("a").await.status, 200);
}
