//! Lines for people, or JSON.

use std::io;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{error, info, level_filters::LevelFilter, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// The format of the logs. All programs have this option.
#[derive(Args)]
pub struct Logs {
    /// Text for people, or JSON for a log collector
    #[arg(long, env, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Logs {
    /// Begins to write logs. To be called once, before anything is said.
    ///
    /// `RUST_LOG` says which ones: `debug`, or `info,lapin=debug`. Without it, as text there are
    /// only the lines for people. As JSON there is all from `info` on, but nothing of lapin: a
    /// program says by itself what has become of its connection.
    ///
    /// # Errors
    ///
    /// `RUST_LOG` cannot be read.
    pub fn start(&self, program: &'static str) -> anyhow::Result<()> {
        let json = self.log_format == LogFormat::Json;
        let usual = if json { LevelFilter::INFO } else { LevelFilter::OFF };
        let filter = match std::env::var("RUST_LOG") {
            Ok(text) if !text.is_empty() => {
                text.parse().context("RUST_LOG must look like info,lapin=debug")?
            }
            _ => Targets::new().with_default(usual).with_target("lapin", LevelFilter::OFF),
        };
        // Spans get the ids of a trace. Nothing is sent anywhere: an exporter for OpenTelemetry's
        // collector would be named here.
        let tracer = SdkTracerProvider::builder().build().tracer(program);
        let ours = Targets::new().with_target("telemetry", LevelFilter::INFO);
        let traces = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours);
        let format = tracing_subscriber::fmt::layer().log_internal_errors(false);
        let lines = match json {
            true => {
                let format = format.json().flatten_event(true).with_span_list(false);
                format.with_writer(io::stdout).boxed()
            }
            false => format.with_writer(io::stderr).boxed(),
        };
        let registry = tracing_subscriber::registry().with(traces).with(lines.with_filter(filter));
        registry.try_init().map_err(|_| anyhow!("logs are written already"))?;
        if json {
            common::report::to(log);
        }
        Ok(())
    }
}

/// A line for people as an event, with what its mark means.
fn log(line: &str) {
    let (mark, text) = match line.strip_prefix(" [").and_then(|rest| rest.split_once("] ")) {
        Some(parts) => parts,
        None => ("", line),
    };
    if let Some(error) = line.strip_prefix("Error: ") {
        error!(target: "program", "{error}");
    } else if mark == "!" {
        warn!(target: "program", "{text}");
    } else {
        info!(target: "program", "{text}");
    }
}
