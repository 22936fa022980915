//! How fast the device reads its own memory.

use std::{sync::Arc, time::Duration};

use super::{capabilities::AdapterKind, context::GpuContext, random::RandomFill, requirements::limit, resident::Shard};
use crate::{Result, ir::DType, platform::Instant};

const SHADER: &str = include_str!("../../shaders/read_memory.wgsl");
/// Bytes that one workgroup of the shader reads: 256 invocations, 16 loads each, 16 bytes a load.
const GROUP_BYTES: u64 = 256 * 16 * 16;
/// Far above the largest last-level cache in use.
const GPU_BYTES: u64 = 512 << 20;
const SOFTWARE_BYTES: u64 = 64 << 20;
/// One timed submit takes about this long: the cost of submit and wait vanishes in it, and no driver kills it.
const SUBMIT_TIME: Duration = Duration::from_millis(50);
const MOST_REPEATS: u32 = 1024;
const ROUNDS: u32 = 5;

/// Bytes per second that the device reads from its memory, the upper bound of a decode step that reads every weight
/// once. It is the better of a compute shader that reads and of a plain copy. Writes of the copy are not counted;
/// software drivers copy faster than their shaders read.
///
/// Reads a buffer of random bits of 512 MiB (64 MiB on a software adapter; less where a binding or buffer is smaller)
/// with 16-byte loads, coalesced across each workgroup. One submit of about 50 ms reads it several times and is timed
/// on the host; the best of five submits counts.
///
/// # Errors
/// As [`GpuContext::create_buffer`] and [`GpuContext::wait`]; [`DeviceError::Limit`](crate::error::DeviceError::Limit)
/// below bindings of 64 KiB.
pub fn measure_copy_bandwidth(context: &GpuContext) -> Result<f64> {
    let capabilities = context.capabilities();
    let wanted = if capabilities.kind == AdapterKind::Software { SOFTWARE_BYTES } else { GPU_BYTES };
    let bytes = wanted.min(capabilities.max_binding).min(capabilities.max_buffer) / GROUP_BYTES * GROUP_BYTES;
    if bytes == 0 {
        let name = "max_storage_buffer_binding_size";
        let available = capabilities.max_binding;
        let advice = "open the device with a larger binding to measure it";
        return Err(limit(&capabilities.adapter, name, available, GROUP_BYTES, advice));
    }
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let source = Arc::new(context.create_buffer("bandwidth source", bytes, usage)?);
    let shard = Shard { buffer: source, offset: 0, bytes, rows: 0..(bytes / 4) as usize };
    RandomFill::new(context)?.fill(context, &shard, 1, DType::F32, 1, 1.0)?;
    let sink = context.create_buffer("bandwidth sink", 16, usage)?;
    let pipeline = context.compile_plain("read_memory.wgsl", SHADER)?;
    let resources = [wgpu::BindingResource::Buffer(shard.binding()), sink.raw().as_entire_binding()];
    let group = context.plain_bind_group(&pipeline, &resources)?;
    let (x, y) = context.spread(bytes / GROUP_BYTES)?;
    let by_shader = best_dispatch_rate(context, bytes, &pipeline, &group, [x, y])?;
    let target = context.create_buffer("bandwidth target", bytes, usage)?;
    let copy = |encoder: &mut wgpu::CommandEncoder, repeats: u32| {
        (0..repeats).for_each(|_| encoder.copy_buffer_to_buffer(shard.buffer.raw(), 0, target.raw(), 0, bytes));
    };
    Ok(by_shader.max(best_rate(context, bytes, copy)?))
}

/// The best rate, a second, at which a dispatch of `workgroups` does `amount` of something, each behind the one before
/// in one pass.
pub(crate) fn best_dispatch_rate(
    context: &GpuContext,
    amount: u64,
    pipeline: &wgpu::ComputePipeline,
    group: &wgpu::BindGroup,
    [x, y]: [u32; 2],
) -> Result<f64> {
    best_rate(context, amount, |encoder, repeats| {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, group, &[]);
        (0..repeats).for_each(|_| pass.dispatch_workgroups(x, y, 1));
    })
}

/// The best rate, a second, at which `record` does `amount` of something, several times in one submit.
fn best_rate(context: &GpuContext, amount: u64, record: impl Fn(&mut wgpu::CommandEncoder, u32)) -> Result<f64> {
    let time = |repeats: u32| -> Result<Duration> {
        let start = Instant::now();
        let submission = context.run("a measurement", |encoder| {
            record(encoder, repeats);
            Ok(())
        })?;
        context.wait(&submission, "a measurement")?;
        Ok(start.elapsed())
    };
    // The first submit touches the memory; the second is warm.
    time(1)?;
    let once = time(1)?.max(Duration::from_micros(1));
    let repeats = ((SUBMIT_TIME.as_secs_f64() / once.as_secs_f64()) as u32).clamp(1, MOST_REPEATS);
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        best = best.min(time(repeats)?);
    }
    Ok(amount as f64 * f64::from(repeats) / best.as_secs_f64())
}
