//! Brings weights to the device, in their storage type, without a host copy of any whole tensor.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    context::GpuContext,
    packed_rows::PackedRows,
    random::RandomFill,
    resident::{Arenas, Piece, ResidentWeight, Shard, split},
    staging_ring::StagingRing,
};
use crate::{
    Error, Result,
    error::WeightError,
    ir::DType,
    platform,
    weights::{RANDOM, Tensor},
};

/// The work, as errors name it.
const UPLOAD: &str = "an upload";

/// The progress of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UploadPhase {
    /// Memory is about to be allocated.
    Reserving,
    /// A portion of the weights has moved.
    Moving,
    /// Everything has moved, and what the device has not yet copied is about to be waited for. A generator then also
    /// waits for the kernels of its first runs, which are compiled meanwhile.
    Finishing,
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadProgress {
    /// The present phase.
    pub phase: UploadPhase,
    /// Bytes moved so far.
    pub done: u64,
    /// Bytes that were reserved, or moved so far if that is more.
    pub total: u64,
}

/// Called before the device's memory is reserved, while weights travel to it, and before the end is waited for; `false`
/// cancels.
pub type OnProgress = Box<dyn FnMut(UploadProgress) -> bool + Send>;

/// Uploads weights. A weight may be used once [`WeightUploader::finish`] has returned.
///
/// ```text
/// let mut uploader = WeightUploader::new(&context)?;
/// uploader.reserve(tensors.iter().map(|t| (t.dtype(), t.shape())))?;
/// let weights = tensors.iter().map(|t| uploader.upload(t)).collect::<Result<Vec<_>>>()?;
/// uploader.finish()?;
/// ```
#[must_use = "weights are usable after finish()"]
pub struct WeightUploader {
    context: Arc<GpuContext>,
    ring: StagingRing,
    arenas: Arenas,
    progress: UploadProgress,
    on_progress: Option<OnProgress>,
    random: Option<RandomFill>,
}

impl WeightUploader {
    /// An uploader with its staging buffers (24 MiB), which live until [`WeightUploader::finish`].
    ///
    /// # Errors
    /// As [`GpuContext::create_buffer`].
    pub fn new(context: &Arc<GpuContext>) -> Result<Self> {
        Ok(Self {
            context: context.clone(),
            ring: StagingRing::new(context)?,
            arenas: Arenas::default(),
            progress: UploadProgress { phase: UploadPhase::Reserving, done: 0, total: 0 },
            on_progress: None,
            random: None,
        })
    }

