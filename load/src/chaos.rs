//! `chaos`: everything fails while workers contend, and then every record is checked. Owns the order of a run:
//! start, storm, heal, check, report.
//!
//! ```text
//!   workers ──▶ 3 replicas ──▶ proxies ──▶ PostgreSQL, Redis      record.rs: every answer, with its time
//!   watchers ──▶     ▲            ▲                ▲
//!                    └────────────┴────────────────┘
//!                     faults: killed, paused, cut                 check.rs reads it all afterwards
//! ```
//!
//! The workers, the watchers and the tables are the witnesses; the checker alone judges. A failure
//! of the run itself, such as a server that does not start again, ends it with an error, which is no verdict.

mod check;
mod faults;
mod record;
mod report;
mod screen;
mod tables;
mod watcher;
mod worker;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Failure;
use crate::client::{Connection, request};
use check::SLACK;
use faults::Driver;
use record::{Clock, Evidence, Ledger};
use report::Report;
use screen::Screen;
use watcher::{Heard, Shown};
use worker::{Plan, Rendezvous, Worker};
use world::{REPLICAS, World};

/// Short, so that leases expire often.
const LOCK_TTL: Duration = Duration::from_secs(2);
/// Appointments that are fought for.
const HOT: usize = 12;
/// Appointments whose holders often forget.
const FORGETFUL: usize = 2;
/// Time limit for replicas and watchers to be back after the last fault.
const HEALED: Duration = Duration::from_secs(20);

/// Length, load, and demands on the run itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds of storm.
    #[arg(long, env = "CHAOS_SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Seed of the actions of faults and workers, but not of their moments
    /// [default: a random one].
    #[arg(long)]
    seed: Option<u64>,
    /// The binary under test.
    #[arg(long, default_value = "target/release/apptlock")]
    binary: PathBuf,
    /// Workers that contend.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,
    /// Fewer contended grants fail the run.
    #[arg(long, default_value_t = 0)]
    grants: usize,
    /// Fewer kills fail the run.
    #[arg(long, default_value_t = 0)]
    kills: usize,
    /// Fewer outages fail the run.
    #[arg(long, default_value_t = 0)]
    outages: usize,
}

/// One run; true if every promise was kept.
pub(crate) async fn run(options: Options) -> Result<bool, Failure> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let screen = Screen::new();
    screen.line(&format!(
        "Starting PostgreSQL, Redis and {REPLICAS} replicas of {}; seed {seed}",
        options.binary.display()
    ));
    let world = World::start(&options.binary, LOCK_TTL).await?;
    let clock = Clock::start();
    let plan = Arc::new(Plan {
        clock,
        addresses: world.replicas.iter().map(|r| r.address.clone()).collect(),
        hot: HOT,
        forgetful: FORGETFUL,
        lock_ttl: LOCK_TTL,
        stop: AtomicBool::new(false),
        rendezvous: (0..HOT + FORGETFUL)
            .map(|_| Rendezvous::default())
            .collect(),
        grants: AtomicUsize::new(0),
        refusals: AtomicUsize::new(0),
    });
    let watchers = Watchers::start(&plan);
    let workers: Vec<JoinHandle<Ledger>> = (0..options.workers.into())
        .map(|n| {
            // A number of its own for each, all from the one seed.
            let own = seed.wrapping_mul(100_003).wrapping_add(n as u64);
            tokio::spawn(Worker::new(plan.clone(), n, own).run())
        })
        .collect();
    let (stop, stopped) = std::sync::mpsc::channel();
    let driver = Driver {
        world,
        clock,
        random: fastrand::Rng::with_seed(seed),
        screen: screen.clone(),
        stop: stopped,
        done: Vec::new(),
        deaths: Vec::new(),
    };
    let mut driver = tokio::task::spawn_blocking(|| driver.run());

    let storm = progress(&plan, &screen, options.seconds);
    tokio::select! {
        () = storm => {}
        _ = tokio::signal::ctrl_c() => screen.line("Stopped early; checking what there is"),
        // It ends by itself only if a fault could not be healed.
        failed = &mut driver => {
            failed??;
            return Err("the storm ended by itself".into());
        }
    }
    screen.done();
    let length = clock.now();
    drop(stop);
    let mut driver = driver.await??;
    driver.bury()?;
    screen.line("Everything is healed; the last answers are awaited, then every record is checked");
    plan.stop.store(true, Ordering::Relaxed);
    let mut evidence = Evidence {
        lock_ttl: LOCK_TTL,
        excused: (0..REPLICAS)
            .map(|n| {
                let excuses = driver.done.iter().filter(|fault| fault.excuses(n));
                excuses.map(|fault| (fault.from, fault.to)).collect()
            })
            .collect(),
        ..Evidence::default()
    };
    for worker in workers {
        evidence.ledger.add(worker.await?);
    }
    let mut late = ready(&driver.world).await;
    let mut postgres = tables::connect(&driver.world.postgres.url).await?;
    late.extend(watchers.up_to_date(&mut postgres).await?);
    let heard = watchers.stop().await?;
    (evidence.history, evidence.rows) = tables::read(&mut postgres, HOT + FORGETFUL).await?;
    let back: Vec<String> = heard.iter().flat_map(|heard| heard.back.clone()).collect();
    evidence.sessions = heard.into_iter().flat_map(|heard| heard.sessions).collect();

    let mut findings = tokio::task::block_in_place(|| check::check(&evidence));
    findings.late.extend(late);
    let mut died = driver.deaths.clone();
    died.extend(panics(&driver.world)?);
    let report = Report {
        seed,
        length,
        findings,
        ledger: evidence.ledger,
        faults: &driver.done,
        back,
        died,
        least: [options.grants, options.kills, options.outages],
    };
    Ok(report.print())
}

