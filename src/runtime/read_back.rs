//! Small copies from the device to the host through staging buffers that are made once per size class.

use std::sync::{Arc, OnceLock};

use super::{buffer::Buffer, context::GpuContext, waiter::Wait};
use crate::{
    Error, Result,
    cancel::CancelToken,
    error::DeviceError,
    platform::{Instant, would_block},
};

/// Bytes of one staging copy; longer reads go in several.
pub(super) const LARGEST_STAGING: u64 = 16 << 20;
/// Smallest size class.
const SMALLEST_STAGING: u64 = 256;
/// Idle staging buffers kept per size class; a third covers reading a step behind.
const KEPT_PER_CLASS: usize = 3;

/// Idle staging buffers, and those that the next submit fills and maps.
#[derive(Debug, Default)]
pub struct StagingPool {
    idle: Vec<Buffer>,
    to_map: Vec<(wgpu::Buffer, u64, Mapping)>,
}

/// True once a buffer is mapped, false once it cannot be.
type Mapping = Arc<OnceLock<bool>>;

/// A copy into a staging buffer that has been recorded; [`GpuContext::collect`] takes the bytes after the submit.
///
/// ```text
/// let staged = context.stage_read(&mut encoder, &tokens, 0, 4)?;   // in the step's own encoder
/// let submission = context.submit("step", [encoder.finish()])?;
/// context.collect(staged, &submission, &mut bytes)?;               // now, or a step later
/// ```
#[derive(Debug)]
#[must_use = "the copy is read by GpuContext::collect"]
pub struct StagedRead {
    staging: Buffer,
    bytes: u64,
    /// Where nothing may block: under way from the submit on, so that whoever awaited that has it.
    mapping: Option<Mapping>,
}

impl StagedRead {
    /// Bytes that were staged.
    pub(crate) fn len(&self) -> usize {
        self.bytes as usize
    }
}

impl GpuContext {
    /// Records a copy of `bytes` (rounded up to 4) at `offset` (a multiple of 4) of `source`, which has `COPY_SRC`.
    ///
    /// # Errors
    /// [`Error::Input`] outside of `source` or above 16 MiB; as [`GpuContext::create_buffer`] when a staging buffer is
    /// made.
    pub fn stage_read(&self, encoder: &mut wgpu::CommandEncoder, source: &Buffer, offset: u64, bytes: u64) -> Result<StagedRead> {
        let copied = bytes.next_multiple_of(4);
        let inside = offset.checked_add(copied).is_some_and(|end| end <= source.size());
        if !offset.is_multiple_of(4) || !inside || copied > LARGEST_STAGING || bytes == 0 {
            let problem =
                format!("reading {bytes} bytes at {offset} of {} (offsets are multiples of 4, 1 B to 16 MiB)", source.size());
            return Err(Error::Input { name: source.label().to_owned(), problem });
        }
        let staging = self.staging_of(copied)?;
        encoder.copy_buffer_to_buffer(source.raw(), offset, staging.raw(), 0, copied);
        Ok(self.staged(staging, bytes))
    }

