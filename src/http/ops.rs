//! The management interface: metrics and probes, on a port of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::store::Store;

/// What probes and scrapes look at.
#[derive(Clone)]
pub struct Ops {
    /// The database, without which nothing is granted.
    pub store: Store,
    /// Set when this replica is to get no more traffic.
    pub draining: Arc<AtomicBool>,
    /// Renders the process's metrics.
    pub metrics: PrometheusHandle,
}

/// `/metrics`, `/livez`, `/readyz`.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/readyz", get(readyz))
        .with_state(ops)
}

async fn metrics(State(ops): State<Ops>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        ops.metrics.render(),
    )
}

/// Whether a load balancer should send traffic here. Redis is not asked: locks are right without it.
async fn readyz(State(ops): State<Ops>) -> (StatusCode, Json<serde_json::Value>) {
    let why = if ops.draining.load(Ordering::Relaxed) {
        Some("this replica is stopping".to_owned())
    } else {
        ops.store.ready().await.err()
    };
    match why {
        None => (StatusCode::OK, Json(json!({ "status": "ok" }))),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": "unavailable", "reason": reason })),
        ),
    }
}
