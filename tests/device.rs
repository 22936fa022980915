//! Devices, limits, errors and counters, on a real driver. A machine without any adapter fails these tests.

#[path = "common/own.rs"]
mod devices;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use devices::{adopt, any_adapter, huge_texture, own};
use gemmaflow::{
    Error, Result,
    error::DeviceError,
    internals::runtime::measure_copy_bandwidth,
    runtime::{
        AdapterKind, Device, GpuContext, GpuOptions, Opened, adapters, required_features, required_limits, wanted_features,
        wanted_limits,
        wgpu::{self, BufferUsages},
    },
};

fn open(options: &GpuOptions) -> Arc<GpuContext> {
    match Device::Gpu.open(options).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

fn context() -> Arc<GpuContext> {
    open(&GpuOptions::default())
}

fn storage() -> BufferUsages {
    BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST
}

#[test]
fn listing_is_stable_and_best_first() {
    let found = adapters();
    assert!(!found.is_empty(), "no adapter on this machine");
    assert_eq!(found, adapters());
    let kinds: Vec<_> = found.iter().map(|a| a.kind).collect();
    let first_software = kinds.iter().position(|k| *k == AdapterKind::Software).unwrap_or(kinds.len());
    assert!(kinds[first_software..].iter().all(|k| *k == AdapterKind::Software), "{kinds:?}");
    for (index, adapter) in found.iter().enumerate() {
        assert_eq!(adapter.index, index);
        assert_eq!(adapter.is_software, adapter.kind == AdapterKind::Software);
        assert!(adapter.max_binding >= 1 << 20 && !adapter.name.is_empty(), "{adapter}");
    }
}

#[test]
fn adapters_open_by_index_and_by_any_part_of_the_name() {
    for adapter in adapters() {
        let Opened::Gpu(by_index) = Device::Adapter(adapter.index).open(&GpuOptions::default()).unwrap() else { panic!() };
        assert_eq!(by_index.capabilities().adapter, adapter.name);
        let part: String = adapter.name.chars().take(5).flat_map(char::to_uppercase).collect();
        let Opened::Gpu(by_name) = Device::Named(part.clone()).open(&GpuOptions::default()).unwrap() else { panic!() };
        assert!(by_name.capabilities().adapter.to_uppercase().contains(&part));
    }
    assert!(matches!(Device::Auto.open(&GpuOptions::default()).unwrap(), Opened::Gpu(_)));
    assert!(matches!(Device::Cpu.open(&GpuOptions::default()).unwrap(), Opened::Reference));
}

#[test]
fn an_unknown_adapter_is_an_error_that_lists_those_present() {
    let first = adapters().remove(0).name;
    for device in [Device::Named("Voodoo 2".into()), Device::Adapter(99)] {
        let error = device.open(&GpuOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Device(DeviceError::NoAdapter(_))));
        let text = error.to_string();
        assert!(text.contains(&first) && (text.contains("Voodoo 2") || text.contains("99")), "{text}");
    }
}

#[test]
fn devices_parse_and_print() {
    for (text, device) in [("auto", Device::Auto), ("GPU", Device::Gpu), (" cpu ", Device::Cpu)] {
        assert_eq!(text.parse::<Device>().unwrap(), device);
        assert_eq!(device.to_string(), text.trim().to_lowercase());
    }
    assert_eq!("Radeon 7".parse::<Device>().unwrap(), Device::Named("Radeon 7".into()));
    assert_eq!(Device::Named("Radeon 7".into()).to_string(), "Radeon 7");
    assert!(" ".parse::<Device>().is_err());
}

