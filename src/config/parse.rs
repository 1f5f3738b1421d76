//! From a setting's text to its value, and what is said where that cannot be.

use std::net::SocketAddr;
use std::time::Duration;

/// A setting that cannot be used: which, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {fault}; {mend}")]
pub struct BadSetting {
    /// The environment variable.
    pub variable: &'static str,
    /// What is wrong with its value.
    pub fault: String,
    /// What to write instead.
    pub mend: String,
}

impl BadSetting {
    /// A fault and its mend.
    pub fn new(variable: &'static str, fault: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            variable,
            fault: fault.into(),
            mend: mend.into(),
        }
    }
}

/// The value, or the default where it is empty.
pub(super) fn or_default<'a>(value: &'a str, default: &'a str) -> &'a str {
    if value.is_empty() { default } else { value }
}

pub(super) fn address(variable: &'static str, text: &str) -> Result<SocketAddr, BadSetting> {
    text.parse().map_err(|_| {
        BadSetting::new(
            variable,
            format!("\"{text}\" is not an address with a port"),
            "write one such as 127.0.0.1:3000, 0.0.0.0:3000 or [::]:3000",
        )
    })
}

pub(super) fn duration(
    variable: &'static str,
    text: &str,
    min: Duration,
    max: Duration,
) -> Result<Duration, BadSetting> {
    let parsed = humantime::parse_duration(text).map_err(|_| {
        BadSetting::new(
            variable,
            format!("\"{text}\" is not a duration"),
            "write a number with its unit, such as 5m, 45s or 50ms",
        )
    })?;
    if (min..=max).contains(&parsed) {
        return Ok(parsed);
    }
    Err(BadSetting::new(
        variable,
        format!("{} is out of bounds", words(parsed)),
        format!("write a duration from {} to {}", words(min), words(max)),
    ))
}

/// A duration as one would write it: a day is no part of a month.
fn words(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ] {
        if millis >= length && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    humantime::format_duration(duration).to_string()
}

/// True for the first of two words, false for the second.
pub(super) fn either(
    variable: &'static str,
    text: &str,
    words: [&str; 2],
) -> Result<bool, BadSetting> {
    if !words.contains(&text) {
        let fault = format!("\"{text}\" will not do");
        let mend = format!("write {} or {}", words[0], words[1]);
        return Err(BadSetting::new(variable, fault, mend));
    }
    Ok(text == words[0])
}
