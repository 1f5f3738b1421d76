//! Invalid input of every kind: a clear answer of the right class, never a 5xx, and no effect on other clients.

use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Socket, Stack, auth, fresh, person};

#[tokio::test]
async fn every_bad_request_has_its_status_and_names_the_field() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("bad");
    let acquire = format!("/api/appointments/{id}/acquire-lock");
    let json_type = Some("application/json");
    let ask =
        async |kind: Option<&str>, body: Vec<u8>| replica.raw("POST", &acquire, kind, body).await;

    for (body, status, message) in [
        (
            &b"{"[..],
            400,
            "the body is not JSON: EOF while parsing an object at line 1 column 1",
        ),
        (b"{\"userId\":\"\xff\"}", 400, "the body is not JSON: "),
        (b"{\"userId\":\"\\ud800\"}", 400, "the body is not JSON: "),
        (
            b"{\"userId\":5",
            400,
            "the body is not JSON: EOF while parsing",
        ),
        (b"{\"userId\":5} x", 400, "the body is not JSON: trailing"),
        (b"[1", 400, "the body is not JSON: EOF while parsing a list"),
        (b"{} {}", 400, "the body is not JSON: trailing characters"),
        (b"", 422, "userId: is missing"),
        (b"{}", 422, "userId: is missing"),
        (
            b"[]",
            422,
            "body: invalid type: sequence, expected a JSON object",
        ),
        (b"null", 422, "body: invalid type: null"),
        (b"7", 422, "body: invalid type: integer `7`"),
        (
            b"{\"userId\":7}",
            422,
            "userId: invalid type: integer `7`, expected a string",
        ),
        (b"{\"userId\":\"\"}", 422, "userId: must not be empty"),
        (
            b"{\"userId\":\"a\\u0000b\"}",
            422,
            "userId: must not contain control characters (found U+0000)",
        ),
        (b"{\"userId\":\"a\"}", 422, "userInfo: is missing"),
        (
            b"{\"userId\":\"a\",\"userId\":\"b\"}",
            422,
            "body: duplicate field `userId`",
        ),
        (
            b"{\"userId\":\"a\",\"userInfo\":{\"email\":\"\"}}",
            422,
            "userInfo.name: is missing",
        ),
        (
            b"{\"userId\":\"a\",\"userInfo\":{\"name\":\" \",\"email\":\"\"}}",
            422,
            "userInfo.name: must not be blank",
        ),
        (
            b"{\"userId\":\"a\",\"userInfo\":\"Ann\"}",
            422,
            "userInfo: invalid type: string \"Ann\", expected a JSON object",
        ),
        (
            b"{\"userId\":\"a\",\"userInfo\":[\"Ann\",\"e\"]}",
            422,
            "userInfo: invalid type: sequence, expected a JSON object",
        ),
        (
            b"{\"userId\":\"a\",\"transfer\":\"yes\"}",
            422,
            "transfer: invalid type",
        ),
        (
            b"{\"userId\":\"a\",\"sessionId\":\"\"}",
            422,
            "sessionId: must not be empty",
        ),
    ] {
        let reply = ask(json_type, body.to_vec()).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(reply.status, status, "{shown}: {reply:?}");
        assert!(
            reply.message().starts_with(message),
            "{shown}: {}",
            reply.message()
        );
        assert!(!reply.message().contains('\n'), "{shown}: one line");
    }
    let deep = format!("{{\"userInfo\":{}", "{\"a\":".repeat(5000));
    assert_eq!(ask(json_type, deep.into_bytes()).await.status, 413);
    let deep = format!("{{\"x\":{}", "[".repeat(5000));
    assert_eq!(ask(json_type, deep.into_bytes()).await.status, 400);

    let big = json!({ "userId": "a".repeat(17_000) }).to_string();
    let reply = ask(json_type, big.into_bytes()).await;
    assert_eq!((reply.status, reply.code()), (413, "TOO_LARGE"));
    let long =
        json!({ "userId": "a".repeat(201), "userInfo": { "name": "A", "email": "" } }).to_string();
    assert_eq!(
        ask(json_type, long.into_bytes()).await.message(),
        "userId: is 201 bytes long; at most 200 are allowed"
    );

    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("json"),
        Some(""),
    ] {
        let reply = ask(kind, person("a").to_string().into_bytes()).await;
        assert_eq!(
            (reply.status, reply.code()),
            (415, "UNSUPPORTED_MEDIA_TYPE"),
            "{kind:?}"
        );
    }
    assert_eq!(
        replica.status_of(&id).await.version(),
        0,
        "none of it changed anything"
    );

    let verify = async |body: Value| replica.ask("POST", &id, "verify", &body).await;
    assert_eq!(
        verify(json!({})).await.message(),
        "fencingToken: is missing"
    );
    for token in [
        json!("1"),
        json!(1.5),
        json!(null),
        json!(true),
        json!(1e300),
    ] {
        let reply = verify(json!({ "fencingToken": token })).await;
        assert_eq!(reply.status, 422, "{token}");
        assert!(
            reply.message().starts_with("fencingToken: "),
            "{token}: {}",
            reply.message()
        );
    }
    let moved = replica
        .ask(
            "POST",
            &id,
            "update-position",
            &json!({ "userId": "a", "position": { "x": "1" } }),
        )
        .await;
    assert!(
        moved.message().starts_with("position.x: "),
        "{}",
        moved.message()
    );
    let far = json!({ "userId": "a", "position": { "x": 1, "y": f64::MAX } });
    let moved = replica.ask("POST", &id, "update-position", &far).await;
    assert_eq!(
        (moved.status, moved.message()),
        (422, "position.y: must be from -1e15 to 1e15")
    );
    let note = json!({ "adminId": "root", "reason": "x\u{0}" });
    assert_eq!(
        replica
            .ask("DELETE", &id, "force-release-lock", &note)
            .await
            .status,
        422
    );
}

