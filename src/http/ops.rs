//! The management interface: metrics and probes, on a port of their own.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::health::{Health, Status};

/// What probes and scrapes look at.
#[derive(Clone)]
pub struct Ops {
    /// Whether this replica wants traffic.
    pub health: Health,
    /// Renders the process's metrics, where they are kept.
    pub metrics: Option<PrometheusHandle>,
    /// Sets what is only known by looking, before metrics are rendered.
    pub set_gauges: Arc<dyn Fn() + Send + Sync>,
}

/// `/metrics`, `/livez`, `/readyz`.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/readyz", get(readyz))
        .with_state(ops)
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let Some(metrics) = ops.metrics else {
        return (
            StatusCode::NOT_FOUND,
            "No metrics are kept: METRICS is off\n",
        )
            .into_response();
    };
    (ops.set_gauges)();
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (text, metrics.render()).into_response()
}

/// Whether a load balancer should send traffic here, and why where not.
async fn readyz(State(ops): State<Ops>) -> (StatusCode, Json<serde_json::Value>) {
    match ops.health.status() {
        (Status::Ok, _) => (StatusCode::OK, Json(json!({ "status": Status::Ok }))),
        (status, reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": status, "reason": reason })),
        ),
    }
}
