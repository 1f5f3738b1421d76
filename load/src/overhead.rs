//! The cost of observability: two stacks of two replicas, of which one keeps no metrics and no traces, while
//! the other is scraped and sends a share of its traces to a collector. Both have as many sockets, in as many
//! rooms, and the load goes to one and to the other in turns (A B B A), so that whatever else the machine does
//! hits both alike. The figure is server CPU per cursor, of one against the other.
//!
//! Beside the cursors a few requests a second take and release locks, so that there is something to trace.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apptlock::dev::{self, Server};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use sqlx::{Connection as _, Executor as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_tungstenite::tungstenite::Message;

use crate::Failure;
use crate::client::{self, Connection, request};
use crate::replica::{Replica, cpu, memory};

/// Requests a second, beside the cursors.
const REQUESTS: u64 = 20;
/// Interval between two scrapes, as Prometheus is often set.
const SCRAPE: Duration = Duration::from_secs(15);

/// Load of the comparison, and its length.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Sockets of each stack.
    #[arg(long, default_value_t = 500)]
    sockets: usize,
    /// Rooms that they are in.
    #[arg(long, default_value_t = 50)]
    rooms: usize,
    /// Positions a second of each socket.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    rate: u64,
    /// The share of traces that goes to the collector.
    #[arg(long, default_value_t = 0.1)]
    sampled: f64,
    /// Pairs of turns.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    pairs: u64,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Maximum cost, in per cent; more ends with 1.
    #[arg(long, default_value_t = 5.0)]
    most: f64,
    /// The binary under test.
    #[arg(long, default_value = "target/release/apptlock")]
    binary: PathBuf,
}

/// One of the two stacks.
struct Stack {
    replicas: Vec<Replica>,
    /// Positions that its sockets have sent, and events that they have received.
    sent: Arc<AtomicU64>,
    heard: Arc<AtomicU64>,
}

/// The stack that has the load now; none at first.
type Turn = watch::Receiver<Option<usize>>;

/// The channel on which a task reports why it ended.
type Ended = mpsc::Sender<Failure>;

/// Runs it. False if it costs too much.
pub(crate) async fn run(options: Options) -> Result<bool, Failure> {
    let (ended, mut faults) = mpsc::channel(1);
    tokio::select! {
        outcome = compare(options, ended) => outcome,
        Some(fault) = faults.recv() => Err(fault),
    }
}

