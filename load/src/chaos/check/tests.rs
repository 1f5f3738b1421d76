//! The checker is checked: a clean record passes, and each promise that a falsified one breaks is found.

use super::*;
use crate::chaos::record::{Entry, Refused, Release, Room, Row, Told, Verdict};

const TTL: Duration = Duration::from_secs(2);

fn ms(n: u64) -> At {
    Duration::from_millis(n)
}

fn entry(version: i64, reason: &str, user: &str, token: i64) -> Entry {
    Entry {
        appointment: 0,
        version,
        reason: reason.into(),
        user: user.into(),
        token,
        at: version * 1000,
    }
}

/// Worker 1 holds from 10 to 20 ms, worker 2 from 30 to 40 ms; one watcher receives all changes.
fn clean() -> Evidence {
    let mut evidence = Evidence {
        lock_ttl: TTL,
        history: vec![
            entry(1, "acquired", "w1", 1),
            entry(2, "released", "w1", 1),
            entry(3, "acquired", "w2", 2),
            entry(4, "released", "w2", 2),
        ],
        rows: vec![Row {
            version: 4,
            token: 2,
        }],
        excused: vec![Vec::new()],
        sessions: vec![Session {
            replica: 0,
            rooms: vec![Room {
                heard: vec![
                    (0, ms(1)),
                    (1, ms(11)),
                    (2, ms(22)),
                    (3, ms(31)),
                    (4, ms(43)),
                ],
            }],
            ended: ms(9000),
        }],
        ..Evidence::default()
    };
    for (n, from) in [(1_usize, 10), (2, 30)] {
        let token = n as i64;
        evidence.ledger.grants.push(Grant {
            appointment: 0,
            token,
            version: 2 * token - 1,
            worker: n,
            new: true,
            told: ms(from),
            renewed: ms(from - 5),
            given_up: Some(ms(from + 9)),
        });
        evidence.ledger.releases.push(Release {
            appointment: 0,
            token,
            version: 2 * token,
            worker: n,
            told: ms(from + 10),
        });
        for (version, at) in [(2 * token - 1, from), (2 * token, from + 10)] {
            evidence.ledger.told.push(Told {
                appointment: 0,
                version,
                at: ms(at),
            });
        }
    }
    evidence.ledger.refused.push(Refused {
        appointment: 0,
        token: 1,
        sent: ms(12),
    });
    evidence
}

fn counts(evidence: &Evidence) -> (usize, usize, usize) {
    let found = check(evidence);
    (
        found.double_holders.len(),
        found.lost.len(),
        found.late.len(),
    )
}

#[test]
fn a_clean_record_passes() {
    let found = check(&clean());
    assert_eq!(counts(&clean()), (0, 0, 0), "{found:?}");
    assert_eq!((found.contended, found.compared), (1, 4));
    assert_eq!(found.longest, ms(3));
}

#[test]
fn two_holders_at_one_time_are_found() {
    let mut evidence = clean();
    evidence.ledger.grants[0].given_up = None;
    assert_eq!(counts(&evidence), (1, 0, 0));
    // One who only renewed late is no second holder: the first lease had expired.
    evidence.lock_ttl = ms(20);
    assert_eq!(counts(&evidence), (0, 0, 0));
}

#[test]
fn one_who_forgot_and_gave_back_later_holds_no_longer() {
    let mut evidence = clean();
    let mut first = evidence.ledger.grants[0].clone();
    first.given_up = None;
    evidence.ledger.grants[0].new = false;
    evidence.ledger.grants.insert(0, first);
    assert_eq!(counts(&evidence), (0, 0, 0));
}

#[test]
fn one_token_for_two_workers_is_found() {
    let mut evidence = clean();
    evidence.ledger.grants[1].token = 1;
    evidence.ledger.grants[1].told = ms(15);
    let found = check(&evidence);
    assert_eq!((found.double_holders.len(), found.lost.len()), (1, 1));
}

