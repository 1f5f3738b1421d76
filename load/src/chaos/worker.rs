//! Workers who contend: each acquires, holds for a moment and releases, over and over, at few appointments, so
//! that several always want the same one. Owns a client's reaction to a failure: it asks another replica, and if
//! an answer was lost it asks again.
//!
//! Each request that ends a lease names its token. So one that was sent, never answered, and is executed
//! much later cannot end a lease that its user got meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Notify;

use super::record::{At, Clock, Grant, Ledger, Refused, Release, Told, Verdict, id, user};
use crate::client::{Connection, request};

/// Time limit of an answer: longer than a replica takes to report that PostgreSQL is unavailable.
const PATIENCE: Duration = Duration::from_secs(6);
/// Time that a holder waits for a worker who is on the way, before it wakes another.
const SOON: Duration = Duration::from_millis(5);
/// Requests on one connection, before another replica is chosen: so work comes back to one that was unavailable.
const LOYALTY: u32 = 400;

/// State that all workers share.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) clock: Clock,
    pub(crate) addresses: Vec<String>,
    /// Appointments that are fought for.
    pub(crate) hot: usize,
    /// Appointments whose holders often forget to release, so that leases expire.
    pub(crate) forgetful: usize,
    pub(crate) lock_ttl: Duration,
    pub(crate) stop: AtomicBool,
    pub(crate) rendezvous: Vec<Rendezvous>,
    /// Grants so far, for the progress line.
    pub(crate) grants: AtomicUsize,
    pub(crate) refusals: AtomicUsize,
}

/// The meeting point of workers who want one appointment. It makes sure that they do meet, with as few requests as it
/// takes: the more of them are needed for one contended grant, the fewer grants there are in a run.
#[derive(Debug, Default)]
pub(crate) struct Rendezvous {
    /// Notified by a worker that releases, for one of those that wait; the releasing worker competes immediately, too.
    freed: Notify,
    /// Notified by a worker that was refused.
    refused: Notify,
    /// The newest lease that was the cause of a refusal.
    met: AtomicI64,
}

/// The fields of an answer that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    version: i64,
    code: Option<String>,
    lock: Option<Lock>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lock {
    fencing_token: i64,
    user_id: String,
}

/// An answer, and the times around it.
#[derive(Debug)]
struct Reply {
    status: u16,
    answer: Answer,
    sent: At,
    told: At,
}

/// One worker.
pub(crate) struct Worker {
    plan: Arc<Plan>,
    number: usize,
    random: fastrand::Rng,
    connection: Option<Connection>,
    left: u32,
    /// Leases whose release was never answered: it may still be executed, at any time.
    doubtful: HashSet<(usize, i64)>,
    ledger: Ledger,
}

impl Worker {
    pub(crate) fn new(plan: Arc<Plan>, number: usize, seed: u64) -> Self {
        Self {
            plan,
            number,
            random: fastrand::Rng::with_seed(seed),
            connection: None,
            left: 0,
            doubtful: HashSet::new(),
            ledger: Ledger::default(),
        }
    }

    /// Works until stopped; returns its records.
    pub(crate) async fn run(mut self) -> Ledger {
        let all = self.plan.hot + self.plan.forgetful;
        while !self.stopped() {
            // At home most of the time, so that each appointment has its crowd.
            let appointment = if self.random.u8(..10) == 0 {
                self.random.usize(..all)
            } else {
                self.number % all
            };
            if let Some(grant) = self.acquire(appointment).await {
                self.hold(grant).await;
            }
        }
        self.ledger
    }

    fn stopped(&self) -> bool {
        self.plan.stop.load(Ordering::Relaxed)
    }

    /// Asks until it gets the lease, a few times.
    async fn acquire(&mut self, appointment: usize) -> Option<Grant> {
        for _ in 0..50 {
            if self.stopped() {
                return None;
            }
            let Some(reply) = self.try_acquire(appointment).await else {
                continue;
            };
            let lock = reply.answer.lock.as_ref();
            match (reply.status, lock) {
                (200 | 201, Some(lock)) => {
                    return Some(self.note_grant(appointment, &reply, lock.fencing_token));
                }
                (409, Some(lock)) if reply.answer.code.as_deref() == Some("LOCK_HELD") => {
                    self.note_refusal(appointment, &reply, lock);
                    self.wait(appointment).await;
                }
                (503, _) => self.rest(20_000, 100_000).await,
                _ => self.unexpected("acquire-lock", &reply),
            }
        }
        None
    }

    /// Waits until the lease is released, or for a while: a holder that forgets it announces nothing.
    async fn wait(&mut self, appointment: usize) {
        let limit = Duration::from_millis(self.random.u64(80..240));
        // Either is a reason to try again.
        let meeting = &self.plan.rendezvous[appointment];
        let _ = tokio::time::timeout(limit, meeting.freed.notified()).await;
    }

