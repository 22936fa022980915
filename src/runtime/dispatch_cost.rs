//! The cost of one dispatch that waits for another.

use super::{bandwidth::best_dispatch_rate, context::GpuContext};
use crate::Result;

const SHADER: &str = include_str!("../../shaders/increment.wgsl");

/// Seconds from one dispatch to the next that reads what it wrote, where either has next to nothing to do: what a step
/// cannot go below, times its dispatches.
///
/// One workgroup of 64 adds 1 to 64 numbers, again and again in one pass, in submits of about 50 ms timed on the host,
/// of at most 1,024 dispatches; the best of five counts.
///
/// # Errors
/// As [`GpuContext::create_buffer`] and [`GpuContext::wait`].
pub fn measure_dispatch_cost(context: &GpuContext) -> Result<f64> {
    let count = context.create_buffer("dispatch counts", 256, wgpu::BufferUsages::STORAGE)?;
    let pipeline = context.compile_plain("increment.wgsl", SHADER)?;
    let group = context.plain_bind_group(&pipeline, &[count.raw().as_entire_binding()])?;
    Ok(1.0 / best_dispatch_rate(context, 1, &pipeline, &group, [1, 1])?)
}
