//! The report of a run: the table, the offending records, and the verdict.

use std::time::Duration;

use super::check::Findings;
use super::faults::{Fault, Kind};
use super::record::Ledger;

/// Maximum records that are printed of each kind of breach.
const SHOWN: usize = 10;

/// Everything that the report prints.
pub(crate) struct Report<'a> {
    pub(crate) seed: u64,
    pub(crate) length: Duration,
    pub(crate) findings: Findings,
    pub(crate) ledger: Ledger,
    pub(crate) faults: &'a [Fault],
    /// Versions that did not rise.
    pub(crate) back: Vec<String>,
    /// Replicas that ended by themselves, or panicked.
    pub(crate) died: Vec<String>,
    /// The least contended grants, kills and outages.
    pub(crate) least: [usize; 3],
}

impl Report<'_> {
    /// Prints it; true if every promise was kept.
    pub(crate) fn print(&self) -> bool {
        let count = |wanted: &dyn Fn(&Fault) -> bool| {
            self.faults.iter().filter(|fault| wanted(fault)).count()
        };
        let of = |kind: Kind| count(&|fault| fault.kind == kind);
        let (kills, outages) = (count(&Fault::is_kill), count(&Fault::is_outage));
        let (found, ledger) = (&self.findings, &self.ledger);
        let granted = ledger.grants.iter().filter(|grant| grant.new).count();
        let row = |name: &str, value: String| println!("  {name:<28}{value:>10}");
        println!();
        row("seconds", format!("{:.1}", self.length.as_secs_f64()));
        row("seed", self.seed.to_string());
        row("grants", granted.to_string());
        row("contended grants", found.contended.to_string());
        row("refused (409)", ledger.refusals.to_string());
        row("leases that ran out", found.expired.to_string());
        row("renewals", ledger.renewals.to_string());
        row("unavailable (503)", ledger.unavailable.to_string());
        row("without an answer", ledger.unanswered.to_string());
        row(
            "kills",
            format!(
                "{kills:>10}   ({} replicas, {} PostgreSQL, {} Redis)",
                of(Kind::KillReplica),
                of(Kind::KillPostgres),
                of(Kind::KillRedis)
            ),
        );
        row("pauses", count(&Fault::is_pause).to_string());
        row(
            "outages",
            format!(
                "{outages:>10}   (PostgreSQL or Redis unavailable, for one replica or for all)"
            ),
        );
        row("answers compared in rooms", found.compared.to_string());
        println!();
        let breaches = [
            ("unexpected answers", &ledger.unexpected),
            ("double holders", &found.double_holders),
            ("lost transitions", &found.lost),
            ("version went back", &self.back),
            ("late or never heard", &found.late),
            ("replicas that died", &self.died),
        ];
        for (name, breaches) in breaches {
            row(name, breaches.len().to_string());
        }
        row(
            "longest time to converge",
            format!("{:.0} ms", found.longest.as_secs_f64() * 1e3),
        );
        let mut kept = true;
        for (name, records) in breaches {
            if !records.is_empty() {
                kept = false;
                println!("\n{name}:");
                for record in records.iter().take(SHOWN) {
                    println!("  {record}");
                }
                if records.len() > SHOWN {
                    println!("  and {} more", records.len() - SHOWN);
                }
            }
        }
        let reached = [
            (found.contended, "contended grants"),
            (kills, "kills"),
            (outages, "outages"),
        ];
        let mut enough = true;
        for ((reached, what), least) in reached.into_iter().zip(self.least) {
            if reached < least {
                enough = false;
                println!("\nToo few {what} for a verdict: {reached} of {least}");
            }
        }
        println!();
        if kept && enough {
            println!("Every promise was kept.");
        } else if kept {
            println!(
                "No promise was broken, but the run tried too little. Seed {}",
                self.seed
            );
        } else {
            println!("A promise was broken. Seed {}", self.seed);
        }
        kept && enough
    }
}
