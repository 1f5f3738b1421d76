//! The log. Owns its filters and the format of its lines. It is written to standard error.

use std::fmt;
use std::io::IsTerminal;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::traces::TARGET;

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Readable text, coloured on a terminal.
    Pretty,
}

/// A filter by target and level alone.
type Discreet = FilterFn<fn(&Metadata<'_>) -> bool>;

/// The filters of log lines and spans. They apply to all layers: filters per layer lose lines if a library checks
/// whether a line is enabled and then does not write it, as sqlx does.
///
/// # Errors
/// A sentence about the invalid part of the filter.
pub(super) fn filters(wanted: &str, traced: bool) -> Result<(EnvFilter, Discreet), String> {
    // fred's warnings and PostgreSQL's notices repeat lines of this crate, sqlx logs unknown parameters of DATABASE_URL
    // with their values, and the socket libraries write a line for each malformed packet, so that a client could flood
    // the log. A filter that names one of these libraries enables it.
    let quiet = [
        "fred=error",
        "sqlx_postgres::options=off",
        "sqlx=error",
        "socketioxide=off",
        "engineioxide=off",
    ];
    let unnamed = quiet.into_iter().filter(|directive| {
        let library = directive.split(['=', ':']).next().unwrap_or_default();
        !wanted.contains(library)
    });
    let spans = format!("{TARGET}={}", if traced { "info" } else { "off" });
    let all = unnamed.fold(wanted.to_owned(), |all, directive| {
        format!("{directive},{all}")
    });
    // A misspelt level would be parsed as the name of a library, and nothing would be logged.
    let misspelt = wanted.split(',').map(str::trim).find(|word| {
        let level = word.parse::<LevelFilter>().is_ok();
        !word.is_empty()
            && !level
            && !word.starts_with("apptlock")
            && !word.contains(['=', ':', '['])
    });
    if let Some(word) = misspelt {
        return Err(format!("\"{word}\" is not a level"));
    }
    let filter = EnvFilter::try_new(format!("{all},{spans}")).map_err(|error| error.to_string())?;
    Ok((filter, FilterFn::new(is_discreet)))
}

/// True for this crate's lines, lines of libraries at info and above, and spans of traces. Below info, libraries log
/// their traffic, including tokens and passwords, and sqlx logs unknown parameters of `DATABASE_URL`: no setting enables
/// those.
fn is_discreet(it: &Metadata<'_>) -> bool {
    if it.is_span() {
        return it.target() == TARGET;
    }
    let library = it.target().split("::").next().unwrap_or_default();
    let shown = *it.level() <= Level::INFO && !it.target().starts_with("sqlx_postgres::options");
    shown || library == "apptlock"
}

/// The layer that writes the log.
pub(super) fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => {
            let inner = Format::default().json().flatten_event(true);
            let traced = Traced(inner.with_current_span(false).with_span_list(false));
            let lines = lines.fmt_fields(JsonFields::new());
            lines.event_format(traced).boxed()
        }
        LogFormat::Pretty => {
            let colours = std::io::stderr().is_terminal();
            lines.with_target(false).with_ansi(colours).boxed()
        }
    }
}

/// A JSON line that carries the ids of its trace and span, if it has any.
struct Traced(Format<Json>);

impl<S, N> FormatEvent<S, N> for Traced
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    Format<Json>: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = Context::current();
        let trace = now.span().span_context().clone();
        if !trace.is_valid() {
            return self.0.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        // The object is reopened for two more fields.
        let open = line.trim_end().strip_suffix('}').unwrap_or(&line);
        let (trace_id, span_id) = (trace.trace_id(), trace.span_id());
        writeln!(
            writer,
            r#"{open},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#
        )
    }
}
