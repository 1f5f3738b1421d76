//! The report of a run: a row for each attack, the figures behind it, and the verdict. Owns the rules of a breach.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use serde_json::{Value, json};

use super::Options;
use super::witness::Measured;

const MIB: u64 = 1024 * 1024;
/// Maximum log of a replica during an attack, in bytes.
const LOG: u64 = MIB;
/// Maximum kernel memory for it, in bytes, for attacks that limit it.
const KERNEL: u64 = 100 * MIB;
/// Maximum kinds of errors and of answers that are printed.
const SHOWN: usize = 6;

/// One attack, or the calm before.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) volume: String,
    /// Answers and ends of connections that the attackers saw.
    pub(crate) seen: Vec<(String, u64)>,
    pub(crate) took: Duration,
    pub(crate) measured: Measured,
    pub(crate) cpu: Duration,
    /// Growth of the kernel's memory since before the attack, in bytes.
    pub(crate) kernel: u64,
    pub(crate) log: u64,
    pub(crate) counted: Vec<(String, u64)>,
    /// Findings of the attack itself.
    pub(crate) own: Vec<String>,
    pub(crate) asked: Asked,
}

/// Demands on a row besides the common limits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// A counter must rise.
    pub(crate) counted: bool,
    /// The kernel's memory has a limit.
    pub(crate) kernel: bool,
}

impl Row {
    /// The time that 99 of 100 requests took at most.
    pub(crate) fn p99(&self) -> Duration {
        at(&self.measured.requests, 0.99)
    }

    /// Limits that it breaches.
    fn breaches(&self, options: &Options) -> Vec<String> {
        let mut breaches = Vec::new();
        let mut breach = |broken: bool, what: String| {
            if broken {
                breaches.push(what);
            }
        };
        let limit = Duration::from_millis(options.p99);
        let p99 = self.p99();
        breach(p99 > limit, format!("p99 {}", ms(p99)));
        let event = at(&self.measured.events, 0.99);
        breach(event > limit, format!("events' p99 {}", ms(event)));
        let errors = self.errors();
        breach(errors > 0, format!("{errors} errors"));
        let ready = &self.measured.ready;
        breach(ready.failed > 0, format!("{} not ready", ready.failed));
        let resident = self.measured.peak.resident;
        breach(
            resident > options.rss * MIB,
            format!("RSS {}", mib(resident)),
        );
        breach(resident == 0, "the replica is gone".into());
        breach(
            self.asked.kernel && self.kernel > KERNEL,
            format!("TCP {}", mib(self.kernel)),
        );
        breach(self.log > LOG, format!("log {}", mib(self.log)));
        breach(
            self.asked.counted && self.counted.is_empty(),
            "nothing counted".into(),
        );
        breaches.extend(self.own.iter().cloned());
        breaches
    }

    fn errors(&self) -> u64 {
        self.measured.errors.values().sum()
    }

    /// CPU as a share of one core.
    fn share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.took.as_secs_f64()
    }

    fn json(&self, options: &Options) -> Value {
        let figure = |of: &[Duration], share| at(of, share).as_secs_f64() * 1e3;
        let (requests, events) = (&self.measured.requests, &self.measured.events);
        json!({
            "name": self.name,
            "seconds": self.took.as_secs_f64(),
            "volume": self.volume,
            "seen": self.seen.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "requests": requests.len(),
            "p50Ms": figure(requests, 0.5),
            "p99Ms": figure(requests, 0.99),
            "eventP50Ms": figure(events, 0.5),
            "eventP99Ms": figure(events, 0.99),
            "errors": self.measured.errors,
            "readyAsked": self.measured.ready.asked,
            "readyFailed": self.measured.ready.failed,
            "rssMaxBytes": self.measured.peak.resident,
            "tcpMemoryBytes": self.kernel,
            "logBytes": self.log,
            "cpuShare": self.share(),
            "counted": self.counted.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "breaches": self.breaches(options),
        })
    }
}