    /// As [`GpuContext::stage_read`], of any length, in as many pieces as that takes, in order.
    pub(crate) fn stage_reads(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        source: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<Vec<StagedRead>> {
        let starts = (0..bytes).step_by(LARGEST_STAGING as usize);
        let mut piece = |start: u64| self.stage_read(encoder, source, offset + start, (bytes - start).min(LARGEST_STAGING));
        starts.map(&mut piece).collect()
    }

    /// As [`GpuContext::stage_read`] for the words at `offsets`, one behind the other.
    pub(crate) fn stage_words(&self, encoder: &mut wgpu::CommandEncoder, source: &Buffer, offsets: &[u64]) -> Result<StagedRead> {
        if let Some(offset) = offsets.iter().find(|offset| !offset.is_multiple_of(4) || **offset + 4 > source.size()) {
            let problem = format!("reading a word at {offset} of {} bytes (offsets are multiples of 4)", source.size());
            return Err(Error::Input { name: source.label().to_owned(), problem });
        }
        let bytes = offsets.len() as u64 * 4;
        let staging = self.staging_of(bytes)?;
        for (to, offset) in (0..).step_by(4).zip(offsets) {
            encoder.copy_buffer_to_buffer(source.raw(), *offset, staging.raw(), to, 4);
        }
        Ok(self.staged(staging, bytes))
    }

    fn staged(&self, staging: Buffer, bytes: u64) -> StagedRead {
        let mapping = (!self.blocks()).then(Mapping::default);
        if let (Some(mapping), Ok(mut pool)) = (&mapping, self.staging.lock()) {
            pool.to_map.push((staging.raw().clone(), bytes, mapping.clone()));
        }
        StagedRead { staging, bytes, mapping }
    }

    /// Begins to map what the submit that was made just now fills, where nothing may block.
    pub(super) fn map_staged(&self) {
        let to_map = self.staging.lock().map(|mut pool| std::mem::take(&mut pool.to_map)).unwrap_or_default();
        to_map.iter().for_each(|(buffer, bytes, mapping)| map(buffer, *bytes, mapping));
    }

    /// A staging buffer of at least so many bytes.
    fn staging_of(&self, bytes: u64) -> Result<Buffer> {
        let class = bytes.next_power_of_two().max(SMALLEST_STAGING);
        match self.idle_staging(class) {
            Some(buffer) => Ok(buffer),
            None => self.create_buffer("read-back", class, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
        }
    }

    fn idle_staging(&self, class: u64) -> Option<Buffer> {
        let mut pool = self.staging.lock().ok()?;
        let found = pool.idle.iter().position(|buffer| buffer.size() == class)?;
        Some(pool.idle.swap_remove(found))
    }

    fn recycle(&self, staging: Buffer) {
        if let Ok(mut pool) = self.staging.lock()
            && pool.idle.iter().filter(|buffer| buffer.size() == staging.size()).count() < KEPT_PER_CLASS
        {
            pool.idle.push(staging);
        }
    }

    /// Gives up a read that was staged; its copy may still be under way.
    pub(crate) fn discard(&self, staged: StagedRead) {
        if staged.mapping.is_some() {
            staged.staging.raw().unmap();
        }
        self.recycle(staged.staging);
    }

    /// Frees the idle staging buffers; the next read makes its own again.
    pub fn release_staging(&self) {
        if let Ok(mut pool) = self.staging.lock() {
            pool.idle.clear();
        }
    }

    /// Waits for `submission` and copies the staged bytes into `out`, whose length is that of the staged read.
    ///
    /// # Errors
    /// As [`GpuContext::wait`]; [`Error::Input`] if `out` has another length.
    pub fn collect(&self, staged: StagedRead, submission: &wgpu::SubmissionIndex, out: &mut [u8]) -> Result<()> {
        self.collect_unless(staged, submission, out, &CancelToken::new())
    }

    /// As [`GpuContext::collect`], until `cancel` is cancelled: the staged bytes are then given up.
    ///
    /// # Errors
    /// As [`GpuContext::collect`]; [`Error::Cancelled`].
    pub(crate) fn collect_unless(
        &self,
        staged: StagedRead,
        submission: &wgpu::SubmissionIndex,
        out: &mut [u8],
        cancel: &CancelToken,
    ) -> Result<()> {
        self.collect_while(staged, submission, out, &mut || cancel.check("a run of the model"))
    }

    /// As [`GpuContext::collect`], as long as `go_on` has no error: the staged bytes are then given up.
    ///
    /// # Errors
    /// As [`GpuContext::collect`], and those of `go_on`.
    pub(crate) fn collect_while(
        &self,
        staged: StagedRead,
        submission: &wgpu::SubmissionIndex,
        out: &mut [u8],
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let mapping = self.start_mapping(&staged)?;
        self.keep_pace(submission, "a read-back", Some(go_on))?;
        self.finish_mapping(staged, &mapping, out)
    }

    /// [`GpuContext::collect`] without blocking the calling thread; needs no particular executor.
    ///
    /// # Errors
    /// As [`GpuContext::collect`].
    pub async fn collect_async(
        self: &Arc<Self>,
        staged: StagedRead,
        submission: wgpu::SubmissionIndex,
        out: &mut [u8],
    ) -> Result<()> {
        self.collect_async_unless(staged, submission, out, &CancelToken::new()).await
    }

    /// As [`GpuContext::collect_async`], until `cancel` is cancelled: the staged bytes are then given up.
    ///
    /// # Errors
    /// As [`GpuContext::collect`]; [`Error::Cancelled`].
    pub(crate) async fn collect_async_unless(
        self: &Arc<Self>,
        staged: StagedRead,
        submission: wgpu::SubmissionIndex,
        out: &mut [u8],
        cancel: &CancelToken,
    ) -> Result<()> {
        let mapping = self.start_mapping(&staged)?;
        self.waited_unless(submission, "a read-back", cancel).await?;
        cancel.check("a run of the model")?;
        self.finish_mapping(staged, &mapping, out)
    }

    fn start_mapping(&self, staged: &StagedRead) -> Result<Mapping> {
        if let Some(mapping) = &staged.mapping {
            return Ok(mapping.clone());
        }
        let mapping = Mapping::default();
        self.scoped("mapping a read-back", || map(staged.staging.raw(), staged.bytes, &mapping))?;
        Ok(mapping)
    }

    /// The outcome of a mapping whose submission is done. Its callback may still be running in another thread that
    /// polls, or was dropped where such a poll panicked: then whoever takes the range learns whether it is mapped.
    pub(crate) fn settled(&self, mapped: &Mapping) -> Result<bool> {
        let deadline = self.deadline();
        loop {
            let is_callback_gone = Arc::strong_count(mapped) == 1;
            match mapped.get() {
                Some(outcome) => return Ok(*outcome),
                None if is_callback_gone => return Ok(true),
                None if !self.blocks() => return Err(would_block("a read-back")),
                None if Instant::now() < deadline => {
                    self.wait_idle("a mapping")?;
                    std::thread::yield_now();
                }
                None => return Err(self.timed_out("a mapping")),
            }
        }
    }

    fn finish_mapping(&self, staged: StagedRead, mapped: &Mapping, out: &mut [u8]) -> Result<()> {
        if out.len() as u64 != staged.bytes {
            let problem = format!("holds {} bytes, {} were staged", out.len(), staged.bytes);
            return Err(Error::Input { name: "read-back".into(), problem });
        }
        let refused = |message: String| self.refused("mapping a read-back", message);
        if !self.settled(mapped)? {
            return Err(refused("the buffer could not be mapped".into()));
        }
        {
            let range = staged.staging.raw().slice(..staged.bytes.next_multiple_of(4));
            let view = range.get_mapped_range().map_err(|e| refused(e.to_string()))?;
            out.copy_from_slice(&view[..out.len()]);
        }
        staged.staging.raw().unmap();
        self.counters().read_back(staged.bytes);
        self.recycle(staged.staging);
        Ok(())
    }

    /// Copies the bytes of `source` from `offset` (a multiple of 4) on into `out`, blocking.
    ///
    /// # Errors
    /// As [`GpuContext::stage_read`] and [`GpuContext::wait`].
    pub fn read_back(&self, source: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut at = offset;
        for chunk in out.chunks_mut(LARGEST_STAGING as usize) {
            let (staged, submission) = self.submit_read(source, at, chunk.len() as u64)?;
            self.collect(staged, &submission, chunk)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// [`GpuContext::read_back`] without blocking the calling thread.
    ///
    /// # Errors
    /// As [`GpuContext::read_back`].
    pub async fn read_back_async(self: &Arc<Self>, source: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut at = offset;
        for chunk in out.chunks_mut(LARGEST_STAGING as usize) {
            let (staged, submission) = self.submit_read(source, at, chunk.len() as u64)?;
            self.collect_async(staged, submission, chunk).await?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// [`GpuContext::read_back`] or [`GpuContext::read_back_async`].
    ///
    /// # Errors
    /// As [`GpuContext::read_back`].
    pub(crate) async fn read_back_by(self: &Arc<Self>, wait: Wait, source: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        match wait {
            Wait::Thread => self.read_back(source, offset, out),
            Wait::Task => self.read_back_async(source, offset, out).await,
        }
    }

    fn submit_read(&self, source: &Buffer, offset: u64, bytes: u64) -> Result<(StagedRead, wgpu::SubmissionIndex)> {
        let mut staged = None;
        let submission = self.run("read-back", |encoder| {
            staged = Some(self.stage_read(encoder, source, offset, bytes)?);
            Ok(())
        })?;
        match staged {
            Some(staged) => Ok((staged, submission)),
            None => Err(Error::Device(DeviceError::Driver { what: "read-back".into(), message: "nothing was recorded".into() })),
        }
    }
}

/// Begins to map `bytes` bytes of a staging buffer, rounded up to 4.
fn map(staging: &wgpu::Buffer, bytes: u64, mapping: &Mapping) {
    let seen = mapping.clone();
    staging.map_async(wgpu::MapMode::Read, ..bytes.next_multiple_of(4), move |result| {
        seen.get_or_init(|| result.is_ok());
    });
}

#[cfg(test)]
mod tests;
