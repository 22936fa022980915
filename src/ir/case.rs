//! Inputs on which a kernel must agree with the meaning of its op.

use std::fmt::Display;

use half::{bf16, f16};

use super::{
    DType, Data, Graph, Op, Packed, Type, Value,
    ops::{Input, Role},
};
use crate::{Result, weights::Tensor};

/// One op with operands. Stored operands stand for weights.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name, which says what is special about it.
    pub name: String,
    /// The op.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<Value>,
}

impl Case {
    /// A case.
    pub fn new(name: impl Display, op: impl Into<Op>, inputs: Vec<Value>) -> Self {
        Self { name: name.to_string(), op: op.into(), inputs }
    }

    /// A graph of the op alone, whose result is called `result`. Stored operands are weights; a cache that is written
    /// is a cache.
    ///
    /// # Errors
    /// [`GraphError::Operands`](crate::error::GraphError::Operands) where the op does not take the operands.
    pub fn graph(&self) -> Result<Graph> {
        let mut graph = Graph::new(self.op.name());
        let mut operands = Vec::new();
        for (i, value) in self.inputs.iter().enumerate() {
            let name = format!("operand {i}");
            let role = if i == 0 && matches!(self.op, Op::CacheWrite(_)) { Role::Cache } else { Role::Caller };
            operands.push(match &value.data {
                Data::Stored(tensor) => graph.weight(name, tensor.dtype(), &value.shape)?,
                _ => graph.push(Input { name, role, ty: Type::new(value.dtype(), value.shape.as_slice()) }, &[])?,
            });
        }
        let result = graph.push(self.op.clone(), &operands)?;
        graph.output("result", result);
        Ok(graph)
    }

    /// The innermost dimension of the first operand, 1 without any.
    pub(crate) fn width(&self) -> usize {
        self.inputs.first().and_then(|value| value.shape.last()).map_or(1, |width| *width)
    }

    /// The largest absolute value of operand `n`.
    pub(crate) fn largest(&self, n: usize) -> f64 {
        self.inputs[n].numbers().iter().fold(0.0, |most: f64, x| most.max(x.abs()))
    }

    /// Numbers in ±`scale`, the same for the same seed.
    pub fn numbers(len: usize, seed: u64, scale: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..len).map(|_| (next() * 2.0 - 1.0) * scale).collect()
    }

    /// An f32 operand in ±`scale`.
    pub fn values(shape: &[usize], seed: u64, scale: f32) -> Value {
        Value::f32(shape, Self::numbers(shape.iter().product(), seed, scale))
    }

    /// An f16 operand in ±`scale`, such as a cache that is kept narrow.
    pub fn halves(shape: &[usize], seed: u64, scale: f32) -> Value {
        Value::f16(shape, &Self::numbers(shape.iter().product(), seed, scale))
    }

    /// An f32 operand in 0.1 to 2.1.
    pub fn positive(shape: &[usize], seed: u64) -> Value {
        Value::f32(shape, Self::numbers(shape.iter().product(), seed, 1.0).iter().map(|x| x + 1.1).collect::<Vec<_>>())
    }

    /// A weight in ±`scale`, stored as `dtype`; of a packed format random blocks with numbers of their own.
    pub fn weight(shape: &[usize], seed: u64, scale: f32, dtype: DType) -> Value {
        let numbers = Self::numbers(shape.iter().product(), seed, scale);
        let bytes: Vec<u8> = match dtype {
            DType::F16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            DType::BF16 => numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            DType::Packed(format) => Self::blocks(format, numbers.len() / format.block_elements(), seed),
            DType::F32 | DType::I32 | DType::U32 => bytemuck::cast_slice(&numbers).to_vec(),
        };
        let dtype = if dtype.is_word() { DType::F32 } else { dtype };
        let tensor = Tensor::from_bytes(format!("weight{seed}"), dtype, shape.to_vec(), bytes);
        // Only rows that are no whole blocks are refused.
        Value::stored(tensor.unwrap_or_else(|_| Tensor::from_f32(format!("weight{seed}"), shape.to_vec(), &numbers)))
    }

    /// Random blocks of a packed format, with factors of 0.005 to 0.01 of either sign.
    fn blocks(format: Packed, count: usize, seed: u64) -> Vec<u8> {
        let noise = Self::numbers(count * format.block_bytes(), seed, 128.0);
        let mut blocks: Vec<u8> = noise.iter().map(|x| (x + 128.0) as u8).collect();
        for (block, noise) in blocks.chunks_exact_mut(format.block_bytes()).zip(noise.chunks_exact(format.block_bytes())) {
            for (factor, x) in block[format.factors()].chunks_mut(2).zip(noise).take(2) {
                match factor {
                    [low, high] => [*low, *high] = f16::from_f32((x.signum() * 128.0 + x) / 25600.0).to_le_bytes(),
                    // A power of two.
                    [exponent] => *exponent = 118 + *exponent % 4,
                    _ => {}
                }
            }
        }
        blocks
    }
}
