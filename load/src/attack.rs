//! `attack`: what an unfriendly client would do, while well-behaved users of the same replica measure how it serves
//! them. Owns the order of a run: for each attack a fresh replica, so that none pays for the one before.
//!
//! ```text
//!   127.0.0.66  attackers ──▶ replica ◀── users, a socket, a probe  127.0.0.1     witness.rs, gauge.rs
//!               one file each    │
//!                                └──▶ PostgreSQL, Redis                           report.rs judges
//! ```
//!
//! Attackers are bounded in number, pace and time, and reach loopback only. A failure of the run itself, such as a
//! replica that does not start, ends it with an error, which is no verdict.

mod attachments;
mod frames;
mod gauge;
mod keepalive;
mod leave;
mod page;
mod report;
mod signatures;
mod tokens;
mod wire;
mod witness;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use apptlock::dev::{self, Server};
use tokio::time::{Instant, sleep_until};

use crate::Failure;
use crate::replica::{self, Replica};
use report::{Asked, Row};
use tokens::{Keys, SECRET};
use wire::Tally;
use witness::{Habit, Subject, USERS, Witness};

/// Maximum calm before the attacks.
const BASELINE_SECONDS: u64 = 5;
/// Files that have to be free for connections.
const FILES: u64 = keepalive::MOST as u64 + 1000;

/// Length, choice of attacks, and the limits that fail a run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds of each attack; "leave" takes 25 at least, since it looks at what is open 15 s later.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// The binary under test.
    #[arg(long, default_value = "target/release/apptlock")]
    binary: PathBuf,
    /// Only these: 1 page, 2 attachments, 3 frames, 4 leave, 5 signatures, 6 keepalive.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=6))]
    only: Vec<u8>,
    /// Connections that forged tokens come over, each with up to 37 a second.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    forgers: u16,
    /// Milliseconds that 99 of 100 requests of the users may take, and events too.
    #[arg(long, default_value_t = 100)]
    p99: u64,
    /// The same as a multiple of what it took before the attacks, if that is more: a busy machine is slow by itself.
    #[arg(long, default_value_t = 0)]
    calm_times: u32,
    /// MiB of memory that the replica may take.
    #[arg(long, default_value_t = 400)]
    rss: u64,
    /// File for the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The target of an attack.
struct Target {
    address: SocketAddr,
    /// Valid token of an attacker.
    token: String,
    /// Header and claims of an unsigned token.
    unsigned: String,
    /// Connections over which such tokens are sent.
    forgers: u16,
    tally: Tally,
}

/// Running attackers, and their reports at the end. They stop by then, or when dropped.
type Attackers = Pin<Box<dyn Future<Output = Vec<String>> + Send>>;

/// One of the six.
struct Attack {
    name: &'static str,
    begin: fn(Arc<Target>, Instant) -> Attackers,
    habit: Habit,
    /// Settings beyond the replica's defaults.
    settings: &'static [(&'static str, &'static str)],
    /// Tokens are signed with a key pair.
    pair: bool,
    /// Seconds, at least.
    least: u64,
    asked: Asked,
}

const COUNTED: Asked = Asked {
    counted: true,
    kernel: false,
};

/// Defaults of every attack.
const PLAIN: Attack = Attack {
    name: "calm",
    begin: |_, until| {
        Box::pin(async move {
            sleep_until(until).await;
            Vec::new()
        })
    },
    habit: Habit::Stay,
    settings: &[],
    pair: false,
    least: 0,
    asked: Asked {
        counted: false,
        kernel: false,
    },
};

/// 1,050 places, of which sockets may take 50.
const FEW_PLACES: &[(&str, &str)] = &[("MAX_SOCKETS", "50")];

const ATTACKS: [Attack; 6] = [
    Attack {
        name: "page",
        begin: |target, until| Box::pin(page::run(target, until)),
        asked: Asked {
            counted: true,
            kernel: true,
        },
        ..PLAIN
    },
    Attack {
        name: "attachments",
        begin: |target, until| Box::pin(attachments::run(target, until)),
        asked: COUNTED,
        ..PLAIN
    },
    Attack {
        name: "frames",
        begin: |target, until| Box::pin(frames::run(target, until)),
        asked: COUNTED,
        ..PLAIN
    },
    Attack {
        name: "leave",
        begin: |target, until| Box::pin(leave::run(target, until)),
        habit: Habit::Newcomer,
        settings: FEW_PLACES,
        least: 25,
        asked: COUNTED,
        ..PLAIN
    },
    Attack {
        name: "signatures",
        begin: |target, until| Box::pin(signatures::run(target, until)),
        pair: true,
        asked: COUNTED,
        ..PLAIN
    },
    Attack {
        name: "keepalive",
        begin: |target, until| Box::pin(keepalive::run(target, until)),
        habit: Habit::Anew,
        settings: FEW_PLACES,
        asked: COUNTED,
        ..PLAIN
    },
];