#[test]
fn capabilities_are_those_of_the_opened_device() {
    let context = context();
    let capabilities = context.capabilities();
    let limits = context.device().limits();
    let features = context.device().features();
    assert_eq!(capabilities.max_binding, context.adapter().limits().max_storage_buffer_binding_size);
    assert_eq!(capabilities.max_buffer, context.adapter().limits().max_buffer_size);
    assert_eq!(capabilities.max_workgroups, limits.max_compute_workgroups_per_dimension);
    assert_eq!(capabilities.f16, features.contains(wgpu::Features::SHADER_F16));
    assert_eq!(capabilities.int64, features.contains(wgpu::Features::SHADER_INT64));
    assert_eq!(capabilities.subgroups, features.contains(wgpu::Features::SUBGROUP));
    assert!((features & wgpu::Features::all_experimental_mask()).is_empty());

    let lowered = open(&GpuOptions { max_binding: Some(1 << 20), max_buffer: Some(4 << 20), ..GpuOptions::default() });
    assert_eq!((lowered.capabilities().max_binding, lowered.capabilities().max_buffer), (1 << 20, 4 << 20));
    assert_eq!(lowered.device().limits().max_storage_buffer_binding_size, 1 << 20);
    let error = Device::Gpu.open(&GpuOptions { max_binding: Some(1 << 10), ..GpuOptions::default() }).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::Limit { needed, available: 1024, .. }) if needed == 16 << 10), "{error}");
}

const DOUBLE: &str = "@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(1) fn main() { x[0] = x[0] * 2u; }";

/// Runs one workgroup of `source` over `buffer` with plain wgpu.
fn dispatch(device: &wgpu::Device, queue: &wgpu::Queue, source: &str, buffer: &wgpu::Buffer) -> wgpu::SubmissionIndex {
    let source = wgpu::ShaderSource::Wgsl(source.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    queue.submit([encoder.finish()])
}

#[test]
fn an_application_shares_its_device_and_keeps_its_callbacks() {
    let adapter = any_adapter();
    let (features, limits) = (wanted_features(&adapter), wanted_limits(&adapter));
    assert!(adapter.features().contains(features | required_features()));
    let own = own(adapter, features, limits);
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    own.device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| log.lock().unwrap().push(e.to_string())));

    let context = adopt(own.clone()).unwrap();
    let ours = context.create_buffer("ours", 4, storage()).unwrap();
    context.write(&ours, 0, &21u32.to_le_bytes()).unwrap();
    // The application computes on its device in between, on our buffer even.
    dispatch(&own.device, &own.queue, DOUBLE, ours.raw());
    let mut bytes = [0; 4];
    context.read_back(&ours, 0, &mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 42);

    let error = context.create_buffer("bad", 16, BufferUsages::MAP_READ | BufferUsages::STORAGE).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::Driver { .. })), "{error}");
    assert!(seen.lock().unwrap().is_empty(), "our error reached the application's handler");
    let _ = own.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: BufferUsages::MAP_READ | BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    assert_eq!(seen.lock().unwrap().len(), 1, "the application's handler was replaced");
}

#[test]
fn a_limit_that_an_own_device_lacks_is_named_with_both_values() {
    assert!(required_limits().check_limits(&wgpu::Limits::default()), "WebGPU's defaults must suffice");
    adopt(own(any_adapter(), wgpu::Features::empty(), wgpu::Limits::default())).unwrap();
    let few = wgpu::Limits { max_storage_buffers_per_shader_stage: 5, ..wgpu::Limits::default() };
    let error = adopt(own(any_adapter(), wgpu::Features::empty(), few)).unwrap_err();
    match &error {
        Error::Device(DeviceError::Limit { name, available: 5, needed: 8, .. }) => {
            assert_eq!(name, "max_storage_buffers_per_shader_stage")
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("wanted_limits"), "{error}");
}

#[test]
fn a_buffer_beyond_the_limit_is_an_error_and_the_context_works_on() {
    let context = context();
    let before = context.counters().snapshot();
    let error = context.create_buffer("absurd", 1 << 50, storage()).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::Limit { needed, .. }) if needed == 1 << 50), "{error}");
    assert!(context.create_buffer("absurd", u64::MAX, storage()).is_err());
    assert_eq!(context.counters().snapshot().bytes_live, before.bytes_live);
    assert_eq!(round_trip(&context, 7), 7);
}

