//! The well-behaved users, who say how the replica serves them: two who take, ask for, move and give back a lock of
//! their own, a socket that hears of both, and a newcomer if that is asked. They have a thread of their own, so that
//! what attackers do in this process does not count as the server's delay. What fails for them is a finding, never an
//! end of the run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::gauge::{self, Peak, Ready};
use crate::Failure;
use crate::client::Connection;

/// Time limit of a request: a longer one is an error, and counts as this long.
const LONGEST: Duration = Duration::from_secs(10);
/// A newcomer gives up after this long.
const FIRST_IMPRESSION: Duration = Duration::from_secs(3);
/// Interval between two requests of one user.
const TICK: Duration = Duration::from_millis(200);
/// Users with a lock.
pub(crate) const USERS: usize = 2;

/// Connections of the users: kept, or new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Each on a connection that it keeps.
    Stay,
    /// With a newcomer beside them once a second.
    Newcomer,
    /// Like the one before, with every second request of each user on a new connection.
    Anew,
}

/// The replica that the users ask, and their tokens.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) address: String,
    pub(crate) management: String,
    pub(crate) pid: u32,
    pub(crate) log: PathBuf,
    /// One for each user, and one for socket and newcomer.
    pub(crate) tokens: [String; USERS + 1],
}

/// The measurements of a run.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Durations of requests.
    pub(crate) requests: Vec<Duration>,
    /// Delays of events, each counted from the answer to its acquire.
    pub(crate) events: Vec<Duration>,
    /// Failures, and how often each came.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) ready: Ready,
    pub(crate) peak: Peak,
}

/// Users at work.
pub(crate) struct Witness {
    stop: watch::Sender<bool>,
    measured: oneshot::Receiver<Result<Measured, Failure>>,
}

impl Witness {
    /// Lets them begin, and waits until the socket is subscribed.
    pub(crate) async fn start(subject: Subject, habit: Habit) -> Result<Self, Failure> {
        let (stop, stopped) = watch::channel(false);
        let (done, measured) = oneshot::channel();
        let (begun, begin) = oneshot::channel();
        std::thread::Builder::new().spawn(move || {
            let measured = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Failure::from)
                .and_then(|runtime| runtime.block_on(observe(subject, habit, stopped, begun)));
            // Nobody waits for it where the run has ended.
            let _ = done.send(measured);
        })?;
        timeout(LONGEST, begin).await??;
        Ok(Self { stop, measured })
    }

    /// Lets them finish what they are at.
    pub(crate) async fn finish(self) -> Result<Measured, Failure> {
        let _ = self.stop.send(true);
        self.measured.await?
    }
}

