//! Ops that only move elements. On a GPU they become index arithmetic of whatever reads them.

use super::{OpDef, expect_operands};
use crate::{
    Result,
    ir::{Case, DType, Data, Dim, FixedType, Shape, Type, Value},
};

/// Row-major strides.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Moves elements: an output index reads the flat index `start + Σ index · stride`.
fn pick(value: &Value, output: &FixedType, strides: &[usize], start: usize) -> Result<Data> {
    fn run<T: Copy>(from: &[T], output: &FixedType, strides: &[usize], start: usize) -> Vec<T> {
        let width = output.last();
        let step = strides.last().copied().unwrap_or(1);
        let lead = output.shape.len().saturating_sub(1);
        let mut index = vec![0; lead];
        let mut at = start;
        let mut out = Vec::with_capacity(output.len());
        while out.len() < output.len() {
            match step {
                0 => out.extend(std::iter::repeat_n(from[at], width)),
                1 => out.extend_from_slice(&from[at..at + width]),
                _ => out.extend(from[at..].iter().step_by(step).take(width)),
            }
            for i in (0..lead).rev() {
                index[i] += 1;
                at += strides[i];
                if index[i] < output.shape[i] {
                    break;
                }
                at -= index[i] * strides[i];
                index[i] = 0;
            }
        }
        out
    }
    Ok(match &value.data {
        Data::F32(v) => Data::F32(run(v, output, strides, start)),
        Data::I32(v) => Data::I32(run(v, output, strides, start)),
        Data::U32(v) => Data::U32(run(v, output, strides, start)),
        Data::F16(_) | Data::Stored(_) => Data::F32(run(&value.to_f32()?, output, strides, start)),
    })
}

/// The type after moving elements: those of a word each stay what they are, narrower ones under [`Reshape`] alone.
fn moved(ty: &Type, shape: Shape) -> Type {
    Type { dtype: if ty.dtype.is_word() { ty.dtype } else { DType::F32 }, shape }
}

/// The same elements in order under other dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Reshape {
    /// The new dimensions.
    pub shape: Shape,
}

impl Reshape {
    pub(super) fn example() -> Self {
        Self { shape: [1].into() }
    }

    /// Symbolic dimensions must stay as they are, in order; the fixed ones must have one product.
    fn fits(from: &Shape, to: &Shape) -> bool {
        let product = |s: &Shape| s.0.iter().filter_map(|d| d.fixed()).product::<usize>();
        let symbols = |s: &Shape| s.0.iter().copied().filter(|d| d.fixed().is_none()).collect::<Vec<Dim>>();
        product(from) == product(to) && symbols(from) == symbols(to)
    }
}

impl OpDef for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x] = expect_operands(inputs)?;
        if !Self::fits(&x.shape, &self.shape) {
            return Err(format!("cannot reshape to {}", self.shape));
        }
        if matches!(x.dtype, DType::Packed(_)) {
            return Err(format!("cannot reshape rows of packed blocks ({})", x.dtype));
        }
        Ok(Type { dtype: x.dtype, shape: self.shape.clone() })
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        Ok(inputs[0].data.clone())
    }

    fn cases(&self) -> Vec<Case> {
        vec![Case::new("reshape", Reshape { shape: [6, 5].into() }, vec![Case::values(&[2, 3, 5], 1, 1.0)])]
    }
}

/// Output dimension `i` is input dimension `order[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Permute {
    /// A permutation of the dimensions.
    pub order: Vec<usize>,
}

impl Permute {
    pub(super) fn example() -> Self {
        Self { order: vec![1, 0] }
    }
}

impl OpDef for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn attributes(&self) -> String {
        format!("{:?}", self.order)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x] = expect_operands(inputs)?;
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        if sorted != (0..x.shape.rank()).collect::<Vec<_>>() {
            return Err(format!("{:?} is not a permutation of the dimensions", self.order));
        }
        Ok(moved(x, Shape(self.order.iter().map(|&i| x.shape.0[i]).collect())))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let from = strides(&inputs[0].shape);
        let by_output: Vec<usize> = self.order.iter().map(|&i| from[i]).collect();
        pick(inputs[0], output, &by_output, 0)
    }

    fn cases(&self) -> Vec<Case> {
        vec![Case::new("permute", Permute { order: vec![2, 0, 1] }, vec![Case::values(&[2, 3, 5], 1, 1.0)])]
    }
}

/// Repeats: dimensions are aligned from the innermost outwards, each is equal or 1 (or absent) in the operand.
#[derive(Debug, Clone, PartialEq)]
pub struct Broadcast {
    /// The new dimensions.
    pub shape: Shape,
}

impl Broadcast {
    pub(super) fn example() -> Self {
        Self { shape: [1].into() }
    }