/// Prints all rows; true if nothing was breached.
pub(crate) fn print(rows: &[Row], options: &Options) -> bool {
    let heads = [
        "attack",
        "volume",
        "p50",
        "p99",
        "event p99",
        "errors",
        "not ready",
        "RSS",
        "TCP",
        "log",
        "CPU",
        "counted",
    ];
    let mut table = vec![heads.map(str::to_owned)];
    for row in rows {
        let measured = &row.measured;
        let counted: Vec<String> = row
            .counted
            .iter()
            .map(|(series, n)| short(series, *n))
            .collect();
        table.push([
            row.name.to_owned(),
            row.volume.clone(),
            ms(at(&measured.requests, 0.5)),
            ms(at(&measured.requests, 0.99)),
            ms(at(&measured.events, 0.99)),
            format!("{}/{}", row.errors(), measured.requests.len()),
            format!("{}/{}", measured.ready.failed, measured.ready.asked),
            mib(measured.peak.resident),
            mib(row.kernel),
            mib(row.log),
            format!("{:.0} %", row.share() * 100.0),
            if counted.is_empty() {
                "nothing".into()
            } else {
                counted.join(", ")
            },
        ]);
    }
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            let cells = table.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        })
        .collect();
    let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let paint = |text: &str, code: &str| match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let mut kept = true;
    println!();
    for (n, cells) in table.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            // Words to the left, figures to the right.
            let words = [0, 1, heads.len() - 1].contains(&column);
            let padded = if words {
                format!("{cell}{padding}")
            } else {
                format!("{padding}{cell}")
            };
            line.push_str(&format!("{padded}  "));
        }
        let verdict = match n.checked_sub(1).and_then(|n| rows.get(n)) {
            None => "verdict".into(),
            Some(row) => match row.breaches(options) {
                none if none.is_empty() => paint("ok", "32"),
                breaches => {
                    kept = false;
                    paint(&format!("BREACH: {}", breaches.join(", ")), "31")
                }
            },
        };
        println!("  {line}{verdict}");
    }
    for row in rows {
        let errors: Vec<_> = row.measured.errors.clone().into_iter().collect();
        say(row.name, "errors of the users", &errors);
        say(row.name, "seen by the attackers", &row.seen);
    }
    println!();
    match kept {
        true => println!("Nothing was breached."),
        false => println!("A limit was breached."),
    }
    kept
}

/// The whole report as JSON.
pub(crate) fn json(rows: &[Row], options: &Options) -> Value {
    json!({
        "limits": { "p99Ms": options.p99, "rssMib": options.rss },
        "rows": rows.iter().map(|row| row.json(options)).collect::<Vec<_>>(),
    })
}

fn say(name: &str, what: &str, kinds: &[(String, u64)]) {
    if kinds.is_empty() {
        return;
    }
    let shown = kinds
        .iter()
        .take(SHOWN)
        .map(|(kind, n)| format!("{n} × {kind}"));
    let more = if kinds.len() > SHOWN { ", ..." } else { "" };
    println!(
        "  {name}, {what}: {}{more}",
        shown.collect::<Vec<_>>().join(", ")
    );
}

/// A counter without what all have in common.
fn short(series: &str, more: u64) -> String {
    let name = series
        .trim_start_matches("apptlock_")
        .replacen("_total", "", 1);
    format!("{name} +{more}")
}

/// The figure below which that share lies.
fn at(figures: &[Duration], share: f64) -> Duration {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_few_figures_is_one_of_them() {
        let figures: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(at(&figures, 0.5), Duration::from_millis(50));
        assert_eq!(at(&figures, 0.99), Duration::from_millis(99));
        assert_eq!(at(&figures[..1], 0.99), Duration::from_millis(100));
        assert_eq!(at(&[], 0.99), Duration::ZERO);
    }
}
