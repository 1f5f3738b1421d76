//! The settings of metrics and traces. Those of traces are OpenTelemetry's own; what its library reads by itself,
//! such as `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_BSP_*`, is only checked, by `otel`.

use clap::Args;
use opentelemetry_sdk::trace::Sampler;

use super::BadSetting;
use super::otel;
use super::parse::{either, or_default};
use crate::telemetry::{Carrier, Traces};

/// What operators see. Each option is an environment variable too.
#[derive(Debug, Clone, Args)]
pub struct TelemetryArgs {
    /// Whether metrics are kept: on or off.
    #[arg(
        long,
        env = "METRICS",
        default_value = "on",
        hide_env_values = true,
        value_name = "ON_OR_OFF"
    )]
    pub metrics: String,

    /// Whether a caller's traceparent decides about sampling, and its span is the parent: true or false. Set it where
    /// only your own services reach this one; else a caller could have everything traced. Otherwise the caller's
    /// span is linked.
    #[arg(
        long,
        env = "TRACE_TRUST_CALLERS",
        default_value = "false",
        hide_env_values = true,
        value_name = "BOOL"
    )]
    pub trace_trust_callers: String,

    /// The collector that takes traces by OTLP: http://host:4318, or http://host:4317 for gRPC [default: none:
    /// no traces].
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otel_exporter_otlp_endpoint: Option<String>,

    /// The same for traces alone, taken as it is [default: OTEL_EXPORTER_OTLP_ENDPOINT with /v1/traces].
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otel_exporter_otlp_traces_endpoint: Option<String>,

    /// grpc or http/protobuf [default: grpc to port 4317, else http/protobuf].
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_PROTOCOL",
        hide_env_values = true,
        value_name = "PROTOCOL"
    )]
    pub otel_exporter_otlp_protocol: Option<String>,

    /// The same for traces alone [default: OTEL_EXPORTER_OTLP_PROTOCOL].
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        hide_env_values = true,
        value_name = "PROTOCOL"
    )]
    pub otel_exporter_otlp_traces_protocol: Option<String>,

    /// What this service is called in traces [default: apptlock].
    #[arg(
        long,
        env = "OTEL_SERVICE_NAME",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub otel_service_name: Option<String>,

    /// Which traces are kept: always_on, always_off, traceidratio, or parentbased_ before one of these.
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER",
        default_value = "parentbased_always_on",
        hide_env_values = true,
        value_name = "SAMPLER"
    )]
    pub otel_traces_sampler: String,

    /// The share of traces that traceidratio keeps: 0 to 1.
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER_ARG",
        default_value = "1",
        hide_env_values = true,
        value_name = "SHARE"
    )]
    pub otel_traces_sampler_arg: String,

    /// Whether no traces go out, whatever else is set: true or false.
    #[arg(
        long,
        env = "OTEL_SDK_DISABLED",
        default_value = "false",
        hide_env_values = true,
        value_name = "BOOL"
    )]
    pub otel_sdk_disabled: String,
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const TRACES_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";

impl TelemetryArgs {
    /// Whether metrics are kept.
    ///
    /// # Errors
    /// [`BadSetting`].
    pub fn metrics(&self) -> Result<bool, BadSetting> {
        either("METRICS", or_default(&self.metrics, "on"), ["on", "off"])
    }

    /// Whether callers decide about sampling.
    ///
    /// # Errors
    /// [`BadSetting`].
    pub fn trust_callers(&self) -> Result<bool, BadSetting> {
        let text = or_default(&self.trace_trust_callers, "false");
        either("TRACE_TRUST_CALLERS", text, ["true", "false"])
    }

