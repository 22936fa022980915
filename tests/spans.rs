//! The spans that a subscriber sees of loading, compiling, reading a prompt and stepping, with their counts.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::Path,
    sync::{Arc, Mutex},
};

use gemmaflow::{
    checkpoint::load_from_path,
    gemma::GemmaConfig,
    generate::{Drafter, GemmaGenerator, GeneratorOptions, SampleHooks, SampleOpts},
    runtime::Device,
};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry::LookupSpan,
};

/// A span's fields; what is no number is 0.
type Fields = BTreeMap<String, u64>;

/// Names and fields of spans, in the order in which they ended.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, Fields)>>>);

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value);
    }

    fn record_debug(&mut self, field: &Field, _: &dyn Debug) {
        self.0.insert(field.name().into(), 0);
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Reader(&mut fields));
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(span) = context.span(&id)
            && let Some(fields) = span.extensions_mut().remove::<Fields>()
        {
            self.0.lock().unwrap().push((span.name().into(), fields));
        }
    }
}

impl Seen {
    /// The spans of a name since the last call.
    fn take(&self, name: &str) -> Vec<Fields> {
        let mut seen = self.0.lock().unwrap();
        let (found, rest) = seen.drain(..).partition(|(of, _)| of == name);
        *seen = rest;
        let found: Vec<(String, Fields)> = found;
        found.into_iter().map(|(_, fields)| fields).collect()
    }
}

fn fields<const N: usize>(of: [(&str, usize); N]) -> Fields {
    of.into_iter().map(|(name, value)| (name.to_string(), value as u64)).collect()
}

/// One test: the subscriber is the process's, as compiling has threads of its own.
#[test]
fn spans_tell_what_was_done() {
    let seen = Seen::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(seen.clone())).expect("the only subscriber");
    let demo = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    for device in [Device::Gpu, Device::Cpu] {
        let config = GemmaConfig::from_file(demo).unwrap();
        let options = GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() };
        let mut loader = load_from_path(demo).unwrap();
        let tensors = loader.remaining_keys().len();
        let mut generator = GemmaGenerator::with_options(config, loader.as_mut(), device.clone(), options).unwrap();
        let load = seen.take("load");
        let stats = generator.stats();
        assert_eq!(load.len(), 1, "{load:?}");
        assert!(load[0]["tensors"] <= tensors as u64 && load[0]["tensors"] > 20 && load[0].contains_key("device"), "{load:?}");
        assert!(stats.weight_bytes == 0 || load[0]["bytes"].abs_diff(stats.weight_bytes) * 100 < stats.weight_bytes, "{load:?}");

        generator.prefill((4..44).collect::<Vec<u32>>()).unwrap();
        generator.generate_cached(3, &SampleOpts::greedy()).unwrap();
        let part = |start| fields([("tokens", 40), ("start", start), ("rows", 16)]);
        assert_eq!(seen.take("prefill"), [part(0), part(16)], "{device}");
        let step = |position, tokens| fields([("position", position), ("tokens", tokens)]);
        // The step computes what the last chunk leaves.
        assert_eq!(seen.take("step"), [step(40, 8), step(41, 1), step(42, 1)], "{device}");
        generator.step_hooked(&SampleOpts::greedy(), &mut SampleHooks::new()).unwrap();
        assert_eq!(seen.take("step"), [step(43, 1)], "{device}");
        let mut drafted = generator.fork().unwrap().with_drafter(Drafter::prompt_lookup()).unwrap();
        drafted.generate_cached(2, &SampleOpts::greedy()).unwrap();
        assert_eq!(seen.take("step")[0]["position"], 44, "{device}");

        let compiled: u64 = seen.take("compile").iter().map(|span| span["pipelines"]).sum();
        let made = generator.counters().map_or(0, |counters| counters.pipelines_created);
        // Two threads may compile the same kernel.
        assert!(compiled.abs_diff(made) <= 2 && (made > 0) == (device == Device::Gpu), "{device}: {compiled} of {made}");
        assert_eq!(seen.take("prefill"), [], "a step alone reads no prompt");
    }
}
