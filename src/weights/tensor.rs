//! A tensor as it lies in a file.

use std::sync::Arc;

use super::NO_NUMBERS;
use crate::{
    Error, Result,
    cancel::CancelToken,
    error::WeightError,
    quant::DType,
    quant::{MAX_BLOCK_ELEMENTS, rows::Rows},
};

/// Where a tensor's bytes come from: a memory map, positioned reads of a file, or memory.
pub trait TensorSource: Send + Sync {
    /// Fills `out` with the bytes at `offset` (in the source's own coordinates).
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// The `len` bytes at `offset` where they lie, for a source that has them in memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn lend(&self, _offset: u64, _len: usize) -> Result<Option<&[u8]>> {
        Ok(None)
    }

    /// Has the bytes in memory from now on, for whoever reads them many times, where the source does so; `go_on` is
    /// asked on the way.
    ///
    /// # Errors
    /// As [`read`](Self::read), and what `go_on` says.
    fn keep(&self, _go_on: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        Ok(())
    }

    /// The recipe of the bytes, if they are random values that a device can make for itself.
    fn random(&self) -> Option<RandomFill> {
        None
    }
}

/// The advice for an element type that has no random values.
pub(crate) const RANDOM: &str = "random values are made in F32, F16 and BF16";

/// Random values, uniform in `[-scale, scale)`: a function of the seed and of the element's index alone, the same bits
/// from the host (this source's [`read`](TensorSource::read)) and from a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomFill {
    /// The tensor's seed.
    pub seed: u32,
    /// Half the width of the interval.
    pub scale: f32,
}

/// Typed bytes of one weight, shared with the file they lie in; cheap to clone.
#[derive(Clone)]
pub struct Tensor {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    source: Arc<dyn TensorSource>,
    offset: u64,
}

impl Tensor {
    /// A tensor of `shape` (row-major) whose bytes begin at `offset` of `source`; the caller has checked that they are
    /// there.
    pub fn new(name: impl Into<String>, dtype: DType, shape: Vec<usize>, source: Arc<dyn TensorSource>, offset: u64) -> Self {
        Self { name: name.into(), dtype, shape, source, offset }
    }

