//! Compiling for drivers that leave it to a kernel's first dispatch.

use super::{
    context::GpuContext,
    pipeline::{Pipeline, PipelineCache},
};
use crate::{Result, ir::kernel::Kernel, shader::Access};

/// Bytes that stand in for a buffer: at least one element of any binding.
const STAND_IN: u64 = 256;

/// Dispatches no workgroups of each of `kernels`, so that a driver which compiles when a kernel first runs does so now,
/// in its queue. Returns without waiting.
///
/// # Errors
/// As [`PipelineCache::get`] and [`GpuContext::run`].
pub(crate) fn first_use(pipelines: &PipelineCache, kernels: &[&Kernel]) -> Result<wgpu::SubmissionIndex> {
    let context: &GpuContext = pipelines.context();
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM;
    let read = context.create_buffer("stands in for what is read", STAND_IN, usage)?;
    let written = context.create_buffer("stands in for what is written", STAND_IN, usage)?;
    let bound = |pipeline: &Pipeline| {
        let entry = |binding: &crate::shader::Binding| {
            let buffer = if binding.access == Access::ReadWrite { &written } else { &read };
            wgpu::BindGroupEntry { binding: binding.number, resource: buffer.raw().as_entire_binding() }
        };
        let entries: Vec<_> = pipeline.bindings.iter().map(entry).collect();
        let descriptor = wgpu::BindGroupDescriptor { label: Some("first use"), layout: &pipeline.layout, entries: &entries };
        context.scoped("first use", || context.device().create_bind_group(&descriptor))
    };
    let ready = kernels.iter().map(|kernel| {
        let pipeline = pipelines.get(kernel)?;
        let group = bound(&pipeline)?;
        Ok((pipeline, group))
    });
    let ready: Vec<_> = ready.collect::<Result<_>>()?;
    context.run("first use", |encoder| {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (pipeline, group) in &ready {
            pass.set_pipeline(&pipeline.raw);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(0, 0, 0);
        }
        Ok(())
    })
}
