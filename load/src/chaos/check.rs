//! The independent checker: reads the records and PostgreSQL's tables, and uses none of the product's
//! code. Pure functions over [`Evidence`]. A finding is a line that shows the records which contradict each
//! other; no finding means that every checked promise was kept.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::record::{At, Evidence, Grant, Session, user};

/// Time limit for every subscriber to show an acknowledged change.
const CONVERGE: Duration = Duration::from_secs(2);
/// Allowance for the measuring itself: both ends of it share two cores with everything that is measured.
pub(crate) const SLACK: Duration = Duration::from_millis(250);
/// Allowance for new connections after an excuse is over.
const RECOVER: Duration = Duration::from_secs(2);

/// Findings of the checker.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Two holders at one time, or a history that says so.
    pub(crate) double_holders: Vec<String>,
    /// Acknowledged, and not kept.
    pub(crate) lost: Vec<String>,
    /// Later than promised, or never.
    pub(crate) late: Vec<String>,
    /// Maximum time from an answer to the last watcher that had to receive the change.
    pub(crate) longest: Duration,
    /// Pairs of an answer and a watcher that were compared.
    pub(crate) compared: usize,
    /// Grants during which another worker was refused.
    pub(crate) contended: usize,
    /// Leases that expired.
    pub(crate) expired: usize,
}

/// Reads everything.
pub(crate) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings {
        contended: contended(evidence),
        expired: evidence
            .history
            .iter()
            .filter(|entry| entry.reason == "expired")
            .count(),
        ..Findings::default()
    };
    overlaps(evidence, &mut findings);
    said_of_leases(evidence, &mut findings);
    history(evidence, &mut findings);
    kept(evidence, &mut findings);
    converged(evidence, &mut findings);
    findings
}

fn contended(evidence: &Evidence) -> usize {
    let refused: HashSet<(usize, i64)> = evidence
        .ledger
        .refused
        .iter()
        .map(|refused| (refused.appointment, refused.token))
        .collect();
    let granted: HashSet<(usize, i64)> = evidence
        .ledger
        .grants
        .iter()
        .map(|grant| (grant.appointment, grant.token))
        .collect();
    granted.intersection(&refused).count()
}

/// The time in which the holder is certain to hold: from the answer to the request to release, or to the
/// end of the lease counted from before it was asked for.
fn certain(grant: &Grant, lock_ttl: Duration) -> (At, At) {
    let runs_out = grant.renewed + lock_ttl;
    let end = grant
        .given_up
        .map_or(runs_out, |given_up| given_up.min(runs_out));
    (grant.told, end)
}

/// Leases, each in one record of its worker: a worker that had forgotten a lease and acquired again got it again, and
/// may have released the first of the two.
fn leases(evidence: &Evidence) -> Vec<Grant> {
    let mut leases: HashMap<(usize, i64, usize), Grant> = HashMap::new();
    for grant in &evidence.ledger.grants {
        leases
            .entry((grant.appointment, grant.token, grant.worker))
            .and_modify(|lease| {
                lease.told = lease.told.min(grant.told);
                lease.renewed = lease.renewed.max(grant.renewed);
                let both = [lease.given_up, grant.given_up];
                lease.given_up = both.into_iter().flatten().min();
            })
            .or_insert_with(|| grant.clone());
    }
    leases.into_values().collect()
}

/// No two leases of an appointment are held for certain at one time.
fn overlaps(evidence: &Evidence, findings: &mut Findings) {
    let leases = leases(evidence);
    let mut held: Vec<(usize, At, At, &Grant)> = leases
        .iter()
        .map(|grant| {
            let (from, to) = certain(grant, evidence.lock_ttl);
            (grant.appointment, from, to, grant)
        })
        .filter(|(_, from, to, _)| from < to)
        .collect();
    held.sort_unstable_by_key(|(appointment, from, ..)| (*appointment, *from));
    // The one that lasts longest so far: a later one that begins before its end overlaps it.
    let mut longest: Option<(usize, At, At, &Grant)> = None;
    for next in held {
        if let Some(before) = longest.filter(|before| before.0 == next.0) {
            if next.1 < before.2 {
                findings.double_holders.push(format!(
                    "two holders at {:?} to {:?}: {:?} and {:?}",
                    next.1,
                    before.2.min(next.2),
                    before.3,
                    next.3
                ));
            }
            if next.2 < before.2 {
                continue;
            }
        }
        longest = Some(next);
    }
}

/// A lease in force is never denied, and a released one never affirmed again.
fn said_of_leases(evidence: &Evidence, findings: &mut Findings) {
    let ended: HashMap<(usize, i64), At> = evidence
        .ledger
        .releases
        .iter()
        .map(|release| ((release.appointment, release.token), release.told))
        .collect();
    for verdict in &evidence.ledger.verdicts {
        let over = ended.get(&(verdict.appointment, verdict.token));
        if verdict.live && over.is_some_and(|over| *over < verdict.sent) {
            findings
                .double_holders
                .push(format!("in force after its release: {verdict:?}"));
        }
        if !verdict.live && verdict.told < verdict.sure_until {
            findings
                .lost
                .push(format!("a lease ended before its time: {verdict:?}"));
        }
    }
    for refused in &evidence.ledger.refused {
        let over = ended.get(&(refused.appointment, refused.token));
        if over.is_some_and(|over| *over < refused.sent) {
            findings.double_holders.push(format!(
                "refused for a lease after its release: {refused:?}"
            ));
        }
    }
}

