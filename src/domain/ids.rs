//! Names of things: appointments, people, tabs. Owns what a well-formed name is.
//!
//! A value of one of these types has been checked; nobody checks it again. A refusal is a sentence that
//! completes "`field`: ...".

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name of an appointment, a user, a session or a tenant, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 200;
/// The longest name of a person, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 200;
/// The longest e-mail address, in bytes (RFC 5321: 64 + 1 + 255).
pub const MAX_EMAIL_BYTES: usize = 320;
/// The longest free text: an admin's reason, a message; in bytes of UTF-8.
pub const MAX_NOTE_BYTES: usize = 1000;

/// Why a name is not acceptable, as the end of a sentence that starts with the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing in it.
    #[error("must not be empty")]
    Empty,
    /// More bytes than its kind allows.
    #[error("is {got} bytes long; at most {max} are allowed")]
    TooLong {
        /// Its length, in bytes.
        got: usize,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// Only blanks, where people are to read it.
    #[error("must not be blank")]
    Blank,
    /// A control character, which no name needs and which logs and terminals act upon.
    #[error("must not contain control characters (found U+{0:04X})")]
    Control(u32),
    /// A character that turns the direction of what follows, which makes a name read as another one's.
    #[error("must not contain characters that change the direction of text (found U+{0:04X})")]
    Direction(u32),
}

/// What a kind of name allows.
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
            /// Checks the text and keeps it.
            ///
            /// # Errors
            /// [`BadName`] where it is empty, too long, or has control characters.
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, BadName> {
                let text = text.into();
                check(&text, &$rule)?;
                Ok(Self(text))
            }

            /// The text as the client sent it.
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
    /// The client's own name for the record that people edit.
    AppointmentId,
    Rule { min: 1, max: MAX_ID_BYTES, blank: true, lines: false }
);
name!(
    /// Who somebody is, as the application in front names its users.
    UserId,
    Rule { min: 1, max: MAX_ID_BYTES, blank: true, lines: false }
);
name!(
    /// One browser tab, named by the client.
    SessionId,
    Rule { min: 1, max: MAX_ID_BYTES, blank: true, lines: false }
);
name!(
    /// What a person is called on other people's screens.
    Name,
    Rule { min: 1, max: MAX_NAME_BYTES, blank: false, lines: false }
);
name!(
    /// An e-mail address as given; it is shown, never written to. May be empty.
    Email,
    Rule { min: 0, max: MAX_EMAIL_BYTES, blank: true, lines: false }
);
name!(
    /// Free text by a person: why an admin stepped in.
    Note,
    Rule { min: 0, max: MAX_NOTE_BYTES, blank: true, lines: true }
);
name!(
    /// Whose data it is. Empty where tenants are not used.
    TenantId,
    Rule { min: 0, max: MAX_ID_BYTES, blank: true, lines: false }
);

impl Name {
    /// Whether it shows as it is written. Embeddings, overrides and isolates of the bidirectional algorithm (UAX #9)
    /// make one name look like another's. Asked where a client gives itself a name, not where one is read back.
    ///
    /// # Errors
    /// [`BadName::Direction`].
    pub fn shows_as_written(&self) -> Result<(), BadName> {
        let turns = |c: &char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match self.0.chars().find(turns) {
            Some(c) => Err(BadName::Direction(u32::from(c))),
            None => Ok(()),
        }
    }

    /// What an admin is called whose id cannot be read as a name.
    #[must_use]
    pub fn admin() -> Self {
        Self(Arc::from("admin"))
    }

    /// What somebody is called whose id cannot be read as a name.
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

/// One appointment of one tenant: its row in PostgreSQL, its room on every replica, its channel on the bus.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RoomId {
    /// Whose appointment it is.
    pub tenant: TenantId,
    /// Which one.
    pub appointment: AppointmentId,
}

impl RoomId {
    /// One string for both parts. The separator is a control character, which neither part may contain, so
    /// two rooms never share a name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}\u{1f}{}", self.tenant, self.appointment)
    }
}

/// A user in one tab, or in none that was named: presence and tab sessions count by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The user.
    pub user_id: UserId,
    /// The tab, if the handshake named one.
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
