//! A real Prometheus over two replicas in use finds everything that the dashboard and the alerts query. If a metric, a
//! panel or a rule is missing, or has no value, its name is in the failure.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::metrics::text;
use crate::support::{Prometheus, Socket, Stack, auth, fresh};
use apptlock::dev;
use apptlock::telemetry::{ALL, JWKS_AGE, Kind};

/// Runs promtool on a replica's metrics.
fn check(metrics: &str) {
    let program =
        dev::find("promtool").expect("the tests need promtool: run them with `make test`");
    let mut promtool = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).unwrap();
    drop(input);
    let out = promtool.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(out.status.success() && said.is_empty(), "{said}\n{metrics}");
}

/// Usage by people and browsers, until everything that metrics count has happened.
async fn use_it(stack: &Stack) {
    let ids: Vec<String> = (0..4).map(|_| fresh("used")).collect();
    let mut sockets = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        for (replica, who) in [(0, "near"), (1, "far")] {
            let user = format!("{who}-{n}");
            let mut socket = Socket::connect(&stack.replicas[replica], auth(&user)).await;
            socket.subscribe(id).await;
            sockets.push((socket, id));
        }
    }
    for round in 0..60 {
        for (n, id) in ids.iter().enumerate() {
            let replica = &stack.replicas[(round + n) % 2];
            let done = if round % 3 == 2 {
                replica.release(id, "ann").await
            } else {
                replica.acquire(id, "ann").await
            };
            assert!(done.status < 500, "{done:?}");
            replica.acquire(id, "ben").await;
            replica.release(id, "ben").await;
        }
        for (socket, id) in &mut sockets {
            let at = json!({ "appointmentId": id, "position": { "x": round, "y": 1 } });
            socket.ask("cursor-position", &at).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One is left to expire.
    stack.replicas[0].acquire(&fresh("left"), "ann").await;
}

fn product(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every panel's title with each of its expressions.
fn panels(under: &Value, found: &mut Vec<(String, String)>) {
    for panel in under["panels"].as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap().to_owned();
            found.push((panel["title"].to_string(), expression));
        }
        panels(panel, found);
    }
}

fn with_values(expression: &str) -> String {
    let values = [
        ("$__rate_interval", "15s"),
        ("$__range", "15s"),
        ("$__interval", "1s"),
        ("$namespace", "tests"),
        ("$job", "apptlock"),
        ("$pod", "apptlock-.*"),
        ("$instance", ".*"),
    ];
    let filled = values
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| {
            text.replace(name, value)
        });
    assert!(!filled.contains('$'), "{filled}");
    filled
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':');
    let metric = |word: &&str| {
        (word.starts_with("apptlock_") || word.starts_with("process_")) && !word.ends_with('_')
    };
    text.split(word).filter(metric).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_all_that_the_dashboard_and_the_alerts_ask_for() {
    let stack = Stack::start(2, &[("LOCK_TTL", "2s")]).await;
    let prometheus = Prometheus::start(&stack);
    // Most panels have values before any usage; after it, all do.
    use_it(&stack).await;
    prometheus
        .exceeds("min(count_over_time(up{job=\"apptlock\"}[1m]))", 8.0)
        .await;
    prometheus
        .exceeds("sum(apptlock_expiries_total{by=\"sweep\"})", 0.0)
        .await;
    let scraped = prometheus.ask("count(up == 1)").await;
    assert_eq!(scraped, [2.0], "both are scraped");

    for replica in &stack.replicas {
        let shown = text(replica).await;
        check(&shown);
        // Without a JWK set there is no age of one.
        for metric in ALL.iter().filter(|it| it.name != JWKS_AGE) {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            let name = metric.name;
            assert!(shown.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
            assert!(
                shown.contains(&format!("# HELP {name} {}\n", metric.help)),
                "{name}"
            );
        }
    }

    let dashboard: Value =
        serde_json::from_str(&product("helm/apptlock/files/dashboard.json")).unwrap();
    let mut asked = Vec::new();
    panels(&dashboard, &mut asked);
    assert!(asked.len() > 40, "{} expressions", asked.len());
    for (title, expression) in asked.iter().filter(|(_, it)| !it.contains(JWKS_AGE)) {
        let values = prometheus.ask(&with_values(expression)).await;
        let data = values.iter().any(|value| value.is_finite());
        assert!(
            data,
            "the panel {title} is empty: {expression} is {values:?}"
        );
    }

    let there: BTreeSet<String> = prometheus.names().await.into_iter().collect();
    let rules = product("helm/apptlock/files/rules.yaml");
    let expressions: String = asked
        .iter()
        .map(|(_, expression)| format!("{expression}\n"))
        .collect();
    let uncommented: Vec<&str> = rules
        .lines()
        .filter(|line| !line.trim().starts_with('#'))
        .collect();
    let wanted = named(&expressions)
        .into_iter()
        .chain(named(&uncommented.join("\n")));
    let missing: Vec<String> = wanted
        .filter(|name| !there.contains(name) && name != JWKS_AGE)
        .collect();
    assert!(missing.is_empty(), "not live: {missing:?}");

    let rules = prometheus.rules().await;
    assert!(rules.len() > 15, "{rules:?}");
    let bad: Vec<_> = rules.iter().filter(|(_, health)| health != "ok").collect();
    assert!(bad.is_empty(), "{bad:?}");
}
