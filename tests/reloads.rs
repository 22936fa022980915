//! What stays behind when a model is loaded and dropped again and again. A binary of one test, as it counts the whole
//! process.

#[path = "common/heap.rs"]
mod heap;

use std::path::Path;

use gemmaflow::{
    checkpoint::load_from_path,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{Device, GpuOptions, Opened},
};

/// Loads, of which the first few fill the caches of wgpu and of the driver.
const LOADS: usize = 50;
const FIRST: usize = 5;

/// Bytes that the heap may grow by a load. wgpu 30 keeps 224 bytes, as long as the device lives, for every thread that
/// had an error scope, and a load compiles its kernels on some four threads of its own; buffers, weights, files and
/// models leave nothing.
const GROWTH: usize = 2048;

#[test]
fn fifty_loads_leave_nothing_behind() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    let context = match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    };
    let before = context.counters().snapshot();
    let mut live = Vec::new();
    for load in 0..LOADS {
        let config = GemmaConfig::from_file(folder).unwrap();
        let options = GeneratorOptions { context: Some(64), prefill_chunk: Some(16), ..GeneratorOptions::default() };
        let device = Device::Context(context.clone());
        let mut loader = load_from_path(folder).unwrap();
        let mut generator = GemmaGenerator::with_options(config, loader.as_mut(), device, options).unwrap();
        assert!(context.counters().snapshot().bytes_live > before.bytes_live);
        // Running everything each time would compile the kernels fifty times.
        if load < FIRST {
            generator.prefill([2, 910, 262]).unwrap();
            assert_eq!(generator.generate_cached(2, &SampleOpts::greedy()).unwrap(), [282, 459]);
        }
        drop(generator);
        context.wait_idle("a test").unwrap();
        context.release_staging();
        let after = context.counters().snapshot();
        assert_eq!((after.bytes_live, after.buffers_live), (before.bytes_live, before.buffers_live), "load {load}");
        live.push(heap::live());
    }
    let (early, late) = (live[FIRST], live[LOADS - 1]);
    println!("heap after load {FIRST}: {early} bytes, after load {LOADS}: {late}");
    assert!(late <= early + (LOADS - FIRST) * GROWTH, "{live:?}");
}
