//! The contract's bounds of accepted input.

use apptlock::domain::ids::{SessionId, UserId};
use apptlock::protocol::{
    AcquireBody, CursorPosition, ForceReleaseBody, Handshake, Object, PositionBody, RefreshToken,
    ReleaseBody, SubscribePayload, UserInfoBody, VerifyBody,
};

/// Accepted input, whose values must be within the bounds of the public interface.
pub(super) trait Bounded {
    fn bounds(&self) -> Result<(), String>;
}

pub(super) fn id(text: &str) -> Result<(), String> {
    within(text, 1, 200)
}

pub(super) fn within(text: &str, least: usize, most: usize) -> Result<(), String> {
    if !(least..=most).contains(&text.len()) {
        return Err(format!("{text:?} is {} bytes long", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} has control characters"));
    }
    Ok(())
}

fn ids(user: Option<&UserId>, session: Option<&SessionId>) -> Result<(), String> {
    user.map_or(Ok(()), |user| id(user.as_str()))?;
    session.map_or(Ok(()), |session| id(session.as_str()))
}

fn person(info: Option<&UserInfoBody>) -> Result<(), String> {
    let Some(info) = info else { return Ok(()) };
    within(info.name.as_str(), 1, 200)?;
    if info.name.as_str().trim().is_empty() {
        return Err("a blank name".into());
    }
    within(info.email.as_str(), 0, 320)
}

/// Numbers that PostgreSQL returns unchanged.
fn near(numbers: [f64; 2]) -> Result<(), String> {
    if numbers.iter().all(|number| number.abs() <= 1e15) {
        Ok(())
    } else {
        Err(format!("{numbers:?} is too far away"))
    }
}

impl Bounded for AcquireBody {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), self.session_id.as_ref())?;
        person(self.user_info.as_ref())
    }
}

impl Bounded for ReleaseBody {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), self.session_id.as_ref())
    }
}

impl Bounded for ForceReleaseBody {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), None)?;
        ids(self.admin_id.as_ref(), None)?;
        person(self.admin_info.as_ref())?;
        match &self.reason {
            Some(reason) if reason.as_str().len() > 1000 => Err("a long reason".into()),
            _ => Ok(()),
        }
    }
}

impl Bounded for PositionBody {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), None)?;
        near([self.position.x, self.position.y])
    }
}

impl Bounded for VerifyBody {
    fn bounds(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Bounded for Handshake {
    fn bounds(&self) -> Result<(), String> {
        ids(self.user_id.as_ref(), self.session_id.as_ref())?;
        person(self.user_info.as_ref())
    }
}

impl Bounded for RefreshToken {
    fn bounds(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Bounded for SubscribePayload {
    fn bounds(&self) -> Result<(), String> {
        id(self.appointment_id.as_str())
    }
}

impl Bounded for CursorPosition {
    fn bounds(&self) -> Result<(), String> {
        id(self.appointment_id.as_str())?;
        ids(self.user_id.as_ref(), None)?;
        person(self.user_info.as_ref())?;
        near([self.position.x, self.position.y])
    }
}

impl<T: Bounded> Bounded for Object<T> {
    fn bounds(&self) -> Result<(), String> {
        self.0.bounds()
    }
}