#[test]
fn memory_that_the_driver_does_not_have_is_an_error_and_the_context_works_on() {
    let adapter = any_adapter();
    let limits = adapter.limits();
    let context = adopt(own(adapter, wgpu::Features::empty(), limits)).unwrap();
    let error = huge_texture(&context).unwrap_err();
    assert!(matches!(&error, Error::Device(DeviceError::OutOfMemory { what, .. }) if what == "a huge texture"), "{error}");
    assert_eq!(round_trip(&context, 8), 8);
}

fn round_trip(context: &GpuContext, value: u32) -> u32 {
    let buffer = context.create_buffer("round trip", 4, storage()).unwrap();
    context.write(&buffer, 0, &value.to_le_bytes()).unwrap();
    let mut bytes = [0; 4];
    context.read_back(&buffer, 0, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn counters_count_and_return_to_their_baseline() {
    let context = context();
    assert_eq!(round_trip(&context, 3), 3);
    let before = context.counters().snapshot();
    let buffers: Vec<_> = (1..=3).map(|n| context.create_buffer("counted", n * 1000 + 1, storage()).unwrap()).collect();
    let during = context.counters().snapshot();
    assert_eq!((during.buffers_live - before.buffers_live, during.bytes_live - before.bytes_live), (3, 1004 + 2004 + 3004));
    drop(buffers);
    assert_eq!(round_trip(&context, 5), 5);
    let after = context.counters().snapshot();
    assert_eq!((after.buffers_live, after.bytes_live), (before.buffers_live, before.bytes_live));
    // The read-back reused its staging buffer: one new buffer, the one read from.
    assert_eq!(after.buffers_created, during.buffers_created + 1);
    assert_eq!((after.bytes_read_back - before.bytes_read_back, after.bytes_uploaded - before.bytes_uploaded), (4, 4));
    assert_eq!(after.submits, before.submits + 1);
    context.release_staging();
    assert_eq!(context.counters().snapshot().bytes_live, 0);
}

#[test]
fn reads_of_odd_sizes_and_offsets_block_or_not() {
    let context = context();
    let buffer = context.create_buffer("odd", 5001, storage()).unwrap();
    let bytes: Vec<u8> = (0..5004).map(|i| (i * 7 % 251) as u8).collect();
    context.write(&buffer, 0, &bytes).unwrap();
    for (offset, len) in [(0, 5001), (4, 1), (1000, 4), (8, 333), (4996, 8)] {
        let mut out = vec![0; len];
        context.read_back(&buffer, offset as u64, &mut out).unwrap();
        assert_eq!(out, bytes[offset..offset + len]);
        out.fill(0);
        pollster::block_on(context.read_back_async(&buffer, offset as u64, &mut out)).unwrap();
        assert_eq!(out, bytes[offset..offset + len]);
    }
    for (offset, len) in [(2, 4), (5004, 4), (4, 5004)] {
        assert!(matches!(context.read_back(&buffer, offset, &mut vec![0; len]), Err(Error::Input { .. })));
    }
}

#[test]
fn a_staged_read_is_collected_a_step_later() {
    let context = context();
    let buffer = context.create_buffer("token", 4, storage()).unwrap();
    let mut behind = None;
    for step in 0..5u32 {
        context.write(&buffer, 0, &step.to_le_bytes()).unwrap();
        let mut staged = None;
        let submission = context
            .run("step", |encoder| {
                staged = Some(context.stage_read(encoder, &buffer, 0, 4)?);
                Ok(())
            })
            .unwrap();
        if let Some((staged, submission)) = behind.replace((staged.unwrap(), submission)) {
            let mut bytes = [0; 4];
            context.collect(staged, &submission, &mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), step - 1);
        }
    }
}

#[test]
fn a_destroyed_device_is_reported_by_every_later_call() {
    let adapter = any_adapter();
    let limits = wanted_limits(&adapter);
    for context in [context(), adopt(own(adapter, wgpu::Features::empty(), limits)).unwrap()] {
        let buffer = context.create_buffer("before", 16, storage()).unwrap();
        context.device().destroy();
        let lost = |result: Result<()>| assert!(matches!(result, Err(Error::Device(DeviceError::Lost(_)))), "{result:?}");
        lost(context.read_back(&buffer, 0, &mut [0; 4]));
        lost(context.create_buffer("after", 16, storage()).map(|_| ()));
        lost(context.write(&buffer, 0, &[0; 4]));
        lost(context.wait_idle("nothing"));
        lost(context.check());
        lost(pollster::block_on(context.read_back_async(&buffer, 0, &mut [0; 4])));
    }
    let context = context();
    context.device().destroy();
    let first = context.create_buffer("first call after the loss", 16, storage());
    assert!(matches!(first, Err(Error::Device(DeviceError::Lost(_)))), "{first:?}");
    assert_eq!(round_trip(&self::context(), 9), 9, "another device is not touched");
}

const SLOW: &str = "@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(1) fn main() {
    var v = 1u;
    for (var i = 0u; i < 100000000u; i++) { v = (v * 747796405u + 2891336453u) ^ (v >> 3u); }
    x[0] = v | 1u;
}";

