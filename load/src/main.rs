//! The load generator. Owns figures that can be repeated: each run measures apptlock and, in the same run on
//! the same PostgreSQL, a yardstick, and prints the ratio.
//!
//! `bench` starts PostgreSQL and Redis of its own, two replicas of the release binary, and drives acquire and
//! release over kept-alive HTTP connections; then pgbench runs the very same two statements with as many
//! clients. Everything is on loopback and ends by itself. A replica that answers anything but success ends
//! the run with an error.
//!
//! `overhead` compares two stacks in one run: one without and one with metrics and traces.
//!
//! `chaos` checks promises instead of measuring: see its own file. It ends with 1 if one was broken.
//!
//! `attack` acts like hostile clients, while well-behaved ones measure their latency.

mod attack;
mod chaos;
mod client;
mod overhead;
mod replica;
mod yardstick;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use apptlock::dev;
use clap::{Parser, Subcommand};

use replica::{Replica, cpu};

/// Measures apptlock on this machine, and tries its promises.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Acquire and release over two replicas, against pgbench with the same two statements.
    Bench {
        /// Connections, and pgbench clients.
        #[arg(long, default_value_t = 32)]
        connections: usize,
        /// Seconds for each of the two measurements.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=120))]
        seconds: u64,
        /// The binary under test.
        #[arg(long, default_value = "target/release/apptlock")]
        binary: PathBuf,
    },
    /// The cost of metrics and traces, under a load of cursors.
    Overhead(overhead::Options),
    /// Kill, pause and cut PostgreSQL, Redis and three replicas while workers contend, then check every record.
    Chaos(chaos::Options),
    /// Six attacks, one after another, while well-behaved users of the same replica measure how it serves them.
    Attack(attack::Options),
}

/// An error that ends a run early.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let run = || -> Result<bool, Failure> {
        let cli = Cli::parse();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let What::Chaos(_) | What::Overhead(_) | What::Attack(_) = cli.command {
            // It shares the machine with all that it drives: one thread is enough, and wakes no other.
            builder.worker_threads(1);
        }
        let runtime = builder.enable_all().build()?;
        match cli.command {
            What::Bench {
                connections,
                seconds,
                binary,
            } => bench(&runtime, connections, Duration::from_secs(seconds), &binary).map(|()| true),
            What::Overhead(options) => runtime.block_on(overhead::run(options)),
            What::Chaos(options) => runtime.block_on(chaos::run(options)),
            What::Attack(options) => runtime.block_on(attack::run(options)),
        }
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn bench(
    runtime: &tokio::runtime::Runtime,
    connections: usize,
    length: Duration,
    binary: &Path,
) -> Result<(), Failure> {
    let under = Path::new(".run");
    println!(
        "Starting PostgreSQL, Redis and two replicas of {}",
        binary.display()
    );
    let postgres = dev::postgres(under)?;
    let redis = dev::redis(under)?.ok_or("redis-server was not found: install it")?;
    let replicas = Replica::start_two(binary, &postgres.url, &redis.url, &[])?;

    println!("Warming up");
    let addresses: Vec<String> = replicas
        .iter()
        .map(|replica| replica.address.clone())
        .collect();
    runtime.block_on(client::drive(
        &addresses,
        connections,
        Duration::from_secs(2),
    ))?;

    println!(
        "{connections} connections acquire and release for {} s",
        length.as_secs()
    );
    let before = cpu(&replicas)?;
    let since = Instant::now();
    let mut done = runtime.block_on(client::drive(&addresses, connections, length))?;
    let took = since.elapsed();
    let spent = cpu(&replicas)? - before;
    drop(replicas);

    println!(
        "pgbench runs the same two statements for {} s",
        length.as_secs()
    );
    let yardstick = yardstick::pgbench(&postgres, connections, length)?;

    done.sort_unstable();
    let cycles = done.len() as f64;
    let rate = cycles / took.as_secs_f64();
    let at = |share: f64| {
        done.get((share * cycles) as usize)
            .copied()
            .unwrap_or_default()
    };
    println!();
    println!(
        "  apptlock, two replicas       {rate:9.0} cycles/s   (a cycle is an acquire and a release)"
    );
    println!("  pgbench, same statements     {yardstick:9.0} cycles/s");
    println!("  ratio                        {:9.2}", rate / yardstick);
    println!(
        "  server CPU per cycle         {:9.0} µs       (both replicas, user and system)",
        spent.as_secs_f64() * 1e6 / cycles
    );
    println!(
        "  a cycle takes                p50 {:.1} ms, p99 {:.1} ms",
        at(0.5).as_secs_f64() * 1e3,
        at(0.99).as_secs_f64() * 1e3
    );
    Ok(())
}
