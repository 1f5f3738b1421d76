//! The transition from the last state of a lock that a room saw to a newer one. Owns the rule that versions only
//! increase, and which events a change becomes.
//!
//! The bus may lose, repeat and reorder: a state that is not newer is ignored, and a newer one is shown whole, whatever
//! was missed in between.

use super::lease::{LockState, Reason};

/// Event about the change, in addition to the `lock-update` with the new state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// A lease began: `lock-acquired`.
    Granted,
    /// A lease ended: `lock-released`, with its reason.
    Ended(Reason),
    /// No lease began or ended, as in a renewal: no further event.
    Same,
}

/// Compares a state with the last one seen. `None` if it is not newer and nothing must be shown.
#[must_use]
pub fn classify(last: &LockState, new: &LockState) -> Option<Transition> {
    if new.version <= last.version {
        return None;
    }
    let token = |state: &LockState| state.lease.as_ref().map(|lease| lease.fencing_token);
    Some(match (&new.lease, new.reason) {
        (Some(_), _) if token(new) != token(last) => Transition::Granted,
        (Some(_), _) => Transition::Same,
        (None, reason) => Transition::Ended(reason.unwrap_or(Reason::Released)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::ids::{AppointmentId, Email, Name, RoomId, TenantId, UserId};
    use super::super::lease::{Lease, UserInfo};
    use super::*;
    use time::OffsetDateTime;

    fn state(version: i64, token: Option<i64>, reason: Reason) -> LockState {
        let now = OffsetDateTime::UNIX_EPOCH;
        LockState {
            room: RoomId {
                tenant: TenantId::default(),
                appointment: AppointmentId::new("a").unwrap(),
            },
            version,
            reason: Some(reason),
            lease: token.map(|fencing_token| Lease {
                user_id: UserId::new("u").unwrap(),
                user_info: UserInfo {
                    name: Name::new("U").unwrap(),
                    email: Email::new("").unwrap(),
                    position: None,
                },
                session_id: None,
                granted_at: now,
                expires_at: now,
                fencing_token,
            }),
            now,
        }
    }

    #[test]
    fn what_is_not_newer_is_nothing() {
        let seen = state(5, Some(2), Reason::Renewed);
        assert_eq!(classify(&seen, &state(5, Some(2), Reason::Renewed)), None);
        assert_eq!(classify(&seen, &state(4, None, Reason::Released)), None);
    }

    #[test]
    fn a_new_token_is_a_grant_even_where_the_grant_itself_was_missed() {
        let seen = state(1, Some(1), Reason::Acquired);
        assert_eq!(
            classify(&seen, &state(2, Some(1), Reason::Renewed)),
            Some(Transition::Same)
        );
        assert_eq!(
            classify(&seen, &state(4, Some(2), Reason::Renewed)),
            Some(Transition::Granted)
        );
        assert_eq!(
            classify(&seen, &state(2, Some(2), Reason::TakenOver)),
            Some(Transition::Granted)
        );
    }

    #[test]
    fn an_end_carries_its_reason() {
        let seen = state(1, Some(1), Reason::Acquired);
        assert_eq!(
            classify(&seen, &state(2, None, Reason::Expired)),
            Some(Transition::Ended(Reason::Expired))
        );
    }
}