#[test]
fn a_wait_ends_at_its_time_limit_and_the_context_works_on() {
    let context = open(&GpuOptions { timeout: Some(Duration::from_millis(1)), ..GpuOptions::default() });
    let buffer = context.create_buffer("slow", 4, storage()).unwrap();
    let submission = dispatch(context.device(), context.queue(), SLOW, buffer.raw());
    let error = context.wait(&submission, "a slow shader").unwrap_err();
    assert!(matches!(&error, Error::Device(DeviceError::Timeout { what, .. }) if what == "a slow shader"), "{error}");
    let patience = std::time::Instant::now();
    while let Err(error) = context.wait(&submission, "a slow shader") {
        assert!(
            matches!(error, Error::Device(DeviceError::Timeout { .. })) && patience.elapsed() < Duration::from_secs(60),
            "{error}"
        );
    }
    context.check().unwrap();
}

/// wgpu 30 panics where a wait runs out just when another thread's poll finds the same work done.
#[test]
fn waits_that_run_out_beside_another_thread_s_polls_lose_nothing() {
    let context = open(&GpuOptions { timeout: Some(Duration::from_nanos(1)), ..GpuOptions::default() });
    let buffer = context.create_buffer("filled", 1 << 16, storage()).unwrap();
    let filled = || -> Result<()> {
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.clear_buffer(buffer.raw(), 0, None);
        let submission = context.submit("a fill", [encoder.finish()])?;
        loop {
            match context.wait(&submission, "a fill") {
                Err(Error::Device(DeviceError::Timeout { .. })) => {}
                outcome => return outcome,
            }
        }
    };
    let ended = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                context.device().poll(wgpu::PollType::Poll).unwrap();
            }
        });
        let outcome = (0..4000).try_for_each(|_| filled());
        ended.store(true, Ordering::Relaxed);
        outcome
    });
    outcome.unwrap();
    context.check().unwrap();
}

#[test]
fn an_error_that_no_call_caught_is_reported_once_and_never_panics() {
    let context = context();
    let _ = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("wrong"),
        size: 16,
        usage: BufferUsages::MAP_READ | BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    assert!(matches!(context.check(), Err(Error::Device(DeviceError::Driver { .. }))));
    context.check().unwrap();
}

#[test]
fn bandwidth_is_plausible() {
    let context = context();
    let bytes_per_second = measure_copy_bandwidth(&context).unwrap();
    println!("{}: {:.1} GB/s", context.capabilities().adapter, bytes_per_second / 1e9);
    assert!((1e8..2e13).contains(&bytes_per_second), "{bytes_per_second}");
    context.release_staging();
    assert_eq!(context.counters().snapshot().bytes_live, 0);
}

/// Shared between threads and stored by users without lifetimes.
const _: () = {
    const fn shareable<T: Send + Sync + 'static>() {}
    shareable::<GpuContext>();
    shareable::<Device>();
    shareable::<Opened>();
    shareable::<gemmaflow::runtime::Buffer>();
    shareable::<gemmaflow::internals::runtime::StagedRead>();
    shareable::<gemmaflow::internals::runtime::ResidentWeight>();
};
