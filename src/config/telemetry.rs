//! The settings of metrics and traces. Those of traces are OpenTelemetry's own. The ones that its library reads by
//! itself, such as `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_BSP_*`, are only checked, by
//! `otel`.

use axum::http::Uri;
use clap::{ArgAction, Args};
use opentelemetry_sdk::trace::Sampler;

use super::otel;
use super::parse::{BadSetting, switch};
use crate::telemetry::{Carrier, Traces};

/// Settings of metrics and traces.
#[derive(Debug, Clone, Args)]
pub struct TelemetryArgs {
    /// Metrics at /metrics: on or off.
    #[arg(long, env, value_name = "ON_OR_OFF", default_value = "on", action = ArgAction::Set, value_parser = switch(["on", "off"]))]
    pub metrics: bool,

    /// Trust in a caller's traceparent: true (it decides about sampling, and its span is the parent; only if
    /// all callers are your own services, else anybody could have everything traced) or false (its span is
    /// linked).
    #[arg(long, env, value_name = "BOOL", default_value = "false", action = ArgAction::Set, value_parser = switch(["true", "false"]))]
    pub trace_trust_callers: bool,

    /// Trace collector, by OTLP: http://host:4318, or http://host:4317 for gRPC [default: none: no traces].
    #[arg(long, env, value_name = "URL")]
    pub otel_exporter_otlp_endpoint: Option<String>,

    /// Complete URL of the collector for traces [default: OTEL_EXPORTER_OTLP_ENDPOINT with /v1/traces].
    #[arg(long, env, value_name = "URL")]
    pub otel_exporter_otlp_traces_endpoint: Option<String>,

    /// Export protocol: grpc or http/protobuf [default: grpc to port 4317, else http/protobuf].
    #[arg(long, env, value_name = "PROTOCOL")]
    pub otel_exporter_otlp_protocol: Option<String>,

    /// Export protocol of traces: grpc or http/protobuf [default: OTEL_EXPORTER_OTLP_PROTOCOL].
    #[arg(long, env, value_name = "PROTOCOL")]
    pub otel_exporter_otlp_traces_protocol: Option<String>,

    /// Service name in traces [default: apptlock].
    #[arg(long, env, value_name = "NAME")]
    pub otel_service_name: Option<String>,

    /// Sampler: always_on, always_off, traceidratio, or parentbased_ before one of these.
    #[arg(
        long,
        env,
        value_name = "SAMPLER",
        default_value = "parentbased_always_on"
    )]
    pub otel_traces_sampler: String,

    /// Ratio of traceidratio, 0 to 1.
    #[arg(long, env, value_name = "SHARE", default_value = "1")]
    pub otel_traces_sampler_arg: String,

    /// Switch that disables traces, whatever else is set: true or false.
    #[arg(long, env, value_name = "BOOL", default_value = "false", action = ArgAction::Set, value_parser = switch(["true", "false"]))]
    pub otel_sdk_disabled: bool,
}

impl TelemetryArgs {
    /// The collector of traces and what it gets, if there is one. `replica` is this replica's name.
    ///
    /// Without a collector none of OpenTelemetry's variables is checked: they may be those of everything on the
    /// machine.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn traces(&self, replica: &str) -> Result<Option<Traces>, BadSetting> {
        let own = self.otel_exporter_otlp_traces_endpoint.as_ref();
        let shared = self.otel_exporter_otlp_endpoint.as_ref();
        let Some(endpoint) = own.or(shared) else {
            return Ok(None);
        };
        let port = collector_port(endpoint).ok_or_else(|| {
            let variable = variable(own.is_some(), "ENDPOINT");
            // A URL may hold a password, so it is not repeated.
            let fix = "write one such as http://collector:4318, or http://collector:4317 for gRPC";
            BadSetting::new(&variable, "is not the URL of a collector", fix)
        })?;
        let wanted = otel::check(|variable| std::env::var(variable).ok())?;
        let carrier = self.carrier(port)?;
        let endpoint = if carrier == Carrier::Http && own.is_none() {
            format!("{}/v1/traces", endpoint.trim_end_matches('/'))
        } else {
            endpoint.clone()
        };
        let traces = Traces {
            endpoint,
            carrier,
            sampler: self.sampler()?,
            service: self.otel_service_name.clone(),
            replica: replica.to_owned(),
        };
        Ok(Some(traces).filter(|_| wanted && !self.otel_sdk_disabled))
    }

    fn carrier(&self, port: Option<u16>) -> Result<Carrier, BadSetting> {
        let own = self.otel_exporter_otlp_traces_protocol.as_deref();
        let protocol = own.or(self.otel_exporter_otlp_protocol.as_deref());
        match protocol {
            Some("grpc") => Ok(Carrier::Grpc),
            Some("http/protobuf") => Ok(Carrier::Http),
            None if port == Some(4317) => Ok(Carrier::Grpc),
            None => Ok(Carrier::Http),
            Some(other) => Err(BadSetting::new(
                &variable(own.is_some(), "PROTOCOL"),
                format!("\"{other}\" is not available"),
                "write grpc or http/protobuf",
            )),
        }
    }

    fn sampler(&self) -> Result<Sampler, BadSetting> {
        let name = self.otel_traces_sampler.as_str();
        let (root, by_parent) = match name.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (name, false),
        };
        let root = match root {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(self.share()?),
            _ => {
                return Err(BadSetting::new(
                    "OTEL_TRACES_SAMPLER",
                    format!("\"{name}\" is not available"),
                    "write always_on, always_off, traceidratio, or parentbased_ before one of these",
                ));
            }
        };
        Ok(if by_parent {
            Sampler::ParentBased(Box::new(root))
        } else {
            root
        })
    }

    fn share(&self) -> Result<f64, BadSetting> {
        let share = self.otel_traces_sampler_arg.parse().ok();
        share
            .filter(|share| (0.0..=1.0).contains(share))
            .ok_or_else(|| {
                let fix = "write a number from 0 to 1, such as 0.05";
                BadSetting::new("OTEL_TRACES_SAMPLER_ARG", "is not a share", fix)
            })
    }
}