    /// Where traces go, if they do. `replica` is this replica's name.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn traces(&self, replica: &str) -> Result<Option<Traces>, BadSetting> {
        let disabled = either(
            "OTEL_SDK_DISABLED",
            &or_default(&self.otel_sdk_disabled, "false").to_lowercase(),
            ["true", "false"],
        )?;
        let set = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        let (variable, endpoint) = match (
            set(&self.otel_exporter_otlp_traces_endpoint),
            set(&self.otel_exporter_otlp_endpoint),
        ) {
            (Some(endpoint), _) => (TRACES_ENDPOINT, endpoint),
            (None, Some(endpoint)) => (ENDPOINT, endpoint),
            (None, None) => return Ok(None),
        };
        let bad = || {
            // A URL may hold a password, so it is not repeated.
            let mend = "write one such as http://collector:4318, or http://collector:4317 for gRPC";
            BadSetting::new(variable, "is not the URL of a collector", mend)
        };
        let url: axum::http::Uri = endpoint.parse().map_err(|_| bad())?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
            return Err(bad());
        }
        let wanted = otel::check(|variable| std::env::var(variable).ok())?;
        let (named_by, protocol) = match set(&self.otel_exporter_otlp_traces_protocol) {
            Some(protocol) => (TRACES_PROTOCOL, Some(protocol)),
            None => (PROTOCOL, set(&self.otel_exporter_otlp_protocol)),
        };
        let carrier = match protocol.as_deref() {
            Some("grpc") => Carrier::Grpc,
            Some("http/protobuf") => Carrier::Http,
            None if url.port_u16() == Some(4317) => Carrier::Grpc,
            None => Carrier::Http,
            Some(other) => {
                return Err(BadSetting::new(
                    named_by,
                    format!("\"{other}\" is not available"),
                    "write grpc or http/protobuf",
                ));
            }
        };
        let endpoint = if carrier == Carrier::Http && variable == ENDPOINT {
            format!("{}/v1/traces", endpoint.trim_end_matches('/'))
        } else {
            endpoint
        };
        let traces = Traces {
            endpoint,
            carrier,
            sampler: self.sampler()?,
            service: set(&self.otel_service_name),
            replica: replica.to_owned(),
        };
        Ok(Some(traces).filter(|_| wanted && !disabled))
    }

    fn sampler(&self) -> Result<Sampler, BadSetting> {
        let name = or_default(&self.otel_traces_sampler, "parentbased_always_on");
        let share = or_default(&self.otel_traces_sampler_arg, "1");
        let (parents, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let root = match kind {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => {
                let share: Option<f64> = share.parse().ok();
                let share = share.filter(|share| (0.0..=1.0).contains(share));
                Sampler::TraceIdRatioBased(share.ok_or_else(|| {
                    BadSetting::new(
                        "OTEL_TRACES_SAMPLER_ARG",
                        "is not a share",
                        "write a number from 0 to 1, such as 0.05",
                    )
                })?)
            }
            _ => {
                return Err(BadSetting::new(
                    "OTEL_TRACES_SAMPLER",
                    format!("\"{name}\" is not available"),
                    "write always_on, always_off, traceidratio, or parentbased_ before one of these",
                ));
            }
        };
        Ok(if parents {
            Sampler::ParentBased(Box::new(root))
        } else {
            root
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Probe {
        #[command(flatten)]
        telemetry: TelemetryArgs,
    }

    fn traces(args: &[&str]) -> Result<Option<(String, Carrier)>, String> {
        let probe = Probe::parse_from(["apptlock"].iter().chain(args));
        let traces = probe
            .telemetry
            .traces("me")
            .map_err(|bad| bad.to_string())?;
        Ok(traces.map(|traces| (traces.endpoint, traces.carrier)))
    }

    #[test]
    fn the_endpoint_says_how_spans_get_there() {
        let at = |endpoint: &str, carrier| Ok(Some((endpoint.to_owned(), carrier)));
        for (args, wanted) in [
            (vec![], Ok(None)),
            (vec!["--otel-exporter-otlp-endpoint="], Ok(None)),
            (
                vec!["--otel-exporter-otlp-endpoint=http://c:4318/"],
                at("http://c:4318/v1/traces", Carrier::Http),
            ),
            (
                vec!["--otel-exporter-otlp-endpoint=http://c:4317"],
                at("http://c:4317", Carrier::Grpc),
            ),
            (
                vec![
                    "--otel-exporter-otlp-endpoint=http://c:4317",
                    "--otel-exporter-otlp-protocol=http/protobuf",
                ],
                at("http://c:4317/v1/traces", Carrier::Http),
            ),
            (
                vec![
                    "--otel-exporter-otlp-endpoint=http://c:4318",
                    "--otel-exporter-otlp-protocol=http/protobuf",
                    "--otel-exporter-otlp-traces-protocol=grpc",
                ],
                at("http://c:4318", Carrier::Grpc),
            ),
            (
                vec![
                    "--otel-exporter-otlp-endpoint=http://c:4317",
                    "--otel-exporter-otlp-traces-endpoint=https://t/x",
                ],
                at("https://t/x", Carrier::Http),
            ),
            (
                vec![
                    "--otel-exporter-otlp-endpoint=http://c:4317",
                    "--otel-sdk-disabled=TRUE",
                ],
                Ok(None),
            ),
        ] {
            assert_eq!(traces(&args), wanted, "{args:?}");
        }
    }

    #[test]
    fn a_bad_setting_of_traces_ends_the_start_and_shows_no_password() {
        for (arg, line) in [
            (
                "--otel-exporter-otlp-endpoint=u:geheim@c",
                "OTEL_EXPORTER_OTLP_ENDPOINT: is not the URL",
            ),
            (
                "--otel-exporter-otlp-traces-endpoint=ftp://u:geheim@c",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: is not the URL",
            ),
            (
                "--otel-exporter-otlp-protocol=http/json",
                "OTEL_EXPORTER_OTLP_PROTOCOL: \"http/json\" is not available; write",
            ),
            (
                "--otel-exporter-otlp-traces-protocol=http/json",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: \"http/json\" is not available; write",
            ),
            (
                "--otel-traces-sampler=xray",
                "OTEL_TRACES_SAMPLER: \"xray\" is not available; write",
            ),
            (
                "--otel-sdk-disabled=ja",
                "OTEL_SDK_DISABLED: \"ja\" will not do; write true or false",
            ),
        ] {
            let mut args = vec![arg];
            if !arg.contains("endpoint") {
                args.push("--otel-exporter-otlp-endpoint=http://c:4318");
            }
            let said = traces(&args).unwrap_err();
            assert!(said.starts_with(line), "{said}");
            assert!(!said.contains("geheim"));
        }
        for share in ["1.5", "-1", "x", "NaN"] {
            let said = traces(&[
                "--otel-exporter-otlp-endpoint=http://c:4318",
                "--otel-traces-sampler=parentbased_traceidratio",
                &format!("--otel-traces-sampler-arg={share}"),
            ]);
            assert!(said.unwrap_err().starts_with("OTEL_TRACES_SAMPLER_ARG: "));
        }
    }
}
