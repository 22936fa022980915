//! A tensor as it lies in a file.

use std::sync::Arc;

use half::{
    f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};

use super::NO_NUMBERS;
use crate::{
    Error, Result,
    cancel::CancelToken,
    ir::{DType, Packed},
    quant::MAX_BLOCK_ELEMENTS,
};

/// Where a tensor's bytes come from: a memory map, positioned reads of a file, or memory.
pub trait TensorSource: Send + Sync {
    /// Fills `out` with the bytes at `offset` (in the source's own coordinates).
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// The recipe of the bytes, if they are random values that a device can make for itself.
    fn random(&self) -> Option<RandomFill> {
        None
    }
}

/// Random values, uniform in `[-scale, scale)`: a function of the seed and of the element's index alone, the same bits from the
/// host (this source's [`read`](TensorSource::read)) and from a device.
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
    /// A tensor of `shape` (row-major) whose bytes begin at `offset` of `source`; the caller has checked that they are there.
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

    /// The same rows as one matrix: a stack `[E, N, K]` is `[E·N, K]` then.
    pub fn into_matrix(mut self) -> Self {
        if let [lead @ .., rows, columns] = &self.shape[..] {
            self.shape = vec![lead.iter().product::<usize>() * rows, *columns];
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

    /// Whether there are no elements.
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

    /// Widens the elements from element `start` on into `out`. Integers are not weights and are refused.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        match self.dtype {
            DType::F32 => self.read_bytes(4 * start, bytemuck::cast_slice_mut(out)),
            DType::Packed(format) => self.read_packed(format, start, out),
            DType::F16 | DType::BF16 => {
                // As many at a time as a near cache holds: each time is a system call.
                const AT_ONCE: usize = 16384;
                let mut raw = [0u16; AT_ONCE];
                for (i, out) in out.chunks_mut(raw.len()).enumerate() {
                    let raw = &mut raw[..out.len()];
                    self.read_bytes(2 * (start + i * AT_ONCE), bytemuck::cast_slice_mut(raw))?;
                    // One loop a type: a function chosen for each element would be called for each.
                    match self.dtype {
                        DType::F16 => raw.reinterpret_cast::<f16>().convert_to_f32_slice(out),
                        _ => out.iter_mut().zip(raw).for_each(|(o, bits)| *o = f32::from_bits(u32::from(*bits) << 16)),
                    }
                }
                Ok(())
            }
            DType::I32 | DType::U32 => {
                let (name, found) = (self.name.clone(), self.dtype.to_string());
                Err(Error::WeightType { name, found, advice: NO_NUMBERS.to_string() })
            }
        }
    }

    /// As [`read_f32`](Self::read_f32): whole blocks straight into `out`, and of the first and the last what is asked for.
    fn read_packed(&self, format: Packed, start: usize, out: &mut [f32]) -> Result<()> {
        // Blocks that are read at a time, as above.
        const BYTES: usize = 32768;
        let (elements, bytes) = self.dtype.block();
        let mut raw = [0; BYTES];
        let mut one = [0.0; MAX_BLOCK_ELEMENTS];
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let (block, skip) = (at / elements, at % elements);
            let whole = if skip == 0 { (rest.len() / elements).min(BYTES / bytes) } else { 0 };
            let raw = &mut raw[..whole.max(1) * bytes];
            self.read_bytes(block * bytes, raw)?;
            let count = if whole > 0 { whole * elements } else { rest.len().min(elements - skip) };
            let (now, later) = rest.split_at_mut(count);
            if whole > 0 {
                format.widen(raw, now);
            } else {
                format.widen(raw, &mut one[..elements]);
                now.copy_from_slice(&one[skip..skip + count]);
            }
            (at, rest) = (at + count, later);
        }
        Ok(())
    }

    /// All elements widened: a copy of the whole tensor, for small ones and for tools.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
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
}