#[test]
fn a_long_lease_is_compared_with_all_that_it_covers() {
    let mut evidence = clean();
    evidence.ledger.grants[0].given_up = None;
    let mut third = evidence.ledger.grants[1].clone();
    (third.token, third.told, third.given_up) = (3, ms(50), Some(ms(60)));
    third.renewed = ms(48);
    evidence.ledger.grants.push(third);
    assert_eq!(check(&evidence).double_holders.len(), 2);
}

#[test]
fn a_history_that_grants_twice_or_goes_back_is_found() {
    let mut evidence = clean();
    evidence.history.remove(1);
    evidence.ledger.releases.remove(0);
    assert_eq!(counts(&evidence), (1, 0, 0), "granted while held");
    let mut evidence = clean();
    evidence.history[2].at = 0;
    assert_eq!(counts(&evidence), (1, 0, 0), "time went back");
    let mut evidence = clean();
    evidence.history.truncate(2);
    evidence.history.push(entry(3, "acquired", "w2", 3));
    assert!(
        check(&evidence).double_holders.len() == 1,
        "a token left out"
    );
}

#[test]
fn a_lost_grant_and_a_lost_release_are_found() {
    let mut evidence = clean();
    evidence.history.truncate(2);
    assert_eq!(counts(&evidence), (0, 2, 0));
    let mut evidence = clean();
    evidence.history[3].reason = "expired".into();
    assert_eq!(counts(&evidence), (0, 1, 0), "released, they said");
    let mut evidence = clean();
    evidence.ledger.grants[1].version = 2;
    assert_eq!(counts(&evidence), (0, 1, 0), "another version was told");
    let mut evidence = clean();
    evidence.history[2].user = "w9".into();
    evidence.history[3].user = "w9".into();
    assert_eq!(counts(&evidence), (0, 2, 0), "another's");
}

#[test]
fn counters_that_went_back_are_found() {
    let mut evidence = clean();
    evidence.rows[0].version = 3;
    assert_eq!(counts(&evidence), (0, 1, 0));
    let mut evidence = clean();
    evidence.rows[0].token = 1;
    assert_eq!(counts(&evidence), (0, 1, 0));
}

#[test]
fn a_watcher_that_hears_late_or_never_is_found_unless_it_is_excused() {
    let mut evidence = clean();
    evidence.sessions[0].rooms[0].heard[4].1 = ms(2400);
    assert_eq!(counts(&evidence), (0, 0, 1), "late");
    evidence.sessions[0].rooms[0].heard.pop();
    assert_eq!(counts(&evidence), (0, 0, 1), "never");
    evidence.excused[0].push((ms(500), ms(800)));
    assert_eq!(counts(&evidence), (0, 0, 0), "it stood still");
    evidence.excused[0].clear();
    evidence.sessions[0].ended = ms(1500);
    assert_eq!(counts(&evidence), (0, 0, 0), "it was cut off in time");
}

#[test]
fn a_newer_version_stands_for_those_that_were_skipped() {
    let mut evidence = clean();
    evidence.sessions[0].rooms[0].heard.drain(1..4);
    assert_eq!(counts(&evidence), (0, 0, 0));
}

#[test]
fn a_verdict_against_the_records_is_found() {
    let verdict = Verdict {
        appointment: 0,
        token: 1,
        sent: ms(12),
        told: ms(14),
        live: false,
        sure_until: ms(2005),
    };
    let mut evidence = clean();
    evidence.ledger.verdicts.push(verdict);
    assert_eq!(counts(&evidence), (0, 1, 0), "denied while in force");
    let mut evidence = clean();
    evidence.ledger.verdicts.push(Verdict {
        sent: ms(25),
        told: ms(26),
        live: true,
        ..verdict
    });
    assert_eq!(counts(&evidence), (1, 0, 0), "affirmed after its release");
    let mut evidence = clean();
    evidence.ledger.refused[0].sent = ms(25);
    assert_eq!(counts(&evidence), (1, 0, 0), "in the way after its release");
}
