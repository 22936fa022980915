//! The figures as a table and as JSON.

use std::time::Duration;

use gemmaflow::generate::GemmaGenerator;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::{
    Arguments,
    speed::{Decode, Speed},
};

/// Median, smallest and largest.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Zeros of no value.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
        Self { median: (at(low) + at(high)) / 2.0, min: at(0), max: at(values.len().saturating_sub(1)) }
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} (from {:.2} to {:.2})", self.median, self.min, self.max)
    }
}

fn rate(count: usize, times: &[Duration]) -> Spread {
    Spread::of(times.iter().map(|time| count as f64 / time.as_secs_f64()))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub struct Report<'a> {
    pub name: String,
    pub load: Duration,
    pub bandwidth: Option<f64>,
    pub speed: Speed,
    pub arguments: &'a Arguments,
    pub generator: &'a GemmaGenerator,
}

impl Report<'_> {
    fn decode_rate(&self, decode: &Decode) -> Spread {
        rate(self.arguments.generated, &decode.times)
    }

    /// Host time of a token in microseconds.
    fn host(decode: &Decode) -> Option<Spread> {
        let micros = decode.host.iter().map(|time| time.as_secs_f64() * 1e6);
        (!decode.host.is_empty()).then(|| Spread::of(micros))
    }

    fn first_token_ms(&self) -> f64 {
        Spread::of(self.speed.prefill[0].1.iter().map(|time| milliseconds(*time))).median
    }

    /// The weights read by decode as a share of what the device could read meanwhile.
    fn share(&self) -> Option<f64> {
        let read = self.generator.stats().bytes_per_token as f64 * self.decode_rate(&self.speed.decode[0]).median;
        self.bandwidth.map(|bandwidth| read / bandwidth)
    }

    /// `prompt`, `prefill_tokens_per_s`, `decode_tokens_per_s` and `first_token_ms` are those of the first prompt and
    /// depth.
    pub fn json(&self) -> Value {
        let (stats, speed) = (self.generator.stats(), &self.speed);
        let prefill =
            |(tokens, times): &(usize, Vec<Duration>)| json!({ "tokens": tokens, "tokens_per_s": rate(*tokens, times).json() });
        let decode = |decode: &Decode| {
            json!({
                "depth": decode.depth,
                "tokens_per_s": self.decode_rate(decode).json(),
                "submits_per_token": decode.submits,
                "bytes_read_back_per_token": decode.read_back,
                "host_us_per_token": Self::host(decode).map(Spread::json),
            })
        };
        json!({
            "model": self.name,
            "layers": self.generator.config().active_num_layers(),
            "adapter": stats.device,
            "prompt": speed.prefill[0].0,
            "gen": self.arguments.generated,
            "reps": self.arguments.reps,
            "prefill_tokens_per_s": rate(speed.prefill[0].0, &speed.prefill[0].1).json(),
            "decode_tokens_per_s": self.decode_rate(&speed.decode[0]).json(),
            "prefill": speed.prefill.iter().map(prefill).collect::<Vec<_>>(),
            "decode": speed.decode.iter().map(decode).collect::<Vec<_>>(),
            "weight_bytes": stats.weight_bytes,
            "cache_bytes": stats.cache_bytes,
            "bytes_per_token": stats.bytes_per_token,
            "dispatches_per_token": stats.dispatches_per_token,
            "copy_bandwidth_read_gb_s": self.bandwidth.map(|b| b / 1e9),
            "share_of_bandwidth": self.share(),
            "first_token_ms": self.first_token_ms(),
            "first_token_cold_ms": milliseconds(speed.cold),
            "load_ms": milliseconds(self.load),
        })
    }

    pub fn table(&self) -> String {
        let (stats, speed) = (self.generator.stats(), &self.speed);
        let bandwidth = match (self.bandwidth, self.share()) {
            // Software adapters are bound by arithmetic, also while they are measured; and other programs may have run
            // meanwhile.
            (Some(b), Some(share)) if share > 1.0 => {
                format!("{:.1} GB/s measured, {:.1} times that by decode: no bound on this adapter", b / 1e9, share)
            }
            (Some(b), Some(share)) => format!("{:.1} GB/s measured, of which decode uses {:.0} %", b / 1e9, share * 100.0),
            _ => "not measured on the reference".into(),
        };
        let layers = self.generator.config().active_num_layers();
        let mut rows = vec![("model", format!("{}, {layers} layers", self.name)), ("adapter", stats.device.clone())];
        rows.extend(
            speed
                .prefill
                .iter()
                .map(|(tokens, times)| ("prefill", format!("{} tokens/s, {tokens} tokens", rate(*tokens, times)))),
        );
        rows.extend(speed.decode.iter().map(|decode| {
            let count = self.arguments.generated;
            ("decode", format!("{} tokens/s, {count} tokens at depth {}", self.decode_rate(decode), decode.depth))
        }));
        let first = speed.prefill[0].0;
        rows.extend([
            ("repetitions", format!("{}, medians first", self.arguments.reps)),
            (
                "first token",
                format!(
                    "{:.1} ms after {first} tokens; the first time {:.1} ms",
                    self.first_token_ms(),
                    milliseconds(speed.cold)
                ),
            ),
            ("load", format!("{:.1} ms", milliseconds(self.load))),
            ("weights", format!("{}", HumanBytes(stats.weight_bytes))),
            ("cache", format!("{}", HumanBytes(stats.cache_bytes))),
            ("read a token", format!("{} of weights", HumanBytes(stats.bytes_per_token))),
            ("dispatches", format!("{} a token", stats.dispatches_per_token)),
        ]);
        rows.extend(speed.decode.first().and_then(|decode| {
            let host = Self::host(decode)?;
            let (submits, bytes) = (decode.submits, decode.read_back);
            Some(("host", format!("{submits} submits, {bytes} bytes read back and {host} µs without waiting, a token")))
        }));
        rows.push(("bandwidth", bandwidth));
        rows.iter().map(|(name, value)| format!("{name:13} {value}\n")).collect()
    }
}