/// The history alone: grants and ends alternate, and versions and tokens only rise.
fn history(evidence: &Evidence, findings: &mut Findings) {
    let mut held: Option<(&str, i64)> = None;
    let (mut appointment, mut version, mut token, mut at) = (usize::MAX, 0, 0, i64::MIN);
    for entry in &evidence.history {
        if entry.appointment != appointment {
            (held, appointment, version, token, at) = (None, entry.appointment, 0, 0, i64::MIN);
        }
        let mut fault = None;
        match entry.reason.as_str() {
            "acquired" => {
                if held.is_some() {
                    fault = Some("granted while held");
                } else if entry.token != token + 1 {
                    fault = Some("not the next token");
                }
                held = Some((&entry.user, entry.token));
            }
            "released" | "expired" => {
                if held.take() != Some((&entry.user, entry.token)) {
                    fault = Some("the end of a lease that was not in force");
                }
            }
            _ => fault = Some("nobody asked for that"),
        }
        if entry.version <= version {
            fault = fault.or(Some("the version did not rise"));
        }
        if entry.at < at {
            fault = fault.or(Some("time went back"));
        }
        if let Some(fault) = fault {
            findings
                .double_holders
                .push(format!("history: {fault}: {entry:?}"));
        }
        (version, token, at) = (entry.version, entry.token, entry.at);
    }
}

/// Checks that every acknowledged change is in the tables, under its version.
fn kept(evidence: &Evidence, findings: &mut Findings) {
    let mut noted: HashMap<(usize, i64, bool), (i64, &str, &str)> = HashMap::new();
    for entry in &evidence.history {
        let begins = entry.reason == "acquired";
        noted.insert(
            (entry.appointment, entry.token, begins),
            (entry.version, &entry.user, &entry.reason),
        );
    }
    for grant in &evidence.ledger.grants {
        let entry = noted.get(&(grant.appointment, grant.token, true));
        let fits = entry.is_some_and(|(version, who, _)| {
            *who == user(grant.worker) && (*version == grant.version || !grant.new)
        });
        if !fits {
            findings
                .lost
                .push(format!("{grant:?}, but the history has {entry:?}"));
        }
    }
    for release in &evidence.ledger.releases {
        let entry = noted.get(&(release.appointment, release.token, false));
        let fits = entry.is_some_and(|(version, who, reason)| {
            *reason == "released" && *who == user(release.worker) && *version == release.version
        });
        if !fits {
            findings
                .lost
                .push(format!("{release:?}, but the history has {entry:?}"));
        }
    }
    for told in &evidence.ledger.told {
        let row = evidence.rows.get(told.appointment);
        if row.is_none_or(|row| row.version < told.version) {
            findings
                .lost
                .push(format!("{told:?}, but the row has {row:?}"));
        }
    }
    for grant in &evidence.ledger.grants {
        let row = evidence.rows.get(grant.appointment);
        if row.is_none_or(|row| row.token < grant.token) {
            findings
                .lost
                .push(format!("{grant:?}, but the row has {row:?}"));
        }
    }
}

/// Each watcher that was subscribed at a successful answer received the change, or a newer one, in time.
fn converged(evidence: &Evidence, findings: &mut Findings) {
    let limit = CONVERGE + SLACK;
    let mut sessions: Vec<&Session> = evidence.sessions.iter().collect();
    sessions.sort_unstable_by_key(|session| session.ended);
    let none = Vec::new();
    for session in sessions {
        let excused = evidence.excused.get(session.replica).unwrap_or(&none);
        for told in &evidence.ledger.told {
            let Some(room) = session.rooms.get(told.appointment) else {
                continue;
            };
            let Some((_, from)) = room.heard.first() else {
                continue;
            };
            if *from > told.at || told.at > session.ended {
                continue;
            }
            let excuse =
                |(begin, end): &(At, At)| *begin <= told.at + limit && told.at <= *end + RECOVER;
            if excused.iter().any(excuse) {
                continue;
            }
            let first = room
                .heard
                .partition_point(|(version, _)| *version < told.version);
            let took = match room.heard.get(first) {
                Some((_, heard)) => heard.saturating_sub(told.at),
                // A connection that ended in time owes nothing: the next one begins with a snapshot.
                None if session.ended < told.at + limit => continue,
                None => Duration::MAX,
            };
            findings.compared += 1;
            if took > limit {
                let newest = room.heard.last();
                let how = if took == Duration::MAX {
                    "never".to_owned()
                } else {
                    format!("after {took:?}")
                };
                findings.late.push(format!(
                    "replica {}'s watcher heard {how}: {told:?}; the newest it heard was {newest:?}, to {:?}",
                    session.replica + 1,
                    session.ended
                ));
            }
            if took != Duration::MAX {
                findings.longest = findings.longest.max(took);
            }
        }
    }
}

#[cfg(test)]
mod tests;
