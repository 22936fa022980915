//! Compiled pipelines as bytes: given back they are used, and whatever is wrong with them is said and harms nothing.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::sync::Arc;

use gemmaflow::{
    generate::{GemmaGenerator, GeneratorOptions},
    internals::{ir::KernelChoices, runtime::PipelineCache},
    runtime::{Device, GpuContext, GpuOptions, Opened, OwnDevice, PipelineBlob, Tuning, required_limits, wanted_features, wgpu},
};
use oracle::{GATE, Oracle, worst};

fn generator(oracle: &Oracle, device: Device, blob: Option<Vec<u8>>) -> GemmaGenerator {
    let gpu = GpuOptions { pipeline_cache: blob, ..GpuOptions::default() };
    let options = GeneratorOptions { prefill_chunk: Some(16), gpu, ..GeneratorOptions::default() };
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device, options).unwrap()
}

/// The error against transformers, with a prefill and a decode step.
fn error(oracle: &Oracle, generator: &mut GemmaGenerator) -> f32 {
    let tokens = oracle.tokens("p33.input_ids");
    let (expected, vocab) = (oracle.f32("p33.logits"), oracle.config.vocab_size);
    let prefill = worst(&generator.prefill_get_last_logits(&tokens[..32]).unwrap(), &expected[31 * vocab..][..vocab]);
    prefill.max(worst(&generator.decode_get_logits(tokens[32]).unwrap(), &expected[32 * vocab..]))
}