    /// For each output dimension, the operand's stride; 0 where it repeats.
    pub(crate) fn source_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
        let own = strides(from);
        let lead = to.len() - from.len();
        (0..to.len()).map(|i| if i < lead || from[i - lead] == 1 { 0 } else { own[i - lead] }).collect()
    }
}

impl OpDef for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x] = expect_operands(inputs)?;
        let pairs = x.shape.0.iter().rev().zip(self.shape.0.iter().rev());
        if x.shape.rank() > self.shape.rank() || !pairs.into_iter().all(|(a, b)| a == b || a.fixed() == Some(1)) {
            return Err(format!("cannot broadcast to {}", self.shape));
        }
        Ok(moved(x, self.shape.clone()))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let from = Self::source_strides(&inputs[0].shape, &output.shape);
        pick(inputs[0], output, &from, 0)
    }

    fn cases(&self) -> Vec<Case> {
        let to = |shape: [usize; 3], x| Case::new(format!("{shape:?}"), Broadcast { shape: shape.into() }, vec![x]);
        vec![to([4, 3, 5], Case::values(&[3, 1], 1, 1.0)), to([2, 3, 5], Case::values(&[5], 2, 1.0))]
    }
}

/// `len` entries from `start` on along one dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// The dimension.
    pub axis: usize,
    /// First entry.
    pub start: usize,
    /// Number of entries.
    pub len: Dim,
}

impl Slice {
    pub(super) fn example() -> Self {
        Self { axis: 0, start: 0, len: 1.into() }
    }
}

impl OpDef for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn attributes(&self) -> String {
        format!("{{axis={}, start={}, len={}}}", self.axis, self.start, self.len)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x] = expect_operands(inputs)?;
        let size = *x.shape.0.get(self.axis).ok_or_else(|| format!("there is no dimension {}", self.axis))?;
        let inside = match (size.fixed(), self.len.fixed()) {
            (Some(size), Some(len)) => self.start + len <= size,
            _ => self.start == 0 && size == self.len,
        };
        if !inside {
            return Err(format!("{} entries from {} on exceed dimension {} of {size}", self.len, self.start, self.axis));
        }
        let mut shape = x.shape.clone();
        shape.0[self.axis] = self.len;
        Ok(moved(x, shape))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let from = strides(&inputs[0].shape);
        pick(inputs[0], output, &from, self.start * from[self.axis])
    }

    fn cases(&self) -> Vec<Case> {
        vec![Case::new("slice", Slice { axis: 1, start: 2, len: 3.into() }, vec![Case::values(&[2, 7, 5], 1, 1.0)])]
    }
}

/// Two values one after the other along one dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Concat {
    /// The dimension.
    pub axis: usize,
}

impl Concat {
    pub(super) fn example() -> Self {
        Self { axis: 0 }
    }
}

impl OpDef for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn attributes(&self) -> String {
        format!("{{axis={}}}", self.axis)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [a, b] = expect_operands(inputs)?;
        let others = |s: &Shape| s.0.iter().enumerate().filter(|(i, _)| *i != self.axis).map(|(_, d)| *d).collect::<Vec<_>>();
        let fits = self.axis < a.shape.rank() && a.dtype == b.dtype && a.shape.rank() == b.shape.rank();
        if !fits || others(&a.shape) != others(&b.shape) {
            return Err(format!("operands must agree in all but dimension {}", self.axis));
        }
        let mut shape = a.shape.clone();
        let x = a.shape.0[self.axis];
        let y = b.shape.0[self.axis];
        shape.0[self.axis] = x.checked_add(y).ok_or_else(|| format!("{x} and {y} make a size of more than two symbols"))?;
        Ok(moved(a, shape))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        fn join<T: Copy>(a: &[T], b: &[T], rows: usize) -> Vec<T> {
            let na = a.len() / rows.max(1);
            let nb = b.len() / rows.max(1);
            (0..rows).flat_map(|r| a[r * na..][..na].iter().chain(&b[r * nb..][..nb]).copied().collect::<Vec<T>>()).collect()
        }
        let rows: usize = output.shape[..self.axis].iter().product();
        Ok(match (&inputs[0].data, &inputs[1].data) {
            (Data::I32(a), Data::I32(b)) => Data::I32(join(a, b, rows)),
            (Data::U32(a), Data::U32(b)) => Data::U32(join(a, b, rows)),
            _ => Data::F32(join(&inputs[0].to_f32()?, &inputs[1].to_f32()?, rows)),
        })
    }

    fn cases(&self) -> Vec<Case> {
        let operands = vec![Case::values(&[2, 3, 4], 1, 1.0), Case::values(&[2, 5, 4], 2, 1.0)];
        vec![Case::new("concat", Concat { axis: 1 }, operands)]
    }
}
