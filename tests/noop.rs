//! Plans on wgpu's `noop` backend under WebGPU's default limits: wgpu checks bindings, alignment and dispatch sizes.

mod common;

use std::sync::Arc;

use common::{cases, plan, prepare, title};
use gemmaflow::{
    Error,
    internals::{ir::kernel::Tier, runtime::PipelineCache},
    runtime::{Device, GpuContext, GpuOptions, Opened, OwnDevice, wgpu},
};

fn context() -> Arc<GpuContext> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::NOOP;
    descriptor.backend_options.noop = wgpu::NoopBackendOptions::enabled();
    let instance = wgpu::Instance::new(descriptor);
    let adapter = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::NOOP)).remove(0);
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
    assert_eq!(device.limits().max_storage_buffers_per_shader_stage, 8);
    match Device::Own(OwnDevice { adapter, device, queue }).open(&GpuOptions::default()).unwrap() {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("an own device opened the reference"),
    }
}

#[test]
fn every_case_records_under_the_default_limits() {
    let context = context();
    let target = context.capabilities().target();
    assert_eq!(target.tier, Tier::Portable);
    let pipelines = PipelineCache::new(&context);
    let mut dispatches = 0;
    for case in cases() {
        let record = || {
            let (prepared, _) = prepare(&pipelines, &plan(&case, &target)?, &case)?;
            let submission = context.run("plan", |encoder| {
                prepared.record(&mut encoder.begin_compute_pass(&Default::default()));
                Ok(())
            })?;
            context.wait(&submission, "a case")?;
            Ok::<usize, Error>(prepared.dispatch_count())
        };
        dispatches += record().unwrap_or_else(|e| panic!("{}: {e}", title(&case)));
    }
    assert!(dispatches >= cases().len());
}

#[test]
fn recording_makes_nothing() {
    let context = context();
    let pipelines = PipelineCache::new(&context);
    let case = cases().into_iter().find(|c| c.op.name() == "attention").unwrap();
    let plan = plan(&case, &context.capabilities().target()).unwrap();
    let (prepared, _) = prepare(&pipelines, &plan, &case).unwrap();
    let before = context.counters().snapshot();
    let made = before.pipelines_created;
    context
        .run("plan", |encoder| {
            prepared.record(&mut encoder.begin_compute_pass(&Default::default()));
            Ok(())
        })
        .unwrap();
    let after = context.counters().snapshot();
    assert_eq!((after.buffers_created, after.bind_groups_created), (before.buffers_created, before.bind_groups_created));
    prepare(&pipelines, &plan, &case).unwrap();
    assert_eq!(context.counters().snapshot().pipelines_created, made, "a plan prepared again compiles nothing");
}
