//! REST client.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use super::{PATIENCE, PAUSE, Replica};

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
    pub headers: reqwest::header::HeaderMap,
}

impl Reply {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub fn token(&self) -> i64 {
        self.body["lock"]["fencingToken"]
            .as_i64()
            .unwrap_or_else(|| panic!("no token in {self:?}"))
    }

    pub fn version(&self) -> i64 {
        self.body["version"]
            .as_i64()
            .unwrap_or_else(|| panic!("no version in {self:?}"))
    }
}

fn path(appointment: &str, action: &str) -> String {
    let id: String = appointment.bytes().fold(String::new(), |mut id, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            id.push(char::from(byte));
        } else {
            id += &format!("%{byte:02X}");
        }
        id
    });
    format!("/api/appointments/{id}/{action}")
}

/// A client with a token.
pub struct Bearer<'a> {
    replica: &'a Replica,
    token: String,
}

impl Bearer<'_> {
    /// A request with a JSON body to a route of an appointment.
    pub async fn ask(&self, method: &str, appointment: &str, action: &str, body: &Value) -> Reply {
        self.send(method, &path(appointment, action), body).await
    }

    /// Any request with a JSON body.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        let (token, kind) = (Some(self.token.as_str()), Some("application/json"));
        self.replica
            .bearing_maybe(token, method, path, kind, body.to_string().into())
            .await
    }

    pub async fn status_of(&self, appointment: &str) -> Reply {
        self.ask("GET", appointment, "lock-status", &Value::Null)
            .await
    }
}

impl Replica {
    /// A request with a JSON body to a route of an appointment.
    pub async fn ask(&self, method: &str, appointment: &str, action: &str, body: &Value) -> Reply {
        let path = path(appointment, action);
        self.raw(method, &path, Some("application/json"), body.to_string())
            .await
    }

    /// Any request. Every answer under `/api` must be the envelope.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        kind: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Reply {
        self.bearing_maybe(None, method, path, kind, body.into())
            .await
    }

    /// The same, as the bearer of a token.
    pub fn bearing(&self, token: &str) -> Bearer<'_> {
        Bearer {
            replica: self,
            token: token.to_owned(),
        }
    }

    async fn bearing_maybe(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        kind: Option<&str>,
        body: reqwest::Body,
    ) -> Reply {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body: Value = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{status} with no JSON: {text:?}"));
        assert_eq!(
            body["success"].as_bool(),
            Some(status < 400),
            "{status} {body}"
        );
        assert!(body["message"].is_string(), "{status} {body}");
        assert_eq!(body["code"].is_string(), status >= 400, "{status} {body}");
        Reply {
            status,
            body,
            headers,
        }
    }

    pub async fn status_of(&self, appointment: &str) -> Reply {
        self.ask("GET", appointment, "lock-status", &Value::Null)
            .await
    }

    pub async fn acquire(&self, appointment: &str, user: &str) -> Reply {
        self.ask("POST", appointment, "acquire-lock", &super::person(user))
            .await
    }

    pub async fn release(&self, appointment: &str, user: &str) -> Reply {
        self.ask(
            "DELETE",
            appointment,
            "release-lock",
            &serde_json::json!({ "userId": user }),
        )
        .await
    }

    /// A metric's value, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self
            .client
            .get(format!("{}/metrics", self.management))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        text.lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric, summed over its labels, is as `wanted`. After [`PATIENCE`] the test fails.
    pub async fn metric_becomes(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        self.metric_becomes_within(PATIENCE, name, wanted).await;
    }

    /// The same with an explicit limit.
    pub async fn metric_becomes_within(
        &self,
        limit: Duration,
        name: &str,
        wanted: impl Fn(f64) -> bool,
    ) {
        let since = Instant::now();
        loop {
            let now = self.metric(name).await;
            if wanted(now) {
                return;
            }
            assert!(since.elapsed() < limit, "{name} is {now} after {limit:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until a replica that has just started has compared its rooms with PostgreSQL. A change that this
    /// comparison finds before the bus delivers it is shown too, but is not part of its trace.
    pub async fn compares_no_more(&self) {
        let (mut passes, since) = (-1.0, Instant::now());
        loop {
            let now = self.metric("apptlock_reconcile_passes_total").await;
            if now == passes {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "it still compares: pass {now}");
            passes = now;
            // Twice the interval between two reads of `unpublished`.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