/// One run; true if nothing was breached.
pub(crate) async fn run(mut options: Options) -> Result<bool, Failure> {
    let attacked = async {
        let ground = Ground::lay(&options)?;
        let mut rows = vec![
            ground
                .see(&PLAIN, options.seconds.min(BASELINE_SECONDS))
                .await?,
        ];
        for (n, attack) in (1..).zip(&ATTACKS) {
            if options.only.is_empty() || options.only.contains(&n) {
                let seconds = options.seconds.max(attack.least);
                rows.push(ground.see(attack, seconds).await?);
            }
        }
        Ok::<_, Failure>(rows)
    };
    let rows: Vec<report::Row> = tokio::select! {
        rows = attacked => rows?,
        _ = tokio::signal::ctrl_c() => return Err("stopped early".into()),
    };
    if let Some(calm) = rows.first() {
        let borne = calm.p99() * options.calm_times;
        options.p99 = options
            .p99
            .max(u64::try_from(borne.as_millis()).unwrap_or(u64::MAX));
    }
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&report::json(&rows, &options))?;
        std::fs::write(file, json + "\n")
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(report::print(&rows, &options))
}

/// Servers that the replicas need, and tokens for both kinds of key.
struct Ground {
    binary: PathBuf,
    forgers: u16,
    redis: Server,
    postgres: Server,
    keys: Keys,
    /// The users' tokens and the attacker's: first those signed with the secret, then those signed with the pair.
    tokens: [[String; USERS + 2]; 2],
}

impl Ground {
    fn lay(options: &Options) -> Result<Self, Failure> {
        let under = Path::new(".run");
        if files() < FILES {
            return Err(format!("too few files may be open: run `ulimit -n {FILES}` first").into());
        }
        println!(
            "Starting PostgreSQL, Redis, and for each attack a replica of {}",
            options.binary.display()
        );
        let postgres = dev::postgres(under)?;
        let redis = dev::redis(under)?.ok_or("redis-server was not found: install it")?;
        replica::migrate(&options.binary, &postgres.url)?;
        let keys = Keys::make(under)?;
        let users = ["ann", "ben", "cleo", "mallory"];
        let mut tokens = <[[String; USERS + 2]; 2]>::default();
        for (n, user) in users.into_iter().enumerate() {
            tokens[0][n] = tokens::hs256(user)?;
            tokens[1][n] = keys.es384(user)?;
        }
        Ok(Self {
            binary: options.binary.clone(),
            forgers: options.forgers,
            redis,
            postgres,
            keys,
            tokens,
        })
    }

    /// Lets it happen to a fresh replica, and measures.
    async fn see(&self, attack: &Attack, seconds: u64) -> Result<Row, Failure> {
        let name = attack.name;
        let log = Path::new(".run").join(format!("attack-{name}.log"));
        let mut settings = vec![
            ("DATABASE_URL", self.postgres.url.as_str()),
            ("REDIS_URL", self.redis.url.as_str()),
            match attack.pair {
                true => ("JWT_PUBLIC_KEY", self.keys.public.as_str()),
                false => ("JWT_SECRET", SECRET),
            },
        ];
        settings.extend(attack.settings);
        let replica = Replica::start_one(&self.binary, &settings, &log)?;
        let [ann, ben, cleo, mallory] = self.tokens[usize::from(attack.pair)].clone();
        let subject = Subject {
            address: replica.address.clone(),
            management: replica.management.clone(),
            pid: replica.pid(),
            log: log.clone(),
            tokens: [ann, ben, cleo],
        };
        let target = Arc::new(Target {
            address: replica.address.parse()?,
            token: mallory,
            unsigned: tokens::unsigned("ES384", "ann")?,
            forgers: self.forgers,
            tally: Tally::default(),
        });
        gauge::await_ready(&replica.management).await?;
        let before = gauge::counted(&replica.management).await?;
        let logged = std::fs::metadata(&log)?.len();
        let kernel = gauge::kernel();
        let witness = Witness::start(subject, attack.habit).await?;

        println!("  {name:<12} begins, for {seconds} s");
        let (since, cpu) = (Instant::now(), replica.cpu()?);
        let until = since + Duration::from_secs(seconds);
        let mut attackers = (attack.begin)(target.clone(), until);
        let mut own = tokio::select! {
            // Attackers that end by themselves do so at about this time, and have a report.
            biased;
            own = &mut attackers => Some(own),
            () = sleep_until(until) => None,
        };
        sleep_until(until).await;
        let (took, spent) = (since.elapsed(), replica.cpu());
        drop(attackers);
        let measured = witness.finish().await?;
        let after = gauge::counted(&replica.management).await;
        let mut own = own.take().unwrap_or_default();
        if let Err(error) = &after {
            own.push(format!("no metrics: {error}"));
        }
        println!("  {name:<12} ends: {}", target.tally.volume());
        Ok(Row {
            name,
            volume: target.tally.volume(),
            seen: target.tally.seen(),
            took,
            kernel: measured.peak.kernel.saturating_sub(kernel),
            log: (measured.peak.log + std::fs::metadata(&log)?.len()).saturating_sub(logged),
            measured,
            // A dead replica is a separate finding.
            cpu: spent.unwrap_or(cpu).saturating_sub(cpu),
            counted: gauge::risen(&before, after.unwrap_or_default()),
            own,
            asked: attack.asked,
        })
    }
}

/// Maximum open files of this process (proc(5): limits).
fn files() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(u64::MAX)
}