#[tokio::test]
async fn an_admin_with_a_blank_id_and_no_name_is_an_admin_all_the_same() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("blank");
    let taken = replica
        .ask("POST", &id, "take-over", &json!({ "adminId": " " }))
        .await;
    assert_eq!(taken.status, 200, "{taken:?}");
    assert_eq!(taken.body["lock"]["userId"], " ");
    assert_eq!(taken.body["lock"]["userInfo"]["name"], "admin");
}

#[tokio::test]
async fn the_farthest_position_is_kept_and_shown() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("far");
    replica.acquire(&id, "ann").await;
    for (x, y) in [
        (1e15, -1e15),
        (5e-324, -0.1),
        (f64::MIN_POSITIVE, 123_456_789.125),
    ] {
        let body = json!({ "userId": "ann", "position": { "x": x, "y": y } });
        let moved = replica.ask("POST", &id, "update-position", &body).await;
        assert_eq!(moved.status, 200, "{moved:?}");
        let shown = replica.status_of(&id).await;
        assert_eq!(shown.status, 200, "{shown:?}");
        assert_eq!(
            shown.body["lock"]["userInfo"]["position"], body["position"],
            "{shown:?}"
        );
    }
}

#[tokio::test]
async fn every_bad_path_has_its_status() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    for (method, path, status, code) in [
        ("GET", "/api/nothing", 404, "NOT_FOUND"),
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("GET", "/api/appointments/a/nothing", 404, "NOT_FOUND"),
        ("GET", "/api/appointments//lock-status", 422, "INVALID"),
        (
            "GET",
            "/api/appointments/a/acquire-lock",
            405,
            "METHOD_NOT_ALLOWED",
        ),
        (
            "PUT",
            "/api/appointments/a/release-lock",
            405,
            "METHOD_NOT_ALLOWED",
        ),
        ("POST", "/api/openapi.json", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/api/appointments/%FF/lock-status", 400, "MALFORMED"),
        ("GET", "/api/appointments/%ZZ/lock-status", 400, "MALFORMED"),
        ("GET", "/api/appointments/a%/lock-status", 400, "MALFORMED"),
        ("GET", "/api/appointments/a%2/lock-status", 400, "MALFORMED"),
        ("GET", "/api/appointments/%00/lock-status", 422, "INVALID"),
        ("GET", "/api/appointments/a%0Ab/lock-status", 422, "INVALID"),
        (
            "GET",
            "/api/appointments/a%C2%85/lock-status",
            422,
            "INVALID",
        ),
        ("GET", "/assets/../Cargo.toml", 404, "NOT_FOUND"),
        (
            "GET",
            "/assets/%2e%2e%2f%2e%2e%2fCargo.toml",
            404,
            "NOT_FOUND",
        ),
    ] {
        let reply = replica.raw(method, path, None, "").await;
        assert_eq!(
            (reply.status, reply.code()),
            (status, code),
            "{method} {path}: {reply:?}"
        );
    }
    let long = format!("/api/appointments/{}/lock-status", "%C3%BC".repeat(101));
    let reply = replica.raw("GET", &long, None, "").await;
    assert_eq!(
        (reply.status, reply.message()),
        (422, "id: is 202 bytes long; at most 200 are allowed")
    );
    let longest = format!("/api/appointments/{}/lock-status", "%C3%BC".repeat(100));
    assert_eq!(replica.raw("GET", &longest, None, "").await.status, 200);
}