/// The variable of an exporter's setting, which may be for traces alone.
fn variable(for_traces: bool, name: &str) -> String {
    let traces = if for_traces { "TRACES_" } else { "" };
    format!("OTEL_EXPORTER_OTLP_{traces}{name}")
}

/// The port that a collector's URL names, if any; `None` for what is not such a URL.
fn collector_port(endpoint: &str) -> Option<Option<u16>> {
    let url: Uri = endpoint.parse().ok()?;
    let fine = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
    fine.then(|| url.port_u16())
}

#[cfg(test)]
mod tests {
    use std::iter;

    use clap::{Command, FromArgMatches};

    use super::super::read::read;
    use super::*;

    /// Carrier and endpoint by options without their common beginnings, or the error.
    fn traces(options: &str) -> Result<Option<String>, String> {
        let options = options.split_whitespace().map(|option| match option {
            it if it.starts_with("traces-sampler") || it.starts_with("sdk") => {
                format!("--otel-{it}")
            }
            it => format!("--otel-exporter-otlp-{it}"),
        });
        let args = iter::once("apptlock".to_owned()).chain(options);
        let command = TelemetryArgs::augment_args(Command::new("apptlock"));
        let matches = read(command, args.map(Into::into)).map_err(|bad| bad.to_string())?;
        let args = TelemetryArgs::from_arg_matches(&matches).unwrap();
        let traces = args.traces("me").map_err(|bad| bad.to_string())?;
        Ok(traces.map(|traces| format!("{:?} {}", traces.carrier, traces.endpoint)))
    }

    #[test]
    fn the_endpoint_says_how_spans_get_there() {
        for case in [
            "=> nowhere",
            "endpoint= => nowhere",
            "endpoint=http://c:4318/ => Http http://c:4318/v1/traces",
            "endpoint=http://c:4317 => Grpc http://c:4317",
            "endpoint=http://c:4317 protocol=http/protobuf => Http http://c:4317/v1/traces",
            "endpoint=http://c:4318 protocol=http/json traces-protocol=grpc => Grpc http://c:4318",
            "endpoint=http://c:4317 traces-endpoint=https://t/x => Http https://t/x",
            "endpoint=http://c:4317 sdk-disabled=TRUE => nowhere",
        ] {
            let (options, wanted) = case.split_once("=> ").unwrap();
            let found = traces(options).unwrap();
            assert_eq!(found.as_deref().unwrap_or("nowhere"), wanted, "{case}");
        }
    }

    #[test]
    fn a_bad_setting_of_traces_stops_startup_and_shows_no_password() {
        for case in [
            "endpoint=u:geheim@c => EXPORTER_OTLP_ENDPOINT: is not the URL of a collector",
            "traces-endpoint=ftp://u:geheim@c => EXPORTER_OTLP_TRACES_ENDPOINT: is not the URL",
            r#"endpoint=http://c protocol=x => EXPORTER_OTLP_PROTOCOL: "x" is not available"#,
            r#"endpoint=http://c traces-protocol=x => EXPORTER_OTLP_TRACES_PROTOCOL: "x" is not"#,
            r#"endpoint=http://c traces-sampler=x => TRACES_SAMPLER: "x" is not available"#,
            "ratio traces-sampler-arg=1.5 => TRACES_SAMPLER_ARG: is not a share; write a number",
            "ratio traces-sampler-arg=-1 => TRACES_SAMPLER_ARG: is not a share; write a number",
            "ratio traces-sampler-arg=NaN => TRACES_SAMPLER_ARG: is not a share; write a number",
            r#"sdk-disabled=ja => SDK_DISABLED: "ja" is not valid; write true or false"#,
        ] {
            let (options, said) = case.split_once(" => ").unwrap();
            let ratio = "endpoint=http://c traces-sampler=parentbased_traceidratio";
            let error = traces(&options.replace("ratio ", &format!("{ratio} "))).unwrap_err();
            assert!(error.starts_with(&format!("OTEL_{said}")), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