    async fn try_acquire(&mut self, appointment: usize) -> Option<Reply> {
        let user = user(self.number);
        let body =
            format!(r#"{{"userId":"{user}","userInfo":{{"name":"{user}","email":"{user}@x.y"}}}}"#);
        self.ask("POST", appointment, "acquire-lock", &body).await
    }

    fn note_grant(&mut self, appointment: usize, reply: &Reply, token: i64) -> Grant {
        let new = reply.status == 201;
        if new {
            self.plan.grants.fetch_add(1, Ordering::Relaxed);
        } else {
            self.ledger.renewals += 1;
        }
        self.note_told(appointment, reply);
        Grant {
            appointment,
            token,
            version: reply.answer.version,
            worker: self.number,
            new,
            told: reply.told,
            renewed: reply.sent,
            given_up: None,
        }
    }

    fn note_told(&mut self, appointment: usize, reply: &Reply) {
        self.ledger.told.push(Told {
            appointment,
            version: reply.answer.version,
            at: reply.told,
        });
    }

    fn note_refusal(&mut self, appointment: usize, reply: &Reply, lock: &Lock) {
        self.ledger.refusals += 1;
        self.plan.refusals.fetch_add(1, Ordering::Relaxed);
        if lock.user_id == user(self.number) {
            self.unexpected("acquire-lock, refused for a lease of its own", reply);
        }
        let now = Refused {
            appointment,
            token: lock.fencing_token,
            sent: reply.sent,
        };
        let meeting = &self.plan.rendezvous[appointment];
        meeting.met.fetch_max(now.token, Ordering::Relaxed);
        meeting.refused.notify_one();
        match self.ledger.refused.last_mut() {
            Some(last) if last.appointment == appointment && last.token == now.token => *last = now,
            _ => self.ledger.refused.push(now),
        }
    }

    /// Holds for a moment, makes a holder's requests, and releases, or forgets to.
    async fn hold(&mut self, mut grant: Grant) {
        let appointment = grant.appointment;
        let forgets = if appointment < self.plan.hot { 4000 } else { 5 };
        if self.random.u8(..10) == 0 {
            self.rest(0, 5000).await;
        } else {
            self.meet(&grant).await;
        }
        match self.random.u8(..100) {
            0..4 => self.renew(&mut grant).await,
            4..8 => self.verify(&grant).await,
            8..10 => match self.try_acquire(appointment).await {
                Some(reply) if matches!(reply.status, 200 | 201) => {
                    let token = reply
                        .answer
                        .lock
                        .as_ref()
                        .map_or(0, |lock| lock.fencing_token);
                    let again = self.note_grant(appointment, &reply, token);
                    if token == grant.token {
                        grant.renewed = again.renewed;
                    } else {
                        self.ledger
                            .grants
                            .push(std::mem::replace(&mut grant, again));
                    }
                }
                Some(reply) if !matches!(reply.status, 409 | 503) => {
                    self.unexpected("acquire-lock, again", &reply);
                }
                // Refused: another worker has it, so the lease must have expired. The checker verifies that.
                Some(reply) if reply.status == 409 => self.judge(&grant, &reply, false),
                _ => {}
            },
            10 => self.rest(0, 60_000).await,
            _ => {}
        }
        if self.random.u32(..forgets) == 0 {
            self.ledger.grants.push(grant);
            return;
        }
        grant.given_up = Some(self.plan.clock.now());
        self.ledger.grants.push(grant.clone());
        self.release(&grant).await;
        self.plan.rendezvous[appointment].freed.notify_one();
        if self.random.u8(..50) == 0 {
            self.verify(&grant).await;
        }
    }

    /// Waits until a worker was refused because of this lease, or for a moment.
    async fn meet(&mut self, grant: &Grant) {
        let limit = Duration::from_millis(self.random.u64(20..40));
        let meeting = &self.plan.rendezvous[grant.appointment];
        let met = async {
            while meeting.met.load(Ordering::Relaxed) < grant.token {
                let refused = meeting.refused.notified();
                if tokio::time::timeout(SOON, refused).await.is_err() {
                    // The other workers tried too early or not at all.
                    meeting.freed.notify_one();
                }
            }
        };
        // Nobody may want it just now.
        let _ = tokio::time::timeout(limit, met).await;
    }

    async fn renew(&mut self, grant: &mut Grant) {
        let user = user(self.number);
        let body = format!(r#"{{"userId":"{user}","position":{{"x":1,"y":2}}}}"#);
        let asked = self.ask("POST", grant.appointment, "update-position", &body);
        let Some(reply) = asked.await else { return };
        match reply.status {
            // If this lease expired, another one of the same user may have been renewed: the token tells them apart.
            200 => {
                self.ledger.renewals += 1;
                self.note_told(grant.appointment, &reply);
                let token = reply.answer.lock.as_ref().map(|lock| lock.fencing_token);
                if token == Some(grant.token) {
                    grant.renewed = reply.sent;
                }
            }
            403 | 404 => self.judge(grant, &reply, false),
            503 => {}
            _ => self.unexpected("update-position", &reply),
        }
    }

    async fn verify(&mut self, grant: &Grant) {
        let body = format!(r#"{{"fencingToken":{}}}"#, grant.token);
        let asked = self.ask("POST", grant.appointment, "verify", &body);
        let Some(reply) = asked.await else { return };
        match reply.status {
            200 => self.judge(grant, &reply, true),
            409 if grant.given_up.is_none() => self.judge(grant, &reply, false),
            409 | 503 => {}
            _ => self.unexpected("verify", &reply),
        }
    }

    fn judge(&mut self, grant: &Grant, reply: &Reply, live: bool) {
        if !live && self.doubtful.contains(&(grant.appointment, grant.token)) {
            return;
        }
        self.ledger.verdicts.push(Verdict {
            appointment: grant.appointment,
            token: grant.token,
            sent: reply.sent,
            told: reply.told,
            live,
            sure_until: grant.renewed + self.plan.lock_ttl,
        });
    }

    /// Retries until it is answered or the lease has expired anyway.
    async fn release(&mut self, grant: &Grant) {
        let body = format!(
            r#"{{"userId":"{}","fencingToken":{}}}"#,
            user(self.number),
            grant.token
        );
        let mut first = true;
        loop {
            let reply = self
                .ask("DELETE", grant.appointment, "release-lock", &body)
                .await;
            match reply {
                Some(reply) if reply.status == 200 => {
                    self.note_told(grant.appointment, &reply);
                    self.ledger.releases.push(Release {
                        appointment: grant.appointment,
                        token: grant.token,
                        version: reply.answer.version,
                        worker: self.number,
                        told: reply.told,
                    });
                    return;
                }
                Some(reply) if matches!(reply.status, 403 | 404 | 409) => {
                    // After an unanswered request, this only means that it was executed.
                    if first {
                        self.judge(grant, &reply, false);
                    }
                    return;
                }
                Some(reply) if reply.status == 503 => self.rest(20_000, 60_000).await,
                Some(reply) => return self.unexpected("release-lock", &reply),
                None => {}
            }
            self.doubtful.insert((grant.appointment, grant.token));
            first = false;
            if self.plan.clock.now() > grant.renewed + self.plan.lock_ttl {
                return;
            }
        }
    }

    fn unexpected(&mut self, what: &str, reply: &Reply) {
        self.ledger
            .unexpected
            .push(format!("worker {}: {what}: {reply:?}", self.number));
    }

    async fn rest(&mut self, from: u64, to: u64) {
        let pause = Duration::from_micros(self.random.u64(from..to));
        tokio::time::sleep(pause).await;
    }

    /// One request to some replica; `None` if no answer came, after which another replica is asked.
    async fn ask(
        &mut self,
        method: &str,
        appointment: usize,
        action: &str,
        body: &str,
    ) -> Option<Reply> {
        if self.left == 0 {
            self.connection = None;
        }
        if self.connection.is_none() {
            let at = self.random.usize(..self.plan.addresses.len());
            let opened = Connection::open(&self.plan.addresses[at]);
            match tokio::time::timeout(PATIENCE, opened).await {
                Ok(Ok(connection)) => {
                    self.connection = Some(connection);
                    self.left = LOYALTY / 2 + self.random.u32(..LOYALTY);
                }
                _ => {
                    self.rest(1000, 20_000).await;
                    return None;
                }
            }
        }
        self.left -= 1;
        let path = format!("/api/appointments/{}/{action}", id(appointment));
        let request = request(method, &path, body);
        let connection = self.connection.as_mut()?;
        let sent = self.plan.clock.now();
        let asked = tokio::time::timeout(PATIENCE, connection.ask(&request)).await;
        let told = self.plan.clock.now();
        if let Ok(Ok((status, body))) = asked {
            let parsed: Result<Answer, _> = serde_json::from_slice(body);
            let Ok(answer) = parsed else {
                let body = String::from_utf8_lossy(body).into_owned();
                let line = format!("worker {}: {action}: {status} {body}", self.number);
                self.ledger.unexpected.push(line);
                return None;
            };
            if status == 503 {
                // A load balancer would ask another replica next, too.
                self.ledger.unavailable += 1;
                self.left = 0;
            }
            return Some(Reply {
                status,
                answer,
                sent,
                told,
            });
        }
        self.ledger.unanswered += 1;
        self.connection = None;
        None
    }
}
