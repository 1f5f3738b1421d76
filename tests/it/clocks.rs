//! Replicas with wrong clocks: nothing visible depends on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::block_in_place;

use crate::support::{Replica, Socket, Stack, auth, fresh, until};

const TTL: Duration = Duration::from_secs(3);

/// The wall clock of one process, set by the test. Its monotonic clock stays correct, like a real machine's when its
/// time is set.
struct Clock {
    file: PathBuf,
    preload: [(&'static str, String); 2],
    pid: AtomicU32,
}

impl Clock {
    fn new(offset: &str) -> Self {
        let (variable, library) = libfaketime()
            .expect("the tests need libfaketime (Debian: faketime): run them with `make test`");
        let home = std::env::temp_dir().join("apptlock-tests");
        fs::create_dir_all(&home).unwrap();
        let clock = Self {
            file: home.join(format!("clock-{}", uuid::Uuid::new_v4().simple())),
            preload: [
                (variable, library.to_str().unwrap().to_owned()),
                ("DYLD_FORCE_FLAT_NAMESPACE", "1".to_owned()),
            ],
            pid: AtomicU32::new(0),
        };
        clock.set(offset);
        clock
    }

    /// Sets it with immediate effect: the library reads the file at each query of the time.
    fn set(&self, offset: &str) {
        let written = self.file.with_extension("new");
        fs::write(&written, offset).unwrap();
        fs::rename(&written, &self.file).unwrap();
    }

    /// One more replica, which uses this clock. It logs each statement, and with it the time.
    async fn start(&self, stack: &mut Stack) {
        let mut settings = vec![
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            // Its name in older releases.
            ("DONT_FAKE_MONOTONIC", "1"),
            ("RUST_LOG", "info,apptlock=debug"),
        ];
        settings.extend(self.preload.iter().map(|(k, v)| (*k, v.as_str())));
        let pid = stack.add_with(&settings).await.pid();
        self.pid.store(pid, Ordering::Relaxed);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
        // Left behind by the library in a process that was killed.
        let pid = self.pid.load(Ordering::Relaxed);
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = fs::remove_file(format!("/dev/shm/{name}{pid}"));
        }
    }
}

/// The variable that loads a library into a process, and the library.
fn libfaketime() -> Option<(&'static str, PathBuf)> {
    let linux = fs::read_dir("/usr/lib")
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .chain(["/usr/lib64".into()])
        .map(|place| ("LD_PRELOAD", place.join("faketime/libfaketime.so.1")));
    let brewed = ["/opt/homebrew", "/usr/local"].map(|prefix| {
        let library = "opt/libfaketime/lib/faketime/libfaketime.1.dylib";
        ("DYLD_INSERT_LIBRARIES", Path::new(prefix).join(library))
    });
    linux.chain(brewed).find(|(_, library)| library.is_file())
}

/// Waits for proof that the replica's clock is off by so many hours.
fn await_clock(replica: &Replica, hours: i64) {
    replica.await_record(&format!("a clock {hours} h off"), |record| {
        record["timestamp"].as_str().is_some_and(|at| {
            let at = OffsetDateTime::parse(at, &Rfc3339).unwrap();
            let off = at - OffsetDateTime::now_utc() - time::Duration::hours(hours);
            off.abs() < time::Duration::minutes(5)
        })
    });
}

/// PostgreSQL's clock, the only one that counts.
async fn clock(stack: &Stack) -> OffsetDateTime {
    sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

fn time_in(value: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(value.as_str().unwrap(), &Rfc3339).unwrap()
}

/// An answer has milliseconds, and PostgreSQL microseconds.
const MILLISECOND: time::Duration = time::Duration::milliseconds(1);

/// A lease's whole life, with a jump in the middle of it.
async fn a_lease_lives_by_postgresqls_clock(stack: &Stack, grants: usize, jump: impl FnOnce()) {
    let (here, there) = (&stack.replicas[grants], &stack.replicas[1 - grants]);
    let id = fresh("clock");
    let mut sockets = [
        Socket::connect(here, auth("eve")).await,
        Socket::connect(there, auth("eve")).await,
    ];
    for socket in &mut sockets {
        socket.subscribe(&id).await;
    }

    // Many users request it, through both replicas.
    let before = clock(stack).await;
    let tries = (0..40).map(|n| {
        let (replica, id) = (&stack.replicas[n % 2], &id);
        async move { replica.acquire(id, &format!("user{n}")).await }
    });
    let replies = join_all(tries).await;
    let after = clock(stack).await;
    let won: Vec<_> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(won.len(), 1, "{} hold it", won.len());
    let lock = &won[0].body["lock"];
    let expires = time_in(&lock["expiresAt"]);
    assert!(
        expires >= before + TTL - MILLISECOND && expires <= after + TTL,
        "granted between {before} and {after}, expires at {expires}"
    );

    jump();

    for replica in [here, there] {
        let before = clock(stack).await;
        let status = replica.status_of(&id).await;
        let after = clock(stack).await;
        let seen = &status.body["lock"];
        for field in [
            "userId",
            "fencingToken",
            "version",
            "createdAt",
            "expiresAt",
        ] {
            assert_eq!(seen[field], lock[field], "{field}");
        }
        let now = time_in(&status.body["serverTime"]);
        assert!(
            now >= before - MILLISECOND && now <= after,
            "{now} is not between {before} and {after}"
        );
        let left = time::Duration::milliseconds(seen["expiresInMs"].as_i64().unwrap());
        assert!(
            (now + left - expires).abs() <= MILLISECOND,
            "{left} left at {now}, expires at {expires}"
        );
        let token = json!({ "fencingToken": lock["fencingToken"] });
        assert_eq!(replica.ask("POST", &id, "verify", &token).await.status, 200);
        assert_eq!(replica.acquire(&id, "late").await.status, 409);
    }

    for socket in &mut sockets {
        assert_eq!(socket.expect("lock-released").await["reason"], "expired");
        let late = clock(stack).await - expires;
        assert!(
            late > time::Duration::ZERO && late < time::Duration::SECOND,
            "told {late} after the deadline"
        );
    }
    for replica in [here, there] {
        assert_eq!(replica.status_of(&id).await.body["locked"], false);
    }
}

/// The leader's name and term.
async fn leads(stack: &Stack) -> (String, i64) {
    sqlx::query_as("select holder, term from leader_lease where expires_at > clock_timestamp()")
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

/// The same after the leader has renewed its term twice more.
async fn leads_on(stack: &Stack) -> (String, i64) {
    let mut kept = 0;
    let mut was: Option<OffsetDateTime> = None;
    until("the leader asks for its duty again", async || {
        let ends: OffsetDateTime =
            sqlx::query_scalar("select expires_at from leader_lease, pg_sleep(0.05)")
                .fetch_one(&stack.pool)
                .await
                .unwrap();
        if was != Some(ends) {
            kept += 1;
            was = Some(ends);
        }
        kept == 3
    })
    .await;
    leads(stack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_clock_is_a_day_off_or_jumps_changes_nothing() {
    let clocks = [Clock::new("+24h"), Clock::new("-24h")];
    let ttl = format!("{TTL:?}");
    let mut stack = Stack::empty(&[("LOCK_TTL", &ttl)]).await;
    for clock in &clocks {
        clock.start(&mut stack).await;
    }
    let leader = stack.leader().await;
    let led = leads(&stack).await;
    let set = |hours: [i64; 2]| {
        for (at, hours) in hours.into_iter().enumerate() {
            clocks[at].set(&format!("{hours:+}h"));
            block_in_place(|| await_clock(&stack.replicas[at], hours));
        }
    };

    set([24, -24]);
    a_lease_lives_by_postgresqls_clock(&stack, leader, || ()).await;
    a_lease_lives_by_postgresqls_clock(&stack, leader, || set([-48, 48])).await;
    assert_eq!(leads_on(&stack).await, led, "the leader changed");
    a_lease_lives_by_postgresqls_clock(&stack, 1 - leader, || set([72, -72])).await;
    assert_eq!(leads_on(&stack).await, led, "the leader changed");
    assert_eq!(stack.leader().await, leader);
}