#[tokio::test]
async fn a_bad_payload_is_answered_and_the_socket_lives() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("payload");
    let mut bystander = Socket::connect(replica, auth("ben")).await;
    bystander.subscribe(&id).await;
    let mut socket = Socket::connect(replica, auth("ann")).await;

    for (event, payload, message) in [
        ("subscribe", json!(null), "payload: invalid type: null"),
        (
            "subscribe",
            json!(""),
            "payload: appointmentId must not be empty",
        ),
        ("subscribe", json!({}), "appointmentId: is missing"),
        (
            "subscribe",
            json!({ "appointmentId": "a\u{1}" }),
            "appointmentId: must not contain control characters",
        ),
        ("subscribe", json!(["a"]), "payload: invalid type: sequence"),
        (
            "subscribe",
            json!({ "appointmentId": "a", "cursors": "sideways" }),
            "cursors: unknown variant `sideways`",
        ),
        (
            "subscribe",
            json!({ "appointmentId": "a", "cursors": "batch" }),
            "cursors: only \"each\" is available",
        ),
        (
            "subscribe",
            json!({ "appointmentId": "a", "presence": true }),
            "presence: is not available",
        ),
        (
            "unsubscribe",
            json!(7),
            "payload: invalid type: integer `7`",
        ),
        ("cursor-position", json!({}), "appointmentId: is missing"),
        (
            "cursor-position",
            json!({ "appointmentId": id, "position": { "x": 1 } }),
            "position.y: is missing",
        ),
        (
            "cursor-position",
            json!({ "appointmentId": id, "position": { "x": "1", "y": 1 } }),
            "position.x: ",
        ),
        (
            "cursor-position",
            json!({ "appointmentId": id, "position": [1, 2] }),
            "position: invalid type: sequence",
        ),
    ] {
        let answer = socket.ask(event, &payload).await;
        assert_eq!(
            (&answer["success"], &answer["code"]),
            (&json!(false), &json!("INVALID")),
            "{event} {payload}"
        );
        let got = answer["message"].as_str().unwrap();
        assert!(got.starts_with(message), "{event} {payload}: {got}");
    }
    let unsubscribed = json!({ "appointmentId": id, "position": { "x": 1, "y": 1 } });
    assert_eq!(
        socket.ask("cursor-position", &unsubscribed).await["code"],
        "NOT_SUBSCRIBED"
    );

    // Without an acknowledgement: ignored and counted. Unknown events: ignored.
    let before = replica.metric("apptlock_socket_bad_payloads_total").await;
    socket.emit("subscribe", &json!({ "nonsense": true })).await;
    socket.emit("no-such-event", &json!(1)).await;
    socket.send("42[\"subscribe\"]").await;
    let alive = socket
        .ask("subscribe", &json!({ "appointmentId": id }))
        .await;
    assert_eq!(alive["success"], true, "{alive}");
    assert!(replica.metric("apptlock_socket_bad_payloads_total").await >= before + 2.0);

    // Frames that are no packets, and one that is too large, end at most their own connection.
    for garbage in [
        "42[\"cursor-position\",",
        "4",
        "42",
        "4x",
        "9",
        "42[",
        "45",
        "451-[\"a\",{\"_placeholder\":true,\"num\":0}]",
        "43[]",
        "\u{0}",
    ] {
        let mut vandal = Socket::connect(replica, auth("eve")).await;
        vandal.try_send(Message::text(garbage)).await;
        vandal.try_send(Message::binary(vec![0xff; 64])).await;
        vandal.close().await;
    }
    let mut vandal = Socket::connect(replica, auth("eve")).await;
    vandal
        .try_send(Message::text(format!(
            "42[\"subscribe\",\"{}\"]",
            "a".repeat(70_000)
        )))
        .await;
    assert!(
        vandal.ends_within(std::time::Duration::from_secs(5)).await,
        "a message over 64 KiB ends the connection"
    );

    replica.acquire(&id, "ann").await;
    assert_eq!(
        bystander.expect("lock-acquired").await["lock"]["userId"],
        "ann"
    );
    assert_eq!(
        socket.expect("lock-acquired").await["lock"]["userId"],
        "ann"
    );
}