async fn compare(options: Options, ended: Ended) -> Result<bool, Failure> {
    let under = Path::new(".run");
    println!("Starting PostgreSQL, Redis, and twice two replicas");
    let postgres = dev::postgres(under)?;
    let redis = dev::redis(under)?.ok_or("redis-server was not found: install it")?;
    let collector = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", collector.local_addr()?);
    let spans = Arc::new(AtomicU64::new(0));
    tokio::spawn(collect(collector, spans.clone()));
    let share = options.sampled.to_string();
    let watched = [
        ("METRICS", "on"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", share.as_str()),
    ];
    let (turns, turn) = watch::channel(None);
    let mut stacks = Vec::new();
    for (n, settings) in [&[("METRICS", "off")][..], &watched]
        .into_iter()
        .enumerate()
    {
        let database = database(&postgres, n).await?;
        let replicas = Replica::start_two(&options.binary, &database, &redis.url, settings)?;
        let stack = Stack {
            replicas,
            sent: Arc::default(),
            heard: Arc::default(),
        };
        let before = memory(&stack.replicas)?;
        load(&stack, n, &options, &turn, &ended).await?;
        let each = memory(&stack.replicas)?.saturating_sub(before) / options.sockets as u64;
        println!(
            "  a replica took {} MiB; a socket in its room takes {} KiB",
            before / 2 / 1024 / 1024,
            each / 1024
        );
        stacks.push(stack);
    }
    for replica in &stacks[1].replicas {
        tokio::spawn(scrape(replica.management.clone()));
    }

    println!(
        "{} sockets in {} rooms, {} positions a second each, {REQUESTS} requests a second",
        options.sockets, options.rooms, options.rate
    );
    // One turn each to warm up, which counts for nothing.
    for n in [0, 1] {
        measure(&stacks[n], n, &turns, Duration::from_secs(options.seconds)).await?;
    }
    let mut costs = [Vec::new(), Vec::new()];
    println!("  pair   unwatched   watched     (server CPU per cursor, in us)");
    for pair in 0..options.pairs {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for n in order {
            let length = Duration::from_secs(options.seconds);
            costs[n].push(measure(&stacks[n], n, &turns, length).await?);
        }
        let last = |n: usize| costs[n].last().copied().unwrap_or_default();
        println!("  {:4}   {:9.2}   {:7.2}", pair + 1, last(0), last(1));
    }
    let mean = |n: usize| costs[n].iter().sum::<f64>() / costs[n].len() as f64;
    let (plain, full) = (mean(0), mean(1));
    let over = (full / plain - 1.0) * 100.0;
    let heard: u64 = stacks
        .iter()
        .map(|it| it.heard.load(Ordering::Relaxed))
        .sum();
    println!();
    println!("  unwatched                    {plain:9.2} us per cursor");
    println!(
        "  metrics, and {:3.0} % of traces  {full:9.2} us per cursor",
        options.sampled * 100.0
    );
    println!(
        "  costs                        {over:9.2} %  (at most {} %)",
        options.most
    );
    println!("  events heard                 {heard:9}");
    println!(
        "  bytes of spans               {:9}",
        spans.load(Ordering::Relaxed)
    );
    if spans.load(Ordering::Relaxed) == 0 {
        return Err("no span reached the collector: this compared nothing".into());
    }
    Ok(over <= options.most)
}

/// A database of its own for each stack.
async fn database(postgres: &Server, n: usize) -> Result<String, Failure> {
    let name = format!("stack_{n}");
    let mut admin = sqlx::PgConnection::connect(&postgres.url).await?;
    admin
        .execute(sqlx::AssertSqlSafe(format!("create database {name}")))
        .await?;
    Ok(postgres.url.replace("/postgres", &format!("/{name}")))
}

/// Server CPU per cursor, in microseconds, while that stack has the load.
async fn measure(
    stack: &Stack,
    n: usize,
    turns: &watch::Sender<Option<usize>>,
    length: Duration,
) -> Result<f64, Failure> {
    turns.send_replace(Some(n));
    // Until the load is steady.
    sleep(Duration::from_millis(300)).await;
    let (before, sent) = (cpu(&stack.replicas)?, stack.sent.load(Ordering::Relaxed));
    sleep(length).await;
    let spent = cpu(&stack.replicas)? - before;
    let sent = stack.sent.load(Ordering::Relaxed) - sent;
    turns.send_replace(None);
    sleep(Duration::from_millis(300)).await;
    if sent == 0 {
        return Err("no cursor was sent".into());
    }
    Ok(spent.as_secs_f64() * 1e6 / sent as f64)
}

/// Connects all sockets of one stack, which move when it is their turn; and those who take locks.
async fn load(
    stack: &Stack,
    n: usize,
    options: &Options,
    turn: &Turn,
    ended: &Ended,
) -> Result<(), Failure> {
    for socket in 0..options.sockets {
        let replica = &stack.replicas[socket % stack.replicas.len()];
        let room = format!(
            "stack-{n}-room-{}",
            socket / stack.replicas.len() % options.rooms
        );
        let opened = open(&replica.address, socket, &room).await?;
        let pause = Duration::from_secs(1) / u32::try_from(options.rate)?;
        let (turn, sent, heard) = (turn.clone(), stack.sent.clone(), stack.heard.clone());
        let ended = ended.clone();
        // Not all at the same moment.
        let first = pause.mul_f64(fastrand::f64());
        tokio::spawn(async move {
            sleep(first).await;
            if let Err(error) = point(opened, n, &room, pause, turn, &sent, &heard).await {
                // Only the first one counts.
                let _ = ended.try_send(format!("a socket ended: {error}").into());
            }
        });
    }
    for replica in &stack.replicas {
        let (address, turn, ended) = (replica.address.clone(), turn.clone(), ended.clone());
        let share = REQUESTS / stack.replicas.len() as u64;
        tokio::spawn(async move {
            if let Err(error) = ask(&address, n, share, turn).await {
                // Only the first one counts.
                let _ = ended.try_send(format!("a request failed: {error}").into());
            }
        });
    }
    Ok(())
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

/// A socket that is in its room.
async fn open(address: &str, n: usize, room: &str) -> Result<Socket, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
    let auth = format!(
        r#"40{{"userId":"user-{n}","userInfo":{{"name":"User {n}","email":"user{n}@example.com"}}}}"#
    );
    socket.send(Message::text(auth)).await?;
    loop {
        let frame = socket.next().await.ok_or("the connection ended")??;
        let Message::Text(text) = frame else { continue };
        if text.as_str() == "2" {
            socket.send(Message::text("3")).await?;
        } else if text.starts_with("40") {
            let subscribe = format!(r#"420["subscribe","{room}"]"#);
            socket.send(Message::text(subscribe)).await?;
        } else if text.starts_with("430[") && text.contains(r#""success":true"#) {
            return Ok(socket);
        } else if text.starts_with("4") {
            return Err(text.to_string().into());
        }
    }
}

/// Receives everything, and sends positions while it is this stack's turn.
async fn point(
    mut socket: Socket,
    n: usize,
    room: &str,
    pause: Duration,
    turn: Turn,
    sent: &AtomicU64,
    heard: &AtomicU64,
) -> Result<(), Failure> {
    let mut beat = interval(pause);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut x = 0_u64;
    loop {
        tokio::select! {
            _ = beat.tick() => {
                if *turn.borrow() == Some(n) {
                    x += 1;
                    let at = format!(r#"42["cursor-position",{{"appointmentId":"{room}","position":{{"x":{x},"y":7}}}}]"#);
                    socket.send(Message::text(at)).await?;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
            frame = socket.next() => {
                match frame.ok_or("the connection ended")?? {
                    Message::Text(text) if text.as_str() == "2" => socket.send(Message::text("3")).await?,
                    _ => { heard.fetch_add(1, Ordering::Relaxed); }
                }
            }
        }
    }
}

/// Acquires and releases a lock alternately while it is this stack's turn.
async fn ask(address: &str, n: usize, rate: u64, turn: Turn) -> Result<(), Failure> {
    let mut connection = Connection::open(address).await?;
    let mut beat = interval(Duration::from_secs(1) / u32::try_from(rate)?);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let path = format!("/api/appointments/asked-{}-{n}", fastrand::u32(..));
    let who = r#"{"userId":"asks","userInfo":{"name":"Asks","email":"asks@example.com"}}"#;
    let asks = [
        request("POST", &format!("{path}/acquire-lock"), who),
        request(
            "DELETE",
            &format!("{path}/release-lock"),
            r#"{"userId":"asks"}"#,
        ),
    ];
    for asked in asks.iter().cycle() {
        beat.tick().await;
        while *turn.borrow() != Some(n) {
            beat.tick().await;
        }
        let (status, _) = connection.ask(asked).await?;
        if status >= 300 {
            return Err(format!("{status}").into());
        }
    }
    Ok(())
}

/// Scrapes as Prometheus does.
async fn scrape(management: String) {
    let mut beat = interval(SCRAPE);
    loop {
        beat.tick().await;
        let read = async {
            let mut stream = TcpStream::connect(&management).await?;
            let ask = "GET /metrics HTTP/1.1\r\nhost: scrape\r\nconnection: close\r\n\r\n";
            stream.write_all(ask.as_bytes()).await?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await
        };
        if let Err(error) = read.await {
            eprintln!("error: a scrape failed: {error}");
        }
    }
}

/// Accepts all spans, and ignores them.
async fn collect(listener: TcpListener, bytes: Arc<AtomicU64>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let bytes = bytes.clone();
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Ok(Some(count)) = client::swallow(&mut stream, &mut buffer).await {
                bytes.fetch_add(count, Ordering::Relaxed);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}
