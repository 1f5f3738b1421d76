//! Value parsers of settings, and the one line that an invalid setting stops startup with.
//!
//! A parser's error is `fault; fix`. Its setting's variable is put before it where the command line is read.

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

pub(super) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) const DAY: Duration = seconds(24 * 3600);

pub(super) fn duration(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let parsed = humantime::parse_duration(text).map_err(|_| {
            format!(
                "\"{text}\" is not a duration; write a number with its unit, such as 5m, 45s or 50ms"
            )
        })?;
        if bounds.contains(&parsed) {
            return Ok(parsed);
        }
        let [least, most] = [bounds.start(), bounds.end()].map(|bound| words(*bound));
        let parsed = words(parsed);
        Err(format!(
            "{parsed} is out of bounds; write a duration from {least} to {most}"
        ))
    }
}

/// A duration in its largest whole unit: humantime's own months and years are not whole days.
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

/// A whole number within bounds. The type holds every one of them.
pub(super) fn number<T: TryFrom<u32>>(
    bounds: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let parsed = text.parse().ok().filter(|number| bounds.contains(number));
        parsed
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                let (least, most) = (bounds.start(), bounds.end());
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

/// The parts of a comma-separated list.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty())
}