async fn observe(
    subject: Subject,
    habit: Habit,
    stop: watch::Receiver<bool>,
    begun: oneshot::Sender<()>,
) -> Result<Measured, Failure> {
    let heard = Heard::default();
    let (leave, left) = watch::channel(false);
    let socket = tokio::spawn(listen(subject.clone(), heard.clone(), left, begun));
    let probe = tokio::spawn(gauge::probe(subject.management.clone(), stop.clone()));
    let sampler = tokio::spawn(gauge::sample(
        subject.pid,
        subject.log.clone(),
        stop.clone(),
    ));
    let mut users: Vec<_> = (0..USERS)
        .map(|n| {
            let mut user = User::new(&subject, n);
            user.restless = habit == Habit::Anew;
            tokio::spawn(user.work(stop.clone()))
        })
        .collect();
    if habit != Habit::Stay {
        let mut newcomer = User::new(&subject, USERS);
        newcomer.patience = FIRST_IMPRESSION;
        users.push(tokio::spawn(newcomer.come_anew(stop.clone())));
    }
    let mut measured = Measured::default();
    let mut acquired = Vec::new();
    for user in users {
        let user = user.await?;
        measured.requests.extend(user.took);
        acquired.extend(user.acquired);
        count(&mut measured.errors, user.errors);
    }
    let since = Instant::now();
    while acquired.iter().any(|lock| heard.of(lock).is_none()) && since.elapsed() < LONGEST {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It is there until this.
    let _ = leave.send(true);
    count(&mut measured.errors, socket.await?);
    for lock in &acquired {
        let came = heard.of(lock);
        if came.is_none_or(|at| at.saturating_duration_since(lock.at) > LONGEST) {
            *measured
                .errors
                .entry("an event never came".into())
                .or_default() += 1;
        }
        let late = came.map_or(LONGEST, |at| at.saturating_duration_since(lock.at));
        measured.events.push(late.min(LONGEST));
    }
    measured.ready = probe.await?;
    measured.peak = sampler.await?;
    Ok(measured)
}

fn count(all: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    for (what, n) in more {
        *all.entry(what).or_default() += n;
    }
}

fn appointment(n: usize) -> String {
    format!("attack-{n}")
}

/// A lock that was acquired: whose event is awaited.
struct Acquired {
    user: usize,
    version: i64,
    at: Instant,
}

struct User {
    n: usize,
    address: String,
    token: String,
    /// Every second request on a new connection.
    restless: bool,
    /// Time limit of an answer.
    patience: Duration,
    asked: u64,
    connection: Option<Connection>,
    took: Vec<Duration>,
    acquired: Vec<Acquired>,
    errors: BTreeMap<String, u64>,
}

impl User {
    fn new(subject: &Subject, n: usize) -> Self {
        Self {
            n,
            address: subject.address.clone(),
            token: subject.tokens[n].clone(),
            restless: false,
            patience: LONGEST,
            asked: 0,
            connection: None,
            took: Vec::new(),
            acquired: Vec::new(),
            errors: BTreeMap::new(),
        }
    }

    fn fault(&mut self, what: String) {
        *self.errors.entry(what).or_default() += 1;
    }

    async fn work(mut self, stop: watch::Receiver<bool>) -> Self {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let steps = [
            ("POST", "acquire-lock", "{}"),
            ("GET", "lock-status", ""),
            ("POST", "update-position", r#"{"position":{"x":1,"y":2}}"#),
            ("DELETE", "release-lock", "{}"),
        ];
        let mut holds = false;
        for (method, route, body) in steps.into_iter().cycle() {
            tick.tick().await;
            if *stop.borrow() {
                break;
            }
            let answer = self.ask(method, route, body, self.n).await;
            let Some((status, answer)) = answer else {
                // Whether it was done is not known.
                holds &= route != "release-lock" && route != "acquire-lock";
                continue;
            };
            let free = !holds && matches!(route, "update-position" | "release-lock");
            match status {
                200..300 => {}
                409 if route == "acquire-lock" => {}
                404 if free => {}
                _ => self.fault(format!("{route} answered {status}")),
            }
            match route {
                "acquire-lock" => {
                    holds = (200..300).contains(&status);
                    if let Some(version) = answer["lock"]["version"].as_i64().filter(|_| holds) {
                        let (user, at) = (self.n, Instant::now());
                        self.acquired.push(Acquired { user, version, at });
                    }
                }
                "release-lock" => holds = false,
                _ => {}
            }
        }
        self
    }

    /// Comes as a newcomer once a second, with a request and a socket.
    async fn come_anew(mut self, stop: watch::Receiver<bool>) -> Self {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if *stop.borrow() {
                return self;
            }
            self.connection = None;
            if let Some((status, _)) = self.ask("GET", "lock-status", "", 0).await
                && status != 200
            {
                self.fault(format!("a newcomer's lock-status answered {status}"));
            }
            let entered = timeout(self.patience, enter(&self.address, &self.token)).await;
            match entered {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => self.fault(format!("a newcomer's socket: {error}")),
                Err(_) => self.fault("a newcomer's socket was not let in".into()),
            }
        }
    }

    /// Status and body; nothing if that was an error, which is counted.
    async fn ask(
        &mut self,
        method: &str,
        route: &str,
        body: &str,
        about: usize,
    ) -> Option<(u16, Value)> {
        let request = format!(
            "{method} /api/appointments/{}/{route} HTTP/1.1\r\nhost: users\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            appointment(about),
            self.token,
            body.len()
        );
        self.asked += 1;
        let anew = self.restless && self.asked.is_multiple_of(2);
        // A server may close a connection between two requests, and another is opened.
        let kept = self
            .connection
            .take()
            .filter(|kept| !anew && !kept.is_over());
        let address = &self.address;
        let since = Instant::now();
        let asked = timeout(self.patience, async {
            let mut connection = match kept {
                Some(kept) => kept,
                None => Connection::open(address)
                    .await
                    .map_err(|error| format!("could not connect: {error}"))?,
            };
            let (status, body) = connection
                .ask(request.as_bytes())
                .await
                .map_err(|error| format!("asked and not answered: {error}"))?;
            let body = serde_json::from_slice(body).unwrap_or_default();
            Ok::<_, String>((connection, status, body))
        })
        .await;
        self.took.push(since.elapsed().min(self.patience));
        match asked {
            Ok(Ok((connection, status, body))) => {
                self.connection = Some(connection);
                return Some((status, body));
            }
            Ok(Err(fault)) => self.fault(fault),
            Err(_) => self.fault(format!("no answer for {:?}", self.patience)),
        }
        None
    }
}

/// Events that the socket heard: the users' versions and their times. Locked for single entries.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<[Versions; USERS]>>);

/// Versions of one lock, and the time of each.
type Versions = Vec<(i64, Instant)>;

impl Heard {
    fn note(&self, appointment: &str, version: i64) {
        let user = (0..USERS).find(|n| self::appointment(*n) == appointment);
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = user {
            heard[user].push((version, Instant::now()));
        }
    }

    /// The moment at which that version, or one that supersedes it, was heard.
    fn of(&self, lock: &Acquired) -> Option<Instant> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = heard[lock.user].iter();
        let came = heard.find(|(version, _)| *version >= lock.version);
        came.map(|(_, at)| *at)
    }
}

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A socket in the namespace `/`.
async fn enter(address: &str, token: &str) -> Result<Stream, Failure> {
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
    let (mut stream, _) = tokio_tungstenite::connect_async(url).await?;
    for expected in ["0", "40"] {
        if expected == "40" {
            let connect = format!(r#"40{{"token":"{token}"}}"#);
            stream.send(Message::text(connect)).await?;
        }
        loop {
            match stream.next().await {
                Some(Ok(Message::Text(text))) if text.starts_with(expected) => break,
                // A ping may come first.
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    stream.send(Message::text("3")).await?;
                }
                other => return Err(format!("{other:?} where {expected} was due").into()),
            }
        }
    }
    Ok(stream)
}