    /// Calls `on_progress` before memory is reserved, after every portion of at most 1 MiB, and now and again while the
    /// device is waited for, at the end at least once; `false` stops the upload with [`Error::Cancelled`].
    pub fn on_progress(mut self, on_progress: impl FnMut(UploadProgress) -> bool + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(on_progress));
        self
    }

    /// Allocates the memory of all these weights at once, exactly as much as they need when uploaded in this order.
    /// Weights that were not reserved get buffers of their own.
    ///
    /// # Errors
    /// [`DeviceError::Limit`](crate::error::DeviceError::Limit) for a row larger than a binding;
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory), [`Error::Cancelled`].
    pub fn reserve<'a>(&mut self, weights: impl IntoIterator<Item = (DType, &'a [usize])>) -> Result<()> {
        let mut pieces: Vec<Piece> = Vec::new();
        for (dtype, shape) in weights {
            pieces.extend(split(self.context.capabilities(), "weight", dtype, shape)?);
        }
        self.progress.total += pieces.iter().map(|piece| piece.bytes).sum::<u64>();
        report(&mut self.progress, &mut self.on_progress, UploadPhase::Reserving)?;
        self.arenas.reserve(&self.context, &pieces)
    }

    /// Uploads a tensor as it is stored, rows of packed formats arranged as [`Packed`](crate::ir::Packed) says. Random
    /// values ([`Tensor::random`]) are made on the device instead.
    ///
    /// # Errors
    /// Those of reading the tensor; [`DeviceError::Limit`](crate::error::DeviceError::Limit),
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory), [`Error::Cancelled`],
    /// [`DeviceError::Lost`](crate::error::DeviceError::Lost).
    pub fn upload(&mut self, tensor: &Tensor) -> Result<ResidentWeight> {
        platform::wait(UPLOAD, self.upload_async(tensor))
    }

    /// As [`upload`](Self::upload). Where no thread may wait for the device the future does, whenever it was given some
    /// megabytes; elsewhere the thread that polls it does the work.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub async fn upload_async(&mut self, tensor: &Tensor) -> Result<ResidentWeight> {
        if let Some(fill) = tensor.random() {
            return self.upload_random(tensor.shape(), tensor.dtype(), fill.seed, fill.scale);
        }
        let name = tensor.name();
        let dtype = tensor.dtype();
        let shape = tensor.shape();
        match PackedRows::of(tensor)? {
            Some(mut rows) => self.upload_with(name, dtype, shape, |start, out| rows.read(start, out)).await,
            None => self.upload_with(name, dtype, shape, |start, out| tensor.read_bytes(start as usize, out)).await,
        }
    }

    /// Uploads host values as a weight of shape `[values.len()]` in F32.
    ///
    /// # Errors
    /// As [`WeightUploader::upload`].
    pub fn upload_f32(&mut self, values: &[f32]) -> Result<ResidentWeight> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let read = |start: u64, out: &mut [u8]| {
            out.copy_from_slice(&bytes[start as usize..start as usize + out.len()]);
            Ok(())
        };
        platform::wait(UPLOAD, self.upload_with("values", DType::F32, &[values.len()], read))
    }

    /// Makes a weight on the device without any host bytes: uniform in `[-scale, scale)`, a function of `seed` and the
    /// element's index alone. For measurements without a checkpoint.
    ///
    /// # Errors
    /// [`WeightError::Type`] for integers and packed formats; [`DeviceError::Limit`](crate::error::DeviceError::Limit),
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory), [`Error::Cancelled`].
    pub fn upload_random(&mut self, shape: &[usize], dtype: DType, seed: u32, scale: f32) -> Result<ResidentWeight> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::Weight(WeightError::Type {
                name: "random".into(),
                found: dtype.to_string(),
                advice: RANDOM.to_string(),
            }));
        }
        let shards = self.place("random", dtype, shape)?;
        let fill = match self.random.take() {
            Some(fill) => fill,
            None => RandomFill::new(&self.context)?,
        };
        let row_elements: usize = shape.get(1..).unwrap_or(&[]).iter().product();
        for shard in &shards {
            fill.fill(&self.context, shard, row_elements, dtype, seed, scale)?;
            advance(&mut self.progress, &mut self.on_progress, shard.bytes)?;
        }
        self.random = Some(fill);
        Ok(ResidentWeight { dtype, shape: shape.to_vec(), shards })
    }

    /// Waits until the device has everything, and frees the staging buffers.
    ///
    /// # Errors
    /// As [`GpuContext::wait`]; [`Error::Cancelled`].
    pub fn finish(self) -> Result<()> {
        platform::wait("the end of an upload", self.finish_async())
    }

    /// As [`finish`](Self::finish), as a future like that of [`upload_async`](Self::upload_async).
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub async fn finish_async(mut self) -> Result<()> {
        let progress = &mut self.progress;
        let on_progress = &mut self.on_progress;
        let mut go_on = || report(progress, on_progress, UploadPhase::Finishing);
        self.ring.finish(&self.context, &mut go_on).await
    }

    fn place(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<Vec<Shard>> {
        let pieces = split(self.context.capabilities(), name, dtype, shape)?;
        self.arenas.place(&self.context, pieces)
    }

    async fn upload_with(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()> + Send,
    ) -> Result<ResidentWeight> {
        let shards = self.place(name, dtype, shape)?;
        let progress = &mut self.progress;
        let on_progress = &mut self.on_progress;
        let mut before = 0;
        for shard in &shards {
            self.ring
                .push(
                    &self.context,
                    &shard.buffer,
                    shard.offset,
                    shard.bytes,
                    &mut |start, out| read(before + start, out),
                    &mut |moved| advance(progress, on_progress, moved),
                )
                .await?;
            before += shard.bytes;
        }
        Ok(ResidentWeight { dtype, shape: shape.to_vec(), shards })
    }
}

fn advance(progress: &mut UploadProgress, on_progress: &mut Option<OnProgress>, moved: u64) -> Result<()> {
    progress.done += moved;
    progress.total = progress.total.max(progress.done);
    report(progress, on_progress, UploadPhase::Moving)
}

fn report(progress: &mut UploadProgress, on_progress: &mut Option<OnProgress>, phase: UploadPhase) -> Result<()> {
    progress.phase = phase;
    let Some(go_on) = on_progress else { return Ok(()) };
    match catch_unwind(AssertUnwindSafe(|| go_on(*progress))) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Cancelled("the upload of the weights")),
        Err(panic) => Err(Error::panicked("the callback for load progress", panic.as_ref())),
    }
}