    /// A tensor over values in memory.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes: Vec<u8> = bytemuck::cast_slice(values).to_vec();
        Self::new(name, DType::F32, shape, Arc::new(Memory(bytes)), 0)
    }

    /// A tensor over bytes in memory, which must hold exactly the elements of `shape`.
    ///
    /// # Errors
    /// [`Error::Input`] for another number of bytes, or rows that are no whole blocks of a packed format.
    pub fn from_bytes(name: impl Into<String>, dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self> {
        let name = name.into();
        dtype.check_row(shape.last().copied().unwrap_or(1)).map_err(|problem| {
            let problem = format!("has {problem}");
            Error::Input { name: name.clone(), problem }
        })?;
        let found = bytes.len();
        if shape.iter().try_fold(1usize, |elements, size| elements.checked_mul(*size)).is_none() {
            let problem = format!("has {found} bytes, {dtype} {shape:?} needs more than memory addresses");
            return Err(Error::Input { name, problem });
        }
        let tensor = Self::new(name, dtype, shape, Arc::new(Memory(bytes)), 0);
        if tensor.byte_len() != found {
            let problem = format!("has {found} bytes, {dtype} {:?} needs {}", tensor.shape, tensor.byte_len());
            return Err(Error::Input { name: tensor.name, problem });
        }
        Ok(tensor)
    }

    /// The name in the checkpoint, without its prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element type in storage.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Row-major dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The same under another name.
    pub(super) fn renamed(self, name: &str) -> Self {
        Self { name: name.to_string(), ..self }
    }

    /// The same elements in order under other dimensions, of which there are as many.
    pub(crate) fn with_shape(self, shape: &[usize]) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), self.len(), "a reshaped tensor has all elements");
        Self { shape: shape.to_vec(), ..self }
    }

    /// Its first `rows`, or all where it has no more.
    pub(crate) fn first_rows(mut self, rows: usize) -> Self {
        if let Some(first) = self.shape.first_mut() {
            *first = rows.min(*first);
        }
        self
    }

    /// The same tensor, which cannot be read once `cancel` is cancelled.
    pub(crate) fn unless(&self, cancel: &CancelToken) -> Self {
        let source = Arc::new(Unless { source: self.source.clone(), cancel: cancel.clone() });
        Self { source, ..self.clone() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes, as stored.
    pub fn byte_len(&self) -> usize {
        let (elements, bytes) = self.dtype.block();
        self.len() / elements * bytes
    }

    /// The recipe of the elements, if they are random values that a device can make for itself.
    pub fn random(&self) -> Option<RandomFill> {
        // A recipe counts elements from the source's first byte on.
        self.source.random().filter(|_| self.offset == 0)
    }

    /// Copies the stored bytes from byte `start` on into `out`.
    pub fn read_bytes(&self, start: usize, out: &mut [u8]) -> Result<()> {
        debug_assert!(start + out.len() <= self.byte_len(), "read past the end of '{}'", self.name);
        self.source.read(self.offset + start as u64, out)
    }

    /// The stored bytes from byte `start` on: where they lie, else copied into `buffer`.
    pub(crate) fn bytes<'a>(&'a self, start: usize, len: usize, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        debug_assert!(start + len <= self.byte_len(), "read past the end of '{}'", self.name);
        if let Some(bytes) = self.lend(start, len)? {
            return Ok(bytes);
        }
        buffer.resize(len, 0);
        self.read_bytes(start, buffer)?;
        Ok(buffer)
    }

    /// The stored bytes from byte `start` on where they lie, if that is in memory.
    pub(super) fn lend(&self, start: usize, len: usize) -> Result<Option<&[u8]>> {
        self.source.lend(self.offset + start as u64, len)
    }

    /// As [`TensorSource::keep`].
    pub(crate) fn keep(&self, go_on: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        self.source.keep(go_on)
    }

    /// Operations on the stored rows. Integers are not weights and are refused.
    pub(crate) fn rows(&self) -> Result<&'static Rows> {
        self.dtype.rows().ok_or_else(|| {
            let name = self.name.clone();
            let found = self.dtype.to_string();
            Error::Weight(WeightError::Type { name, found, advice: NO_NUMBERS.to_string() })
        })
    }

    /// Widens the elements from element `start` on into `out`. Integers are not weights and are refused.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        // As many at a time as a near cache holds: each time may be a system call.
        const BYTES: usize = 32768;
        let rows = self.rows()?;
        let (elements, bytes) = self.dtype.block();
        let mut raw = Vec::new();
        let mut one = [0.0; MAX_BLOCK_ELEMENTS];
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / elements;
            let skip = at % elements;
            // Whole blocks straight into `out`, and of the first and the last what is asked for.
            let whole = if skip == 0 { (rest.len() / elements).min(BYTES / bytes) } else { 0 };
            let raw = self.bytes(block * bytes, whole.max(1) * bytes, &mut raw)?;
            let count = if whole > 0 { whole * elements } else { rest.len().min(elements - skip) };
            let (now, later) = rest.split_at_mut(count);
            if whole > 0 {
                rows.widen(raw, now);
            } else {
                rows.widen(raw, &mut one[..elements]);
                now.copy_from_slice(&one[skip..skip + count]);
            }
            (at, rest) = (at + count, later);
        }
        Ok(())
    }

    /// All elements widened: a copy of the whole tensor, for small ones and for tools.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        if self.len() > isize::MAX as usize / size_of::<f32>() {
            let problem = format!("has {} elements, more than memory holds as f32 at once", self.len());
            return Err(Error::Input { name: self.name.clone(), problem });
        }
        let mut out = vec![0.0; self.len()];
        self.read_f32(0, &mut out)?;
        Ok(out)
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype, self.shape)
    }
}

/// A source that is not read after a token was cancelled.
struct Unless {
    source: Arc<dyn TensorSource>,
    cancel: CancelToken,
}

impl TensorSource for Unless {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.cancel.check("a run of the model")?;
        self.source.read(offset, out)
    }

    fn lend(&self, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        self.cancel.check("a run of the model")?;
        self.source.lend(offset, len)
    }

    fn keep(&self, go_on: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        self.source.keep(&|| self.cancel.check("a run of the model").and_then(|()| go_on()))
    }

    fn random(&self) -> Option<RandomFill> {
        self.source.random()
    }
}

struct Memory(Vec<u8>);

impl TensorSource for Memory {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = offset as usize;
        out.copy_from_slice(&self.0[start..start + out.len()]);
        Ok(())
    }

    fn lend(&self, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        Ok(Some(&self.0[offset as usize..][..len]))
    }
}
