//! A few mapped buffers that all uploads go through, so that host memory stays bounded however large a weight is.

use std::sync::{Arc, OnceLock};

use super::{buffer::Buffer, capabilities::Capabilities, context::GpuContext, waiter::Waited};
use crate::{Result, platform};

const SLOTS: usize = 3;
/// Bytes of one slot.
const SLOT_BYTES: u64 = 8 << 20;
/// Bytes moved at a time; mapped memory is write-only, so files are read into this first, which stays in cache.
const SCRATCH_BYTES: usize = 1 << 20;

/// Fills one slot while the device copies out of the others.
#[derive(Debug)]
pub(crate) struct StagingRing {
    slots: Vec<Slot>,
    current: usize,
    /// Bytes written into the current slot.
    filled: u64,
    copies: Vec<Copy>,
    scratch: Vec<u8>,
    /// Bytes that a queue without slots was given since `draining` began.
    queued: u64,
    /// Resolves when such a queue has passed on what it was given before.
    draining: Option<Waited>,
}

#[derive(Debug)]
struct Slot {
    buffer: Buffer,
    /// While the device copies out of it.
    in_flight: Option<(wgpu::SubmissionIndex, Arc<OnceLock<bool>>)>,
}

#[derive(Debug)]
struct Copy {
    from: u64,
    to: Arc<Buffer>,
    at: u64,
    bytes: u64,
}

/// Bytes of one slot where buffers are small.
fn slot_bytes(capabilities: &Capabilities) -> u64 {
    SLOT_BYTES.min(capabilities.max_buffer / 8 * 8)
}

/// Slots where a thread may wait for them; elsewhere the queue takes the bytes.
const fn slots(blocks: bool) -> usize {
    if blocks { SLOTS } else { 0 }
}

impl StagingRing {
    /// Bytes of all slots.
    pub fn bytes(capabilities: &Capabilities) -> u64 {
        slots(platform::BLOCKS) as u64 * slot_bytes(capabilities)
    }

