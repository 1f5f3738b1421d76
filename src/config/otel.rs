//! OpenTelemetry's variables that its library reads by itself. Owns only the check: the library silently takes
//! what it cannot read as not set, and here an invalid setting stops startup like any other.

use std::ops::RangeInclusive;

use axum::http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::parse::BadSetting;

/// Whole numbers and their bounds. The library allocates a whole queue at once, hence the upper one.
const NUMBERS: [(&str, RangeInclusive<u64>); 6] = [
    ("OTEL_BSP_MAX_QUEUE_SIZE", 1..=1_000_000),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1..=1_000_000),
    ("OTEL_BSP_SCHEDULE_DELAY", 1..=3_600_000),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", 0..=1_000_000),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", 0..=1_000_000),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", 0..=1_000_000),
];
const HEADERS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
];
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
/// Variables that take one of a few words.
const WORDS: [(&str, &[&str]); 3] = [
    ("OTEL_EXPORTER_OTLP_COMPRESSION", &["none"]),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", &["none"]),
    (EXPORTER, &["otlp", "none"]),
];

/// Checks each variable's value in `environment`; an empty one counts as not set. Returns whether traces are wanted.
///
/// # Errors
/// The first [`BadSetting`]. Headers hold keys, so their values are never repeated.
pub(super) fn check(environment: impl Fn(&str) -> Option<String>) -> Result<bool, BadSetting> {
    let set = |variable| environment(variable).filter(|text| !text.trim().is_empty());
    for (variable, bounds) in NUMBERS {
        let Some(text) = set(variable) else { continue };
        if !text.parse().is_ok_and(|number| bounds.contains(&number)) {
            let (least, most) = bounds.into_inner();
            let fix = format!("write a whole number from {least} to {most}");
            let fault = format!("\"{text}\" is not valid");
            return Err(BadSetting::new(variable, fault, fix));
        }
    }
    for variable in HEADERS {
        if let Some(text) = set(variable) {
            let fine =
                pairs(&text).all(|pair| pair.is_some_and(|(name, value)| header(name, value)));
            if !fine {
                let fix = "write name=value, with commas between, and values percent-encoded";
                return Err(BadSetting::new(variable, "is no list of headers", fix));
            }
        }
    }
    if let Some(text) = set(ATTRIBUTES)
        && pairs(&text).any(|pair| pair.is_none())
    {
        let fault = format!("\"{text}\" is no list of attributes");
        let fix = "write name=value, with commas between";
        return Err(BadSetting::new(ATTRIBUTES, fault, fix));
    }
    for (variable, words) in WORDS {
        if let Some(text) = set(variable)
            && !words.contains(&text.as_str())
        {
            let fault = format!("\"{text}\" is not available");
            let fix = format!("write {}, or nothing", words.join(" or "));
            return Err(BadSetting::new(variable, fault, fix));
        }
    }
    Ok(set(EXPORTER).as_deref() != Some("none"))
}

/// The pairs of a list; `None` for what is not one.
fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items.map(|item| {
        let (name, value) = item.split_once('=')?;
        Some((name.trim(), value.trim())).filter(|(name, _)| !name.is_empty())
    })
}

fn header(name: &str, value: &str) -> bool {
    let name = HeaderName::from_bytes(name.as_bytes());
    let value: Vec<u8> = percent_decode_str(value).collect();
    name.is_ok() && !value.is_empty() && HeaderValue::from_bytes(&value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(setting: &str) -> Result<bool, String> {
        let (variable, value) = setting.split_once('=').unwrap();
        check(|asked| (asked == variable).then(|| value.to_owned())).map_err(|bad| bad.to_string())
    }

    #[test]
    fn what_the_library_understands_passes() {
        for setting in [
            "OTEL_BSP_MAX_QUEUE_SIZE=4096",
            "OTEL_BSP_SCHEDULE_DELAY=",
            "OTEL_SPAN_LINK_COUNT_LIMIT=0",
            "OTEL_EXPORTER_OTLP_HEADERS=authorization=Basic%20dTpwPT0=, x-tenant = a,",
            "OTEL_RESOURCE_ATTRIBUTES=k8s.pod.name=a,empty=",
            "OTEL_EXPORTER_OTLP_COMPRESSION=none",
            "OTEL_TRACES_EXPORTER=otlp",
            "OTEL_PROPAGATORS=tracecontext,baggage",
        ] {
            assert_eq!(said(setting), Ok(true), "{setting}");
        }
        assert_eq!(said("OTEL_TRACES_EXPORTER=none"), Ok(false));
    }

    #[test]
    fn what_the_library_would_pass_over_stops_startup_and_shows_no_key() {
        for case in [
            r#"OTEL_BSP_MAX_QUEUE_SIZE=0 => "0" is not valid"#,
            r#"OTEL_BSP_MAX_QUEUE_SIZE=99999999999 => "99999999999" is not valid"#,
            r#"OTEL_BSP_SCHEDULE_DELAY=5s => "5s" is not valid"#,
            r#"OTEL_SPAN_EVENT_COUNT_LIMIT=-1 => "-1" is not valid"#,
            "OTEL_EXPORTER_OTLP_HEADERS=geheim => is no list of headers",
            "OTEL_EXPORTER_OTLP_HEADERS=a key=geheim => is no list of headers",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=geheim%0a => is no list of headers",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS=a= => is no list of headers",
            r#"OTEL_RESOURCE_ATTRIBUTES=team => "team" is no list of attributes"#,
            r#"OTEL_EXPORTER_OTLP_COMPRESSION=gzip => "gzip" is not available"#,
            r#"OTEL_TRACES_EXPORTER=zipkin => "zipkin" is not available"#,
        ] {
            let (setting, fault) = case.split_once(" => ").unwrap();
            let (variable, _) = setting.split_once('=').unwrap();
            let said = said(setting).unwrap_err();
            let line = format!("{variable}: {fault}; write ");
            assert!(said.starts_with(&line), "{said}");
            assert!(!said.contains("geheim"), "{said}");
        }
    }
}
