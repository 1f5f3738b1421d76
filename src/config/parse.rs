//! Value parsers of settings, and the one line that an invalid setting stops startup with.
//!
//! A parser's error is `fault; fix`. The command line's reader puts the setting's variable before it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// An invalid setting: the variable, what is wrong, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct BadSetting {
    variable: String,
    problem: String,
}

impl BadSetting {
    /// An error of that environment variable: what is wrong, and how to fix it.
    pub fn new(variable: &str, fault: impl Display, fix: impl Display) -> Self {
        Self::of_parser(variable, format!("{fault}; {fix}"))
    }

    /// The same from a parser's error, which already holds both.
    pub(super) fn of_parser(variable: &str, problem: impl Into<String>) -> Self {
        Self {
            variable: variable.to_owned(),
            problem: problem.into(),
        }
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "\"{text}\" is not an address with a port; write one such as 127.0.0.1:3000, 0.0.0.0:3000 or [::]:3000"
        )
    })
}

pub(super) fn duration(
    least: &'static str,
    most: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    let bound = |text| humantime::parse_duration(text).expect("a bound is a duration");
    let bounds = bound(least)..=bound(most);
    move |text| match humantime::parse_duration(text) {
        Ok(parsed) if bounds.contains(&parsed) => Ok(parsed),
        Ok(_) => Err(format!(
            "{text} is out of bounds; write a duration from {least} to {most}"
        )),
        Err(_) => Err(format!(
            "\"{text}\" is not a duration; write a number with its unit, such as 5m, 45s or 50ms"
        )),
    }
}

/// A whole number within bounds that the type can hold.
pub(super) fn number<T: TryFrom<u32>>(
    bounds: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let parsed = text.parse().ok().filter(|number| bounds.contains(number));
        let fitting = parsed.and_then(|number| T::try_from(number).ok());
        let (least, most) = (bounds.start(), bounds.end());
        fitting.ok_or_else(|| {
            format!("\"{text}\" is not valid; write a number from {least} to {most}")
        })
    }
}

/// One of a few words; `kind` is what they are, such as "a mode".
pub(super) fn word<T: Copy + Send + Sync + 'static, const N: usize>(
    kind: &'static str,
    words: [(&'static str, T); N],
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words = words.map(|(word, _)| word).join(" or ");
            format!("\"{text}\" is not {kind}; write {words}")
        })
    }
}

/// True for the first of two words, false for the second; capitals do not matter.
pub(super) fn switch(
    words: [&'static str; 2],
) -> impl Fn(&str) -> Result<bool, String> + Clone + Send + Sync + 'static {
    let word = word("valid", [(words[0], true), (words[1], false)]);
    move |text| word(&text.to_lowercase())
}

/// A list, read by `parse`, whose error is the part that is not one of `kind`.
pub(super) fn list<T: Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, String>,
    kind: &'static str,
    fix: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| parse(text).map_err(|part| format!("\"{part}\" is not {kind}; {fix}"))
}
