//! Faults and their times: one at a time, drawn from a shuffled deck, so that a run of any seed has its share
//! of each. Owns the order of faults and the notes of when each began and was over. Every fault is
//! healed before the next begins, also when the run is stopped in the middle of one.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::record::{At, Clock};
use super::screen::Screen;
use super::world::{REPLICAS, World};
use crate::Failure;

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    KillReplica,
    PauseReplica,
    KillRedis,
    PauseRedis,
    ResetRedis,
    KillPostgres,
    PausePostgres,
    CutRedis,
    StallRedis,
    CutPostgres,
    StallPostgres,
    Delay,
}

use Kind::{
    CutPostgres, CutRedis, Delay, KillPostgres, KillRedis, KillReplica, PausePostgres, PauseRedis,
    PauseReplica, ResetRedis, StallPostgres, StallRedis,
};

/// One round.
const DECK: [Kind; 17] = [
    KillReplica,
    KillReplica,
    KillReplica,
    KillReplica,
    KillReplica,
    PauseReplica,
    KillRedis,
    PauseRedis,
    ResetRedis,
    KillPostgres,
    KillPostgres,
    PausePostgres,
    CutRedis,
    StallRedis,
    CutPostgres,
    StallPostgres,
    Delay,
];

/// A fault that happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The replica, if the fault was one replica's alone.
    pub(crate) replica: Option<usize>,
    pub(crate) from: At,
    pub(crate) to: At,
}

impl Fault {
    pub(crate) fn is_kill(&self) -> bool {
        matches!(self.kind, KillReplica | KillRedis | KillPostgres)
    }

    pub(crate) fn is_pause(&self) -> bool {
        matches!(self.kind, PauseReplica | PauseRedis | PausePostgres)
    }

    /// PostgreSQL or Redis was unavailable, for one replica or for all.
    pub(crate) fn is_outage(&self) -> bool {
        !matches!(self.kind, KillReplica | PauseReplica | ResetRedis | Delay)
    }

    /// True if the fault excuses that replica meanwhile: it is paused, or cannot reach PostgreSQL.
    pub(crate) fn excuses(&self, replica: usize) -> bool {
        match self.kind {
            KillPostgres | PausePostgres => true,
            KillReplica | PauseReplica | CutPostgres | StallPostgres => {
                self.replica == Some(replica)
            }
            KillRedis | PauseRedis | ResetRedis | CutRedis | StallRedis | Delay => false,
        }
    }
}

/// Injector of faults, on a thread of its own because its operations block.
pub(crate) struct Driver {
    pub(crate) world: World,
    pub(crate) clock: Clock,
    pub(crate) random: fastrand::Rng,
    pub(crate) screen: Screen,
    /// A message or a closed channel: stop.
    pub(crate) stop: Receiver<()>,
    pub(crate) done: Vec<Fault>,
    /// Replicas that ended though nobody killed them.
    pub(crate) deaths: Vec<String>,
}

impl Driver {
    /// Injects and heals faults until stopped.
    pub(crate) fn run(mut self) -> Result<Self, Failure> {
        let mut deck = Vec::new();
        loop {
            if self.rest(Duration::from_millis(400), Duration::from_millis(1300)) {
                return Ok(self);
            }
            self.bury()?;
            if deck.is_empty() {
                deck = DECK.to_vec();
                self.random.shuffle(&mut deck);
            }
            if let Some(kind) = deck.pop()
                && self.fault(kind)?
            {
                return Ok(self);
            }
        }
    }

