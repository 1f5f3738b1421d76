//! The log: what gets into it, and how a line looks. It goes to standard error.

use std::fmt;
use std::io::IsTerminal;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Filter, Layer};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry, filter};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people, with colours where a terminal is.
    Pretty,
}

/// The layer that writes the log.
///
/// # Errors
/// A sentence about the filter, where it is not one.
pub(super) fn layer(
    format: LogFormat,
    wanted: &str,
) -> Result<Box<dyn Layer<Registry> + Send + Sync>, String> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let filter = filter(wanted)?;
    Ok(match format {
        LogFormat::Json => {
            let inner = Format::default().json().flatten_event(true);
            let traced = Traced(inner.with_current_span(false).with_span_list(false));
            let lines = lines.fmt_fields(JsonFields::new()).event_format(traced);
            lines.with_filter(filter).boxed()
        }
        LogFormat::Pretty => {
            let colours = std::io::stderr().is_terminal();
            let lines = lines.with_target(false).with_ansi(colours);
            lines.with_filter(filter).boxed()
        }
    })
}

fn filter(wanted: &str) -> Result<impl Filter<Registry> + Send + Sync + 'static, String> {
    // fred's warnings repeat what is said here, sqlx tells unknown parameters of DATABASE_URL with their
    // values, and spans are for traces. Whoever names them gets them.
    let quiet = [
        "fred=error",
        "sqlx_postgres::options=off",
        "apptlock::trace=off",
    ];
    let unnamed = quiet.into_iter().filter(|directive| {
        let name = match directive.split('=').next().unwrap_or_default() {
            "sqlx_postgres::options" => "sqlx_postgres",
            name => name,
        };
        !wanted.contains(name)
    });
    let all = unnamed.fold(wanted.to_owned(), |all, directive| {
        format!("{directive},{all}")
    });
    let wanted = EnvFilter::try_new(all).map_err(|fault| fault.to_string())?;
    // These show what clients send, tokens too, below info: no filter lets that out.
    let discreet = filter::filter_fn(|line: &Metadata<'_>| {
        let shows = [
            "socketioxide",
            "engineioxide",
            "tungstenite",
            "tokio_tungstenite",
            "hyper",
        ];
        let library = line.target().split("::").next().unwrap_or_default();
        *line.level() <= Level::INFO || !shows.contains(&library)
    });
    Ok(filter::FilterExt::and(wanted, discreet))
}

/// A JSON line that says to which trace it belongs, where it belongs to one.
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
        // The object is opened again for two more fields.
        let open = line.trim_end().strip_suffix('}').unwrap_or(&line);
        let (trace_id, span_id) = (trace.trace_id(), trace.span_id());
        writeln!(
            writer,
            r#"{open},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#
        )
    }
}