/// Shows the progress until the time is up.
async fn progress(plan: &Plan, screen: &Screen, seconds: u64) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for second in 0..=seconds {
        tick.tick().await;
        screen.progress(format!(
            "{second:5} s     {} grants, {} refused",
            plan.grants.load(Ordering::Relaxed),
            plan.refusals.load(Ordering::Relaxed)
        ));
    }
}

/// Waits until each replica is ready; the error names one that is not.
async fn ready(world: &World) -> Vec<String> {
    let probe = request("GET", "/readyz", "");
    let mut late = Vec::new();
    for (n, replica) in world.replicas.iter().enumerate() {
        let asked = async {
            loop {
                if let Ok(mut connection) = Connection::open(&replica.management).await
                    && let Ok((200, _)) = connection.ask(&probe).await
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(HEALED, asked).await.is_err() {
            late.push(format!(
                "replica {} is not ready {HEALED:?} after everything was healed",
                n + 1
            ));
        }
    }
    late
}

/// Log lines of the replicas about panics.
fn panics(world: &World) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for replica in &world.replicas {
        let log = std::fs::read(&replica.log)?;
        let log = String::from_utf8_lossy(&log);
        let lines = log.lines().filter(|line| line.contains("panicked"));
        found.extend(lines.map(|line| format!("{}: {line}", replica.log.display())));
    }
    Ok(found)
}

/// One at each replica.
struct Watchers {
    shown: Vec<Arc<Shown>>,
    tasks: Vec<JoinHandle<Heard>>,
    stop: watch::Sender<bool>,
}

impl Watchers {
    fn start(plan: &Plan) -> Self {
        let (stop, stopped) = watch::channel(false);
        let shown: Vec<Arc<Shown>> = (0..REPLICAS)
            .map(|_| Arc::new(Shown::new(HOT + FORGETFUL)))
            .collect();
        let tasks = shown
            .iter()
            .zip(&plan.addresses)
            .enumerate()
            .map(|(n, (shown, address))| {
                let (shown, address) = (shown.clone(), address.clone());
                let stopped = stopped.clone();
                tokio::spawn(watcher::watch(n, address, plan.clock, shown, stopped))
            })
            .collect();
        Self { shown, tasks, stop }
    }

    /// Waits until each is subscribed to all, and then until each shows what the table has; says which
    /// does not.
    async fn up_to_date(&self, postgres: &mut sqlx::PgConnection) -> Result<Vec<String>, Failure> {
        let subscribed = |versions: &[Option<i64>]| versions.iter().all(Option::is_some);
        let mut late = self.until(HEALED, subscribed).await;
        if late.is_empty() {
            let rows = tables::rows(postgres, HOT + FORGETFUL).await?;
            let newest = |versions: &[Option<i64>]| {
                let mut both = versions.iter().zip(&rows);
                both.all(|(shown, row)| *shown >= Some(row.version))
            };
            late = self.until(Duration::from_secs(2) + SLACK, newest).await;
            late.iter_mut()
                .for_each(|line| line.push_str(&format!("; the table: {rows:?}")));
        }
        Ok(late)
    }

    async fn until(&self, limit: Duration, enough: impl Fn(&[Option<i64>]) -> bool) -> Vec<String> {
        let all = async {
            while !self.shown.iter().all(|shown| enough(&shown.versions())) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_ok() {
            return Vec::new();
        }
        let behind = self.shown.iter().enumerate();
        behind
            .map(|(n, shown)| (n, shown.versions()))
            .filter(|(_, versions)| !enough(versions))
            .map(|(n, versions)| {
                format!(
                    "replica {}'s watcher is behind {limit:?} after the storm: {versions:?}",
                    n + 1
                )
            })
            .collect()
    }

    async fn stop(self) -> Result<Vec<Heard>, Failure> {
        // Watchers that have ended need no message.
        let _ = self.stop.send(true);
        let mut heard = Vec::new();
        for task in self.tasks {
            heard.push(task.await?);
        }
        Ok(heard)
    }
}
