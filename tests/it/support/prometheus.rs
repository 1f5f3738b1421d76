//! A real Prometheus, which scrapes the replicas under test and evaluates the queries of a dashboard.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::stack::Lines;
use super::{PATIENCE, Stack};
use apptlock::dev;

/// Prometheus, stopped when dropped.
pub struct Prometheus {
    url: String,
    home: PathBuf,
    child: Child,
    client: reqwest::Client,
}

impl Prometheus {
    /// Scrapes the replicas every second, with the rules of the product.
    pub fn start(stack: &Stack) -> Self {
        let program =
            dev::find("prometheus").expect("the tests need prometheus: run them with `make test`");
        let port = dev::free_port().unwrap();
        let name = format!(
            "apptlock-tests/prometheus-{}",
            uuid::Uuid::new_v4().simple()
        );
        let home = std::env::temp_dir().join(name);
        fs::create_dir_all(&home).unwrap();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/apptlock/files/rules.yaml");
        let mut config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: [ \"{}\" ]
scrape_configs:
  - job_name: apptlock
    static_configs:
",
            rules.display()
        );
        for (n, replica) in stack.replicas.iter().enumerate() {
            let target = replica.management.trim_start_matches("http://");
            let labels = format!("{{ namespace: tests, pod: apptlock-{n} }}");
            let _ = writeln!(
                config,
                "      - {{ targets: [ \"{target}\" ], labels: {labels} }}"
            );
        }
        let file = home.join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let mut child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                home.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Lines::default());
        lines.follow(child.stderr.take().unwrap());
        lines.find("ready to receive", |line| {
            line.contains("ready to receive web requests").then_some(())
        });
        Self {
            url: format!("http://127.0.0.1:{port}/api/v1"),
            home,
            child,
            client: reqwest::Client::new(),
        }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut url = reqwest::Url::parse(&format!("{}/{path}", self.url)).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let reply = self.client.get(url).send().await.unwrap();
        let body: Value = reply.json().await.unwrap();
        assert_eq!(body["status"], "success", "{query:?}: {body}");
        body["data"].clone()
    }

    /// The current values of an expression, of all its series.
    pub async fn ask(&self, expression: &str) -> Vec<f64> {
        let data = self.get("query", &[("query", expression)]).await;
        let value = |value: &Value| value[1].as_str().unwrap().parse().unwrap();
        match data["resultType"].as_str().unwrap() {
            "vector" => {
                let series = data["result"].as_array().unwrap();
                series.iter().map(|one| value(&one["value"])).collect()
            }
            "scalar" => vec![value(&data["result"])],
            other => panic!("{expression} is a {other}"),
        }
    }

    /// Waits until an expression has a value above this.
    pub async fn exceeds(&self, expression: &str, least: f64) {
        let since = Instant::now();
        loop {
            let now = self.ask(expression).await;
            if now.iter().any(|value| *value > least) {
                return;
            }
            assert!(since.elapsed() < 2 * PATIENCE, "{expression} is {now:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The names of all series.
    pub async fn names(&self) -> Vec<String> {
        let names = self.get("label/__name__/values", &[]).await;
        serde_json::from_value(names).unwrap()
    }

    /// Every rule: its name, and the health of its evaluation.
    pub async fn rules(&self) -> Vec<(String, String)> {
        let groups = self.get("rules", &[]).await["groups"].clone();
        let rules = groups.as_array().unwrap().iter();
        let rules = rules.flat_map(|group| group["rules"].as_array().unwrap());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        rules
            .map(|rule| (text(&rule["name"]), text(&rule["health"])))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}
