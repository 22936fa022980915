//! Mappings whose callbacks never come.

use std::sync::Arc;

use super::{Mapping, StagedRead, map};
use crate::{
    Error,
    error::DeviceError,
    runtime::{Buffer, Device, GpuContext, GpuOptions, Opened},
};

fn opened() -> Arc<GpuContext> {
    match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

/// A word of `source`, whose copy is done.
fn staged(context: &GpuContext, source: &Buffer) -> StagedRead {
    let (staged, submission) = context.submit_read(source, 0, 4).unwrap();
    context.wait(&submission, "a copy").unwrap();
    staged
}

#[test]
fn a_callback_that_was_dropped_is_not_waited_for() {
    let context = opened();
    let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let source = context.create_buffer("source", 4, usage).unwrap();
    context.queue().write_buffer(source.raw(), 0, &7u32.to_le_bytes());
    let mut out = [0; 4];
    let read = staged(&context, &source);
    map(read.staging.raw(), 4, &Mapping::default());
    context.wait_idle("a mapping").unwrap();
    context.finish_mapping(read, &Mapping::default(), &mut out).unwrap();
    assert_eq!(u32::from_le_bytes(out), 7, "it is mapped all the same");
    let read = staged(&context, &source);
    let refused = context.finish_mapping(read, &Mapping::default(), &mut out);
    assert!(matches!(refused, Err(Error::Device(DeviceError::Driver { .. }))), "{refused:?}");
}
