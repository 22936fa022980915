//! Concrete types and host arrays, which the reference computes with.

use std::borrow::Cow;

use half::f16;

use super::{DType, Shape};
use crate::{Error, Result, weights::Tensor};

/// Element type and symbolic shape of a node.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Shape,
}

impl Type {
    /// A type.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        Self { dtype, shape: shape.into() }
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

impl std::fmt::Debug for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Element type and shape without symbols.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FixedType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl FixedType {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the elements in memory; `None` for a packed format, which weights alone may have, and for more than
    /// memory addresses.
    pub fn byte_len(&self) -> Option<usize> {
        self.device_bytes().and_then(|bytes| usize::try_from(bytes).ok())
    }

    /// Bytes of the elements in a buffer of a device, which may have more than the host addresses; `None` for a packed
    /// format.
    pub(crate) fn device_bytes(&self) -> Option<u64> {
        self.dtype.scalar_bytes().map(|bytes| self.len() as u64 * bytes as u64)
    }

    /// Returns `true` if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The innermost dimension; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows: the product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

/// Elements on the host.
#[derive(Debug, Clone)]
pub enum Data {
    /// Activations.
    F32(Vec<f32>),
    /// Keys and values in a cache that is kept narrow.
    F16(Vec<f16>),
    /// Positions.
    I32(Vec<i32>),
    /// Token ids and indices.
    U32(Vec<u32>),
    /// A weight as it lies in its file; widened a tile at a time by whoever uses it.
    Stored(Tensor),
}

/// A host array.
#[derive(Debug, Clone)]
pub struct Value {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Row-major elements.
    pub data: Data,
}

impl Data {
    /// The elements as a device holds them; none of a stored weight, which is not held here.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Data::F32(values) => bytemuck::cast_slice(values),
            Data::F16(values) => bytemuck::cast_slice(values),
            Data::I32(values) => bytemuck::cast_slice(values),
            Data::U32(values) => bytemuck::cast_slice(values),
            Data::Stored(_) => &[],
        }
    }

    /// As [`bytes`](Self::bytes), to write into.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Data::F32(values) => bytemuck::cast_slice_mut(values),
            Data::F16(values) => bytemuck::cast_slice_mut(values),
            Data::I32(values) => bytemuck::cast_slice_mut(values),
            Data::U32(values) => bytemuck::cast_slice_mut(values),
            Data::Stored(_) => &mut [],
        }
    }
}

impl Value {
    /// All elements in f64; none of a stored value that cannot be read.
    pub(crate) fn numbers(&self) -> Vec<f64> {
        match &self.data {
            Data::I32(numbers) => numbers.iter().map(|&x| x.into()).collect(),
            Data::U32(numbers) => numbers.iter().map(|&x| x.into()).collect(),
            _ => self.to_f32().map_or_else(|_| Vec::new(), |numbers| numbers.iter().map(|&x| x.into()).collect()),
        }
    }

    /// An f32 array.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self { shape: shape.into(), data: Data::F32(data) }
    }

    /// An f16 array of these numbers, rounded as [`narrow`](Self::narrow) does.
    pub fn f16(shape: impl Into<Vec<usize>>, data: &[f32]) -> Self {
        Self { shape: shape.into(), data: Data::F16(data.iter().map(|x| Self::narrow(*x)).collect()) }
    }

    /// The nearest f16 within ±65504, the largest that is finite.
    pub fn narrow(x: f32) -> f16 {
        f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
    }

    /// A u32 array.
    pub fn u32(shape: impl Into<Vec<usize>>, data: Vec<u32>) -> Self {
        Self { shape: shape.into(), data: Data::U32(data) }
    }

    /// An i32 array.
    pub fn i32(shape: impl Into<Vec<usize>>, data: Vec<i32>) -> Self {
        Self { shape: shape.into(), data: Data::I32(data) }
    }

    /// A stored weight.
    pub fn stored(tensor: Tensor) -> Self {
        Self { shape: tensor.shape().to_vec(), data: Data::Stored(tensor) }
    }

    /// The elements as a device holds them; none of a stored weight, which is not held here.
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// The value whose [`bytes`](Self::bytes) these are.
    pub fn from_bytes(ty: &FixedType, bytes: &[u8]) -> Self {
        let data = match ty.dtype {
            DType::I32 => Data::I32(bytemuck::pod_collect_to_vec(bytes)),
            DType::U32 => Data::U32(bytemuck::pod_collect_to_vec(bytes)),
            DType::F16 => Data::F16(bytemuck::pod_collect_to_vec(bytes)),
            _ => Data::F32(bytemuck::pod_collect_to_vec(bytes)),
        };
        Self { shape: ty.shape.clone(), data }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns `true` if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Data::F32(_) => DType::F32,
            Data::F16(_) => DType::F16,
            Data::I32(_) => DType::I32,
            Data::U32(_) => DType::U32,
            Data::Stored(t) => t.dtype(),
        }
    }

    /// All elements as f32: borrowed where they are, widened from f16 and from a stored weight, converted from
    /// integers.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>> {
        Ok(match &self.data {
            Data::F32(v) => Cow::Borrowed(v),
            Data::F16(v) => Cow::Owned(v.iter().map(|x| x.to_f32()).collect()),
            Data::I32(v) => Cow::Owned(v.iter().map(|&x| x as f32).collect()),
            Data::U32(v) => Cow::Owned(v.iter().map(|&x| x as f32).collect()),
            Data::Stored(t) => Cow::Owned(t.to_f32()?),
        })
    }

    /// The elements of an integer array as indices.
    pub fn to_indices(&self) -> Result<Vec<usize>> {
        match &self.data {
            Data::U32(v) => Ok(v.iter().map(|&x| x as usize).collect()),
            Data::I32(v) => v.iter().map(|&x| usize::try_from(x).map_err(|_| self.not("non-negative indices"))).collect(),
            Data::F32(_) | Data::F16(_) | Data::Stored(_) => Err(self.not("integers")),
        }
    }

    fn not(&self, expected: &str) -> Error {
        Error::Input { name: "operand".into(), problem: format!("found {} values, expected {expected}", self.dtype()) }
    }
}

#[cfg(test)]
mod tests;
