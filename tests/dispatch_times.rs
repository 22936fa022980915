//! What a run says about its dispatches, and that asking changes nothing.

use std::path::Path;

use gemmaflow::{
    Error,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, SampleOpts},
    internals::runtime::measure_arithmetic_rate,
    ir::DType,
    runtime::{Clock, Device, GpuOptions, Opened},
};

const PROMPT: [u32; 3] = [2, 910, 262];

fn generator(device: Device) -> GemmaGenerator {
    let demo = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    GemmaGenerator::from_path(GemmaConfig::from_file(demo).unwrap(), demo, device).unwrap()
}

fn text(generator: &mut GemmaGenerator, count: usize) -> Vec<u32> {
    generator.generate_cached(count, &SampleOpts::greedy()).unwrap()
}

#[test]
fn timing_covers_every_dispatch_and_leaves_the_text_alone() {
    let mut plain = generator(Device::Gpu);
    plain.prefill(PROMPT).unwrap();
    let expected = text(&mut plain, 12);

    let mut timed = generator(Device::Gpu);
    timed.prefill(PROMPT).unwrap();
    let mut found = Vec::new();
    for clock in [None, Some(Clock::PassEdges), Some(Clock::Submits)] {
        let chunk_or_step = timed.time_dispatches(2, clock).unwrap();
        assert_eq!(
            (chunk_or_step.tokens, chunk_or_step.start),
            (timed.tokens().len() - timed.cached_rows(), timed.cached_rows())
        );
        found.extend(text(&mut timed, 4));
        let step = timed.time_dispatches(2, clock).unwrap();
        assert_eq!((step.tokens, step.start), (1, timed.cached_rows()));
        let stats = timed.stats();
        assert_eq!(step.dispatches.len(), stats.dispatches_per_token, "{clock:?}");
        let busy: f64 = step.dispatches.iter().map(|d| d.seconds).sum();
        assert!(busy > 0.0 && step.whole > 0.0, "{clock:?}: {busy} s");
        let bytes: u64 = step.dispatches.iter().map(|d| d.cost.bytes).sum();
        // All but the embedding's rows that are not looked up are read, and of activations there are few.
        assert!((stats.bytes_per_token..2 * stats.bytes_per_token).contains(&bytes), "{bytes} of {}", stats.bytes_per_token);
        // Two operations an element of each matrix: what the weights' bytes (bf16 or f32) say to within the norms and
        // attention.
        let products = step.dispatches.iter().filter(|d| d.shader.starts_with("linear_"));
        let flops: u64 = products.map(|d| d.cost.flops).sum();
        assert!((stats.bytes_per_token / 4..=stats.bytes_per_token).contains(&(flops / 2)), "{flops}");
    }
    assert_eq!(found, expected);
}

#[test]
fn the_reference_has_no_dispatches() {
    let mut generator = generator(Device::Cpu);
    generator.prefill(PROMPT).unwrap();
    assert!(matches!(generator.time_dispatches(1, None), Err(Error::Unsupported(_))));
    assert_eq!(text(&mut generator, 1).len(), 1);
}

#[test]
fn the_arithmetic_rate_is_a_rate() {
    let Opened::Gpu(context) = Device::Gpu.open(&GpuOptions::default()).unwrap() else {
        panic!("Device::Gpu opened the reference")
    };
    assert!(measure_arithmetic_rate(&context, DType::F32).unwrap() > 1e8);
    assert_eq!(measure_arithmetic_rate(&context, DType::F16).is_ok(), context.capabilities().f16);
    assert!(matches!(measure_arithmetic_rate(&context, DType::I32), Err(Error::Unsupported(_))));
}
