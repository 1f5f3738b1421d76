//! Management interface: metrics and probes, on a port of their own. Each answer reports the state of this replica
//! only; [`Health`] decides whether it is ready.

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

/// State of the handlers.
#[derive(Clone)]
pub struct Ops {
    /// Readiness of this replica.
    pub health: Health,
    /// Recorder of the process's metrics, if they are enabled.
    pub metrics: Option<PrometheusHandle>,
    /// Sets the gauges that are read on demand, before metrics are rendered.
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

/// Readiness: whether a load balancer should send traffic here, and the reason if not.
async fn readyz(State(ops): State<Ops>) -> (StatusCode, Json<serde_json::Value>) {
    match ops.health.status() {
        (Status::Ok, _) => (StatusCode::OK, Json(json!({ "status": Status::Ok }))),
        (status, reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": status, "reason": reason })),
        ),
    }
}
