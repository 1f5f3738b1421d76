//! Ids and names: appointments, people, tabs. Owns the rules for a well-formed one.
//!
//! A value of one of these types has been checked; nothing checks it again. An error is a sentence that completes
//! "`field`: ...".

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Maximum length of the id of an appointment, a user, a session or a tenant, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 200;
/// Maximum length of a person's name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 200;
/// Maximum length of an e-mail address, in bytes (RFC 5321: 64 + 1 + 255).
pub const MAX_EMAIL_BYTES: usize = 320;
/// Maximum length of free text, such as an admin's reason or a message, in bytes of UTF-8.
pub const MAX_NOTE_BYTES: usize = 1000;

/// Reason to reject a name, as the end of a sentence that starts with the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Empty text.
    #[error("must not be empty")]
    Empty,
    /// More bytes than this kind of name allows.
    #[error("is {got} bytes long; at most {max} are allowed")]
    TooLong {
        /// Actual length, in bytes.
        got: usize,
        /// Maximum length, in bytes.
        max: usize,
    },
    /// Only white space, in a name that is shown to people.
    #[error("must not be blank")]
    Blank,
    /// Control character, which no name needs and which logs and terminals interpret.
    #[error("must not contain control characters (found U+{0:04X})")]
    Control(u32),
    /// Character that changes the direction of the text after it, which makes one name look like another.
    #[error("must not contain characters that change the direction of text (found U+{0:04X})")]
    Direction(u32),
}

/// Constraints on one kind of name.
struct Rule {
    min: usize,
    max: usize,
    blank: bool,
    lines: bool,
}

fn check(text: &str, rule: &Rule) -> Result<(), BadName> {
    let &Rule {
        min,
        max,
        blank,
        lines,
    } = rule;
    if text.len() < min {
        return Err(BadName::Empty);
    }
    if text.len() > max {
        return Err(BadName::TooLong {
            got: text.len(),
            max,
        });
    }
    match text
        .chars()
        .find(|c| c.is_control() && !(lines && matches!(c, '\n' | '\r' | '\t')))
    {
        Some(c) => Err(BadName::Control(u32::from(c))),
        None if !blank && text.trim().is_empty() => Err(BadName::Blank),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Value with this text, if it is well-formed.
            ///
            /// # Errors
            /// [`BadName`] if the text is empty, too long, or contains control characters.
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, BadName> {
                let text = text.into();
                check(&text, &$rule)?;
                Ok(Self(text))
            }

            /// Text as the client sent it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// Client's id of the record that people edit.
    AppointmentId,
    Rule { min: 1, max: MAX_ID_BYTES, blank: true, lines: false }
);
name!(
    /// Id of a user in the application that uses this service.
    UserId,
    Rule { min: 1, max: MAX_ID_BYTES, blank: true, lines: false }
);
name!(
    /// Id of one browser tab, chosen by the client.
    SessionId,
    Rule { min: 1, max: MAX_ID_BYTES, blank: true, lines: false }
);
name!(
    /// Display name of a person.
    Name,
    Rule { min: 1, max: MAX_NAME_BYTES, blank: false, lines: false }
);
name!(
    /// E-mail address as given; it is shown, and nothing is ever sent to it. May be empty.
    Email,
    Rule { min: 0, max: MAX_EMAIL_BYTES, blank: true, lines: false }
);
name!(
    /// Free text by a person, such as an admin's reason.
    Note,
    Rule { min: 0, max: MAX_NOTE_BYTES, blank: true, lines: true }
);
name!(
    /// Tenant that owns the data. Empty if tenants are not used.
    TenantId,
    Rule { min: 0, max: MAX_ID_BYTES, blank: true, lines: false }
);

impl Name {
    /// Checks that the name is displayed as it is written. Embeddings, overrides and isolates of the bidirectional
    /// algorithm (UAX #9) make one name look like another. Applied to names that clients send, not to stored ones.
    ///
    /// # Errors
    /// [`BadName::Direction`].
    pub fn shows_as_written(&self) -> Result<(), BadName> {
        let changes_direction =
            |c: &char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match self.0.chars().find(changes_direction) {
            Some(c) => Err(BadName::Direction(u32::from(c))),
            None => Ok(()),
        }
    }

    /// Name of an admin whose id is not a valid name.
    #[must_use]
    pub fn admin() -> Self {
        Self(Arc::from("admin"))
    }

    /// Name of a user whose id is not a valid name.
    #[must_use]
    pub fn nobody() -> Self {
        Self(Arc::from("somebody"))
    }
}

impl Default for Email {
    fn default() -> Self {
        Self(Arc::from(""))
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self(Arc::from(""))
    }
}

/// Id of one appointment of one tenant, and so of its row in PostgreSQL, its room on every replica and its channel on
/// the bus.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RoomId {
    /// Tenant that owns the appointment.
    pub tenant: TenantId,
    /// Appointment.
    pub appointment: AppointmentId,
}

impl RoomId {
    /// Unique name made of both parts. The separator is a control character, which neither part may contain, so two
    /// rooms never share a name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}\u{1f}{}", self.tenant, self.appointment)
    }
}

/// User in one tab, or without a named tab: the unit in which presence and tab sessions are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// User.
    pub user_id: UserId,
    /// Tab, if the handshake named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_measured_in_bytes() {
        assert!(AppointmentId::new("ü".repeat(100)).is_ok());
        assert_eq!(
            AppointmentId::new("ü".repeat(101)),
            Err(BadName::TooLong { got: 202, max: 200 })
        );
    }

    #[test]
    fn control_characters_and_blanks_are_refused() {
        assert_eq!(UserId::new("a\0"), Err(BadName::Control(0)));
        assert_eq!(UserId::new("a\u{85}"), Err(BadName::Control(0x85)));
        assert_eq!(UserId::new(""), Err(BadName::Empty));
        assert_eq!(Name::new("  "), Err(BadName::Blank));
        assert!(AppointmentId::new(" ").is_ok());
        assert!(Note::new("two\nlines").is_ok());
        assert!(Email::new("").is_ok());
    }

    #[test]
    fn two_rooms_never_share_a_name() {
        let room = |t: &str, a: &str| {
            RoomId {
                tenant: TenantId::new(t).unwrap(),
                appointment: AppointmentId::new(a).unwrap(),
            }
            .name()
        };
        assert_ne!(room("a", "b/c"), room("a/b", "c"));
        assert_ne!(room("", "ab"), room("a", "b"));
    }
}
