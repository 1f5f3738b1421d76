//! Pages and the OpenAPI document: their budget, and answers that are not read.

use reqwest::header::ACCEPT_ENCODING;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use super::{JWT, counted, get};
use crate::support::{Stack, fresh, until};

#[tokio::test]
async fn a_page_is_compressed_once_and_has_a_budget_by_address() {
    let rate = [("RATE_LIMIT_PER_SECOND", "2"), ("RATE_LIMIT_BURST", "4")];
    let stack = Stack::start(1, &rate).await;
    let replica = &stack.replicas[0];
    let script = "/assets/swagger-ui-bundle.js";
    let mut tags = Vec::new();
    for encoding in ["br", "gzip"] {
        let answer = get(replica, script, &[("accept-encoding", encoding)]).await;
        assert_eq!(answer.headers()["content-encoding"], encoding);
        assert_eq!(answer.headers()["vary"], "accept-encoding");
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        let again = [("accept-encoding", encoding), ("if-none-match", &tag)];
        assert_eq!(get(replica, script, &again).await.status(), 304);
        tags.push(tag);
    }
    assert_ne!(tags[0], tags[1]);
    let plain = get(replica, script, &[("accept-encoding", "identity")]).await;
    assert!(!plain.headers().contains_key("content-encoding"));
    assert!(plain.bytes().await.unwrap().len() > 1_000_000);
    // Ten times the rate; routes that do not exist cost the same budget.
    let mut refused = 0;
    for n in 0..60 {
        let path = if n % 2 == 0 { script } else { "/nothing" };
        refused += u32::from(get(replica, path, &[]).await.status() == 429);
    }
    assert!(refused >= 10, "{refused}");
    assert!(counted(replica, "rate_limited_total{kind=\"page\"}").await >= 10.0);
    assert_eq!(replica.acquire(&fresh("a"), "ann").await.status, 201);
}

#[tokio::test]
async fn pages_can_be_switched_off() {
    let stack = Stack::start(1, &[("PAGES", "off")]).await;
    let replica = &stack.replicas[0];
    for path in ["/", "/api/docs", "/assets/swagger-ui-bundle.js"] {
        assert_eq!(get(replica, path, &[]).await.status(), 404, "{path}");
    }
    assert_eq!(get(replica, "/api/openapi.json", &[]).await.status(), 200);
}

/// Clients that request much and read nothing would otherwise fill the system's memory.
#[tokio::test]
async fn what_waits_in_the_system_for_a_client_that_does_not_read_is_bounded() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut deaf = socket.connect(address.parse().unwrap()).await.unwrap();
    let ask = "GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nhost: a\r\n\r\n";
    deaf.write_all(ask.repeat(10).as_bytes()).await.unwrap();
    let port = deaf.local_addr().unwrap().port();
    // The kernel's count of unread bytes: it does not grow.
    let (mut before, mut same) = (0, 0);
    until("what waits stays where it is", async || {
        let now = unread(port);
        same = if now == before && now > 0 {
            same + 1
        } else {
            0
        };
        before = now;
        same == 40
    })
    .await;
    assert!(before < 300 * 1024, "{before} bytes wait");
}

/// Bytes in the send queue of the server's end of that connection (proc(5): net/tcp, tx_queue).
fn unread(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let theirs = format!(":{port:04X}");
    let line = table.lines().find(|line| {
        let mut words = line.split_whitespace();
        words.nth(2).is_some_and(|peer| peer.ends_with(&theirs))
    });
    let queue = line.and_then(|line| line.split_whitespace().nth(4)?.split(':').next());
    queue.map_or(0, |hex| u64::from_str_radix(hex, 16).unwrap())
}

#[tokio::test]
async fn the_document_of_a_replica_that_trusts_identities_demands_no_token() {
    let mut stack = Stack::empty(&[]).await;
    stack.add().await;
    stack.add_with(&JWT).await;
    for (replica, demands) in stack.replicas.iter().zip([false, true]) {
        let document = get(
            replica,
            "/api/openapi.json",
            &[(ACCEPT_ENCODING.as_str(), "gzip")],
        )
        .await;
        assert_eq!(document.headers()["content-encoding"], "gzip");
        let document: Value = get(replica, "/api/openapi.json", &[])
            .await
            .json()
            .await
            .unwrap();
        assert_eq!(document["security"].is_array(), demands);
        let schemes = &document["components"]["securitySchemes"];
        assert_eq!(schemes.is_object(), demands, "{schemes}");
    }
}
