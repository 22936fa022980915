//! A device that is at work.

use std::time::{Duration, Instant};

use gemmaflow::runtime::{
    GpuContext,
    wgpu::{BufferDescriptor, BufferUsages, CommandEncoderDescriptor, PollType},
};

/// Work of the device that a thread of a crowded machine does not sleep through.
const LEAST: Duration = Duration::from_secs(1);

/// Gives the device work ahead of all that it is asked for next. Who looks meanwhile finds it busy, however fast the
/// device is.
pub fn keep_busy(context: &GpuContext) {
    let device = context.device();
    let (size, usage) = (16 << 20, BufferUsages::COPY_DST);
    let buffer = device.create_buffer(&BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    let fill = |times: usize| {
        let mut encoder = device.create_command_encoder(&CommandEncoderDescriptor::default());
        (0..times).for_each(|_| encoder.clear_buffer(&buffer, 0, None));
        context.queue().submit([encoder.finish()]);
    };
    let takes = |times: usize| {
        let begun = Instant::now();
        fill(times);
        device.poll(PollType::wait_indefinitely()).unwrap();
        begun.elapsed()
    };
    let times = (0..).map(|power| 1 << power).find(|times| takes(*times) >= LEAST).unwrap();
    fill(times);
}