    /// Waits for some time between the two; true: stop.
    fn rest(&mut self, from: Duration, to: Duration) -> bool {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(self.random.u64(micros(from)..=micros(to)));
        self.stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout)
    }

    /// A replica that died by itself is noted and started again.
    pub(crate) fn bury(&mut self) -> Result<(), Failure> {
        for (n, replica) in self.world.replicas.iter_mut().enumerate() {
            if let Some(how) = replica.ended()? {
                let log = replica.log.display();
                self.deaths
                    .push(format!("replica {} ended by itself: {how}: {log}", n + 1));
                replica.start()?;
            }
        }
        Ok(())
    }

    /// One fault, healed; true: stop.
    fn fault(&mut self, kind: Kind) -> Result<bool, Failure> {
        let n = self.random.usize(..REPLICAS);
        let own = !matches!(
            kind,
            KillRedis | PauseRedis | ResetRedis | KillPostgres | PausePostgres
        );
        let name = if own {
            format!(" of replica {}", n + 1)
        } else {
            String::new()
        };
        let from = self.clock.now();
        self.begin(kind, n)?;
        let (least, most) = lasts(kind);
        let stop = self.rest(
            Duration::from_millis(least),
            Duration::from_millis(most.max(least)),
        );
        self.heal(kind, n)?;
        let to = self.clock.now();
        self.screen.line(&format!(
            "{:7.1} s  {}{name}, for {:.1} s",
            from.as_secs_f64(),
            describe(kind),
            (to - from).as_secs_f64()
        ));
        self.done.push(Fault {
            kind,
            replica: own.then_some(n),
            from,
            to,
        });
        Ok(stop)
    }

    fn begin(&mut self, kind: Kind, n: usize) -> Result<(), Failure> {
        let World {
            replicas,
            redis,
            postgres,
        } = &mut self.world;
        match kind {
            KillReplica => replicas[n].kill()?,
            PauseReplica => replicas[n].signal("STOP")?,
            KillRedis => redis.kill()?,
            PauseRedis => redis.pause()?,
            ResetRedis => replicas.iter().for_each(|replica| replica.to_redis.reset()),
            KillPostgres => postgres.kill()?,
            PausePostgres => postgres.pause()?,
            CutRedis => replicas[n].to_redis.cut(),
            StallRedis => replicas[n].to_redis.stall(),
            CutPostgres => replicas[n].to_postgres.cut(),
            StallPostgres => replicas[n].to_postgres.stall(),
            Delay => {
                let by = Duration::from_millis(self.random.u64(5..60));
                replicas[n].to_postgres.delay(by);
                replicas[n].to_redis.delay(by);
            }
        }
        Ok(())
    }

    fn heal(&mut self, kind: Kind, n: usize) -> Result<(), Failure> {
        let World {
            replicas,
            redis,
            postgres,
        } = &mut self.world;
        match kind {
            KillReplica => replicas[n].start()?,
            PauseReplica => replicas[n].signal("CONT")?,
            KillRedis => redis.start_again()?,
            PauseRedis => redis.resume()?,
            KillPostgres => postgres.start_again()?,
            PausePostgres => postgres.resume()?,
            CutRedis | StallRedis => replicas[n].to_redis.pass(),
            CutPostgres | StallPostgres => replicas[n].to_postgres.pass(),
            Delay => {
                replicas[n].to_postgres.pass();
                replicas[n].to_redis.pass();
            }
            ResetRedis => {}
        }
        Ok(())
    }
}

/// Shortest and longest duration of a fault, in milliseconds. Faults that stop everything are short: otherwise a run
/// would test nothing else.
fn lasts(kind: Kind) -> (u64, u64) {
    match kind {
        KillReplica | KillPostgres | ResetRedis => (0, 0),
        PauseReplica => (500, 8000),
        // Sometimes longer than the timeout of a statement: then some are executed after their 503.
        PausePostgres => (1000, 4500),
        KillRedis | PauseRedis | CutRedis | StallRedis => (1000, 4000),
        CutPostgres | StallPostgres | Delay => (1000, 3000),
    }
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        KillReplica => "kill -9 and a new start",
        PauseReplica => "a pause",
        KillRedis => "Redis killed and started again",
        PauseRedis => "Redis paused",
        ResetRedis => "every connection to Redis reset",
        KillPostgres => "PostgreSQL killed, recovered from its disk",
        PausePostgres => "PostgreSQL paused",
        CutRedis => "Redis cut off, network",
        StallRedis => "Redis stalled, network",
        CutPostgres => "PostgreSQL cut off, network",
        StallPostgres => "PostgreSQL stalled, network",
        Delay => "a slow network",
    }
}
