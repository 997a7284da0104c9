//! `/metrics`, `/live`, `/ready`, `/status`, and a page to look at.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Json};
use axum::routing::get;
use serde_json::Value;

use super::Metrics;

/// Answers of the serving process, asked at each request.
pub struct Probes {
    /// Whether every lane turns; why not.
    pub live: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Whether records are scored; why not.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Everything worth knowing.
    pub status: Box<dyn Fn() -> Value + Send + Sync>,
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    probes: Arc<Probes>,
}

/// Serves HTTP on `address` until the runtime ends; returns the address that it got.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>, probes: Probes) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let shared = Shared { metrics, probes: Arc::new(probes) };
    let router = Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/metrics", get(render))
        .route("/live", get(|State(shared): State<Shared>| async move { probe((shared.probes.live)()) }))
        .route("/ready", get(|State(shared): State<Shared>| async move { probe((shared.probes.ready)()) }))
        .route("/status", get(|State(shared): State<Shared>| async move { Json((shared.probes.status)()) }))
        .with_state(shared);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(address)
}

async fn render(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
}

fn probe(result: Result<(), String>) -> (StatusCode, String) {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