#[tokio::test]
async fn a_bad_handshake_is_refused_with_the_field() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    for (auth, message) in [
        (
            json!({ "userId": 7 }),
            "auth.userId: invalid type: integer `7`, expected a string",
        ),
        (json!({ "userId": "a" }), "auth.userInfo: is missing"),
        (
            json!({ "userId": "a", "userInfo": { "name": "A" } }),
            "auth.userInfo.email: is missing",
        ),
        (
            json!({ "sessionId": "" }),
            "auth.sessionId: must not be empty",
        ),
        (json!([1]), "auth: must be an object"),
    ] {
        assert_eq!(Socket::refused(replica, auth).await, message);
    }
    let mut anonymous = Socket::connect(replica, json!({})).await;
    let id = fresh("anonymous");
    anonymous.subscribe(&id).await;
    let nobody = json!({ "appointmentId": id, "position": { "x": 1, "y": 1 } });
    assert_eq!(
        anonymous.ask("cursor-position", &nobody).await["message"],
        "userId: is missing"
    );
}

/// A body that arrives too slowly is its sender's fault: no 5xx, which would page the operator.
#[tokio::test]
async fn a_body_that_does_not_arrive_is_408_and_one_that_need_not_is_no_fault() {
    let stack = Stack::start(1, &[("RATE_LIMIT_PER_SECOND", "20")]).await;
    let replica = &stack.replicas[0];
    let address = replica.url.strip_prefix("http://").unwrap();
    let ask = async |method: &str, what: &str| {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let path = format!("/api/appointments/{}/{what}", fresh("slow"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        heard
    };
    let (post, delete) = tokio::join!(ask("POST", "acquire-lock"), ask("DELETE", "release-lock"));
    for heard in [post, delete] {
        assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
        let body: Value = serde_json::from_str(heard.rsplit("\r\n").next().unwrap()).unwrap();
        assert_eq!(
            (&body["success"], &body["code"]),
            (&json!(false), &json!("REQUEST_TIMEOUT")),
            "{heard}"
        );
    }
}

#[tokio::test]
async fn an_id_of_a_request_is_returned_where_it_is_fit_to_be_logged_and_replaced_elsewhere() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let long = "x".repeat(129);
    for (sent, taken) in [
        ("a-1.B_2/z=", true),
        (&long[..128], true),
        (&long, false),
        ("", false),
        ("two words", false),
        ("\u{e9}", false),
    ] {
        let url = format!("{}/nowhere", replica.url);
        let sent = HeaderValue::from_bytes(sent.as_bytes()).unwrap();
        let asked = replica.client.get(url).header("x-request-id", sent.clone());
        let reply = asked.send().await.unwrap();
        let returned = &reply.headers()["x-request-id"];
        assert_eq!(returned == sent, taken, "{sent:?}: {returned:?}");
        assert!(!returned.is_empty());
    }
}