/// Hears of every user's lock, and comes back when the connection ends. Returns what failed.
async fn listen(
    subject: Subject,
    heard: Heard,
    mut stop: watch::Receiver<bool>,
    begun: oneshot::Sender<()>,
) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    let mut begun = Some(begun);
    loop {
        let listened = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return errors,
            listened = hear(&subject, &heard, &mut begun) => listened,
        };
        let why = listened.map_or_else(|error| error.to_string(), |()| "closed".into());
        *errors.entry(format!("the socket: {why}")).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn hear(
    subject: &Subject,
    heard: &Heard,
    begun: &mut Option<oneshot::Sender<()>>,
) -> Result<(), Failure> {
    let mut stream = timeout(LONGEST, enter(&subject.address, &subject.tokens[USERS])).await??;
    for n in 0..USERS {
        let subscribe = format!(r#"42{n}["subscribe","{}"]"#, appointment(n));
        stream.send(Message::text(subscribe)).await?;
    }
    while let Some(message) = stream.next().await {
        let Message::Text(text) = message? else {
            continue;
        };
        if text.as_str() == "2" {
            stream.send(Message::text("3")).await?;
            continue;
        }
        let Some(begin) = text.find('[') else {
            continue;
        };
        let said: Value = serde_json::from_str(&text[begin..])?;
        let state = match &text[..2] {
            "42" if said[0] == "lock-update" => &said[1],
            "43" => &said[0],
            _ => continue,
        };
        if let (Some(appointment), Some(version)) =
            (state["appointmentId"].as_str(), state["version"].as_i64())
        {
            heard.note(appointment, version);
        }
        if text.starts_with("43")
            && let Some(begun) = begun.take()
        {
            // Where nobody waits, the run has ended.
            let _ = begun.send(());
        }
    }
    Ok(())
}