    pub fn new(context: &GpuContext) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let bytes = slot_bytes(context.capabilities());
        let slots = (0..slots(context.blocks())).map(|_| {
            let buffer = context.allocate("upload", bytes, usage, true)?;
            Ok(Slot { buffer, in_flight: None })
        });
        let slots = slots.collect::<Result<Vec<_>>>()?;
        Ok(Self { slots, current: 0, filled: 0, copies: Vec::new(), scratch: vec![0; SCRATCH_BYTES], queued: 0, draining: None })
    }

    /// Moves `bytes` bytes that `read` gives to `at` of `to`, padded with zeros to a multiple of 8 (what a mapped range
    /// begins at). `read(start, out)` fills `out` from byte `start` on; `moved(bytes)` is told after each portion and,
    /// with 0, again and again while the device is waited for, and may stop with an error.
    pub async fn push(
        &mut self,
        context: &GpuContext,
        to: &Arc<Buffer>,
        at: u64,
        bytes: u64,
        read: &mut (dyn FnMut(u64, &mut [u8]) -> Result<()> + Send),
        moved: &mut (dyn FnMut(u64) -> Result<()> + Send),
    ) -> Result<()> {
        let mut done = 0;
        while done < bytes {
            let room = self.room(context, moved)?;
            let portion = (bytes - done).min(room).min(SCRATCH_BYTES as u64);
            let padded = self.fill(done, portion, read)?;
            self.pass_on(context, to, at + done, padded)?;
            done += portion;
            moved(portion)?;
            if self.queued > SLOT_BYTES {
                self.drain(context).await?;
            }
        }
        Ok(())
    }

    /// Waits until the queue, which keeps all bytes that it is given, has passed on all but the last of them: it does so
    /// while the next are read. Others of this thread have their turn meanwhile.
    async fn drain(&mut self, context: &GpuContext) -> Result<()> {
        self.queued = 0;
        if let Some(earlier) = self.draining.replace(context.drained()?) {
            earlier.await?;
        }
        context.check()
    }

    /// Bytes that can be passed on at once. Without slots the queue takes any number.
    fn room(&mut self, context: &GpuContext, moved: &mut dyn FnMut(u64) -> Result<()>) -> Result<u64> {
        let Some(slot) = self.slots.get(self.current) else { return Ok(u64::MAX) };
        let capacity = slot.buffer.size();
        if self.filled == capacity {
            self.flush(context)?;
        }
        self.reclaim(context, moved)?;
        Ok(capacity - self.filled)
    }

    /// Passes the padded portion in the scratch on to `at` of `to`: through a slot, or to a queue that keeps the bytes
    /// itself until the device has them.
    fn pass_on(&mut self, context: &GpuContext, to: &Arc<Buffer>, at: u64, padded: u64) -> Result<()> {
        if self.slots.is_empty() {
            self.queued += padded;
            return context.write(to, at, &self.scratch[..padded as usize]);
        }
        self.write(context, padded)?;
        self.record(to, at, padded);
        self.filled += padded;
        Ok(())
    }

    /// Reads a portion into the scratch, padded with zeros; returns its bytes with these.
    fn fill(&mut self, start: u64, portion: u64, read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>) -> Result<u64> {
        let padded = portion.next_multiple_of(8);
        self.scratch[portion as usize..padded as usize].fill(0);
        read(start, &mut self.scratch[..portion as usize])?;
        Ok(padded)
    }

    fn write(&self, context: &GpuContext, padded: u64) -> Result<()> {
        let range = self.filled..self.filled + padded;
        let mapped = self.slots[self.current].buffer.raw().get_mapped_range_mut(range);
        let mut view = mapped.map_err(|error| context.refused("writing to a staging buffer", error.to_string()))?;
        view.copy_from_slice(&self.scratch[..padded as usize]);
        Ok(())
    }

    fn record(&mut self, to: &Arc<Buffer>, at: u64, bytes: u64) {
        if let Some(last) = self.copies.last_mut()
            && Arc::ptr_eq(&last.to, to)
            && last.at + last.bytes == at
            && last.from + last.bytes == self.filled
        {
            last.bytes += bytes;
            return;
        }
        self.copies.push(Copy { from: self.filled, to: to.clone(), at, bytes });
    }

    /// Submits the copies out of the current slot and moves on to the next.
    fn flush(&mut self, context: &GpuContext) -> Result<()> {
        let slot = &mut self.slots[self.current];
        slot.buffer.raw().unmap();
        let copies = std::mem::take(&mut self.copies);
        let submission = context.run("upload", |encoder| {
            for copy in &copies {
                encoder.copy_buffer_to_buffer(slot.buffer.raw(), copy.from, copy.to.raw(), copy.at, copy.bytes);
            }
            Ok(())
        })?;
        let mapped = Arc::new(OnceLock::new());
        let seen = mapped.clone();
        context.scoped("mapping a staging buffer", || {
            slot.buffer.raw().map_async(wgpu::MapMode::Write, .., move |result| {
                seen.get_or_init(|| result.is_ok());
            });
        })?;
        slot.in_flight = Some((submission, mapped));
        context.counters().uploaded(self.filled);
        self.current = (self.current + 1) % self.slots.len();
        self.filled = 0;
        Ok(())
    }

    /// Waits until the current slot is the host's again.
    fn reclaim(&mut self, context: &GpuContext, moved: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let Some((submission, mapped)) = self.slots[self.current].in_flight.take() else { return Ok(()) };
        context.wait_while(Some(&submission), "an upload", &mut || moved(0))?;
        if context.settled(&mapped)? {
            return Ok(());
        }
        Err(context.refused("mapping a staging buffer", "the buffer could not be mapped".into()))
    }

    /// Submits what is left and waits until the device has all of it, as long as `go_on` has no error.
    pub async fn finish(mut self, context: &GpuContext, go_on: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<()> {
        if self.filled > 0 {
            self.flush(context)?;
        }
        if !context.blocks() {
            go_on()?;
            context.drained()?.await?;
            context.check()?;
            return go_on();
        }
        context.wait_while(None, "the end of an upload", go_on)
    }
}