fn has_feature() -> bool {
    match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context.capabilities().pipeline_cache,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

#[test]
fn a_second_start_uses_what_the_first_compiled() {
    let oracle = Oracle::open("gemma3-text");
    let mut first = generator(&oracle, Device::Gpu, None);
    assert_eq!(first.pipeline_blob(), PipelineBlob::None);
    assert!(error(&oracle, &mut first) < GATE);
    let blob = first.pipeline_cache_bytes();
    assert_eq!(blob.is_some(), has_feature());
    let Some(blob) = blob else { return };
    println!("{} bytes of pipelines", blob.len());
    drop(first);
    let mut second = generator(&oracle, Device::Gpu, Some(blob.clone()));
    assert_eq!(second.pipeline_blob(), PipelineBlob::Used);
    assert!(error(&oracle, &mut second) < GATE);
    // The same pipelines again: no more bytes than before, and a third start takes them as well.
    let again = second.pipeline_cache_bytes().unwrap();
    assert!(again.len() >= blob.len() && again.len() < blob.len() * 2, "{} bytes, then {}", blob.len(), again.len());
    let third = generator(&oracle, Device::Gpu, Some(again));
    assert_eq!(third.pipeline_blob(), PipelineBlob::Used);
    // A generator that shares the weights shares the pipelines.
    assert_eq!(third.share_weights().unwrap().pipeline_blob(), PipelineBlob::Used);
}

#[test]
fn bytes_that_are_empty_cut_corrupt_or_foreign_are_ignored_with_the_reason() {
    let oracle = Oracle::open("gemma3-text");
    let mut first = generator(&oracle, Device::Gpu, None);
    assert!(error(&oracle, &mut first) < GATE);
    // Where the driver has no such cache, any bytes at all are ignored for that reason.
    let feature = has_feature();
    let blob = first.pipeline_cache_bytes().unwrap_or_else(|| vec![7; 200]);
    let changed = |at: usize| {
        let mut wrong = blob.clone();
        wrong[at] ^= 1;
        wrong
    };
    let cases = [
        (Vec::new(), "empty"),
        (vec![1, 2, 3], "header"),
        (blob[..30].to_vec(), "header"),
        (blob[..blob.len() / 2].to_vec(), "truncated"),
        (changed(0), "did not make"),
        (changed(8), "version"),
        (changed(12), "another adapter"),
        (changed(40), "checksum"),
        (changed(blob.len() - 1), "checksum"),
        ([blob.clone(), vec![0; 8]].concat(), "follow the header"),
    ];
    for (wrong, reason) in cases {
        let mut generator = generator(&oracle, Device::Gpu, Some(wrong));
        let PipelineBlob::Ignored(why) = generator.pipeline_blob() else { panic!("{reason}: it was not ignored") };
        assert!(why.contains(if feature { reason } else { "PIPELINE_CACHE" }), "{reason}: {why}");
        assert!(error(&oracle, &mut generator) < GATE, "{reason}");
        assert_eq!(generator.pipeline_cache_bytes().is_some(), feature);
    }
}

#[test]
fn a_device_without_the_feature_works_and_exports_nothing() {
    let oracle = Oracle::open("gemma3-text");
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
    let adapter = adapter.expect("a GPU adapter (lavapipe will do)");
    let make = |features: wgpu::Features| {
        let required_limits =
            wgpu::Limits { max_storage_buffer_binding_size: 1 << 20, max_buffer_size: 1 << 26, ..required_limits() };
        let descriptor = wgpu::DeviceDescriptor { required_features: features, required_limits, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
        Device::Own(OwnDevice { adapter: adapter.clone(), device, queue })
    };
    let wanted = wanted_features(&adapter);
    let mut without = generator(&oracle, make(wanted - wgpu::Features::PIPELINE_CACHE), Some(vec![1; 100]));
    assert!(matches!(without.pipeline_blob(), PipelineBlob::Ignored(why) if why.contains("PIPELINE_CACHE")));
    assert!(error(&oracle, &mut without) < GATE);
    assert_eq!(without.pipeline_cache_bytes(), None);
    // The application's own device with the feature, and the reference.
    let mut with = generator(&oracle, make(wanted), None);
    assert!(error(&oracle, &mut with) < GATE);
    assert_eq!(with.pipeline_cache_bytes().is_some(), wanted.contains(wgpu::Features::PIPELINE_CACHE));
    let reference = generator(&oracle, Device::Cpu, Some(vec![1]));
    assert_eq!((reference.pipeline_cache_bytes(), reference.pipeline_blob()), (None, PipelineBlob::None));
}

#[test]
fn a_cache_of_pipelines_exports_too() {
    let Opened::Gpu(context) = Device::Gpu.open(&GpuOptions::default()).unwrap() else { panic!("no GPU") };
    let cache = PipelineCache::new(&context);
    assert_eq!(cache.pipeline_cache_bytes().is_some(), context.capabilities().pipeline_cache);
}

/// A device of the bytes of an earlier start, which tests its kernels.
fn tested(blob: Option<Vec<u8>>) -> Arc<GpuContext> {
    let options = GpuOptions { tuning: Tuning::Thorough, pipeline_cache: blob, ..GpuOptions::default() };
    match Device::Gpu.open(&options).unwrap() {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

#[test]
fn what_was_found_out_about_kernels_travels_with_the_pipelines() {
    let oracle = Oracle::open("gemma3-text");
    let context = tested(None);
    assert_eq!(context.kernel_choices(), KernelChoices::default());
    let mut first = generator(&oracle, Device::Context(context.clone()), None);
    assert!(error(&oracle, &mut first) < GATE);
    let found = context.kernel_choices();
    assert!(found.tested() > 5 && found.fallbacks().next().is_none(), "{found:?}");
    let blob = first.pipeline_cache_bytes().expect("choices at least");
    assert_eq!(tested(Some(blob.clone())).kernel_choices(), found);
    let mut second = generator(&oracle, Device::Context(tested(Some(blob.clone()))), None);
    assert!(error(&oracle, &mut second) < GATE);
    let given = GpuOptions { tuning: Tuning::Given(found.clone()), ..GpuOptions::default() };
    let Opened::Gpu(given) = Device::Gpu.open(&given).unwrap() else { panic!("no GPU") };
    assert_eq!(given.kernel_choices(), found);
    // Of another adapter or release, cut, damaged: nothing is believed.
    for at in [9, 12, 50, blob.len() - 1] {
        let mut wrong = blob.clone();
        wrong[at] ^= 1;
        assert_eq!(tested(Some(wrong)).kernel_choices(), KernelChoices::default(), "byte {at}");
    }
    assert_eq!(tested(Some(blob[..blob.len() / 2].to_vec())).kernel_choices(), KernelChoices::default());
}
