//! New rows into a cache.

use std::ops::Range;

use super::{Lowering, OpDef, expect_operands};
use crate::{
    Error, Result,
    ir::{
        Case, DType, Data, FixedType, Type, Value,
        emit::Emit,
        kernel::{Kernel, Operand},
        work::Work,
    },
};

/// `cache[b, positions[b, t] mod S, …] = rows[b, t, …]`; everything else stays.
///
/// Cache `[B, S, …]`, rows `[B, T, …]` of the same type, or f32 rows into an f16 cache, which rounds them
/// ([`Value::narrow`]); positions `[B, T]`. A cache of `S` rows is a ring that always holds the last `S` positions
/// written; one that is as long as the context is simply never wrapped. The meaning is functional; on a device the
/// cache is donated and written in place.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheWrite;

/// Where the rows of a write go, in order: elements of the cache.
fn places(cache: &Value, positions: &Value) -> Result<impl Iterator<Item = Range<usize>> + use<>> {
    let slots = cache.shape[1];
    let width = cache.shape[2..].iter().product::<usize>();
    let per_batch = positions.shape[1].max(1);
    let rows = positions.to_indices()?.into_iter().enumerate();
    let first = move |(i, position)| ((i / per_batch) * slots + position % slots) * width;
    Ok(rows.map(first).map(move |first| first..first + width))
}

impl CacheWrite {
    /// Writes the rows where the cache is.
    pub(crate) fn write(&self, cache: &mut Value, rows: &Value, positions: &Value) -> Result<()> {
        fn copy<T: Copy>(cache: &mut [T], rows: &[T], places: impl Iterator<Item = Range<usize>>) {
            let mut rest = rows;
            for place in places {
                let (row, later) = rest.split_at(place.len());
                cache[place].copy_from_slice(row);
                rest = later;
            }
        }
        let places = places(cache, positions)?;
        match (&mut cache.data, &rows.data) {
            (Data::I32(c), Data::I32(r)) => copy(c, r, places),
            (Data::U32(c), Data::U32(r)) => copy(c, r, places),
            (Data::F16(c), Data::F16(r)) => copy(c, r, places),
            (Data::F16(c), _) => copy(c, &rows.to_f32()?.iter().map(|x| Value::narrow(*x)).collect::<Vec<_>>(), places),
            (Data::F32(c), _) => copy(c, &rows.to_f32()?, places),
            _ => return Err(Error::Unsupported(format!("writing {} rows into a cache of {}", rows.dtype(), cache.dtype()))),
        }
        Ok(())
    }

    /// The rows that a write at these positions replaces.
    pub(crate) fn replaced(&self, cache: &Value, positions: &Value) -> Result<Value> {
        fn copy<T: Copy>(cache: &[T], places: impl Iterator<Item = Range<usize>>) -> Vec<T> {
            places.flat_map(|place| cache[place].iter().copied()).collect()
        }
        let places = places(cache, positions)?;
        let data = match &cache.data {
            Data::I32(c) => Data::I32(copy(c, places)),
            Data::U32(c) => Data::U32(copy(c, places)),
            Data::F16(c) => Data::F16(copy(c, places)),
            _ => Data::F32(copy(&cache.to_f32()?, places)),
        };
        let shape = positions.shape.iter().chain(&cache.shape[2..]).copied().collect();
        Ok(Value { shape, data })
    }

    pub(super) fn example() -> Self {
        Self
    }
}

impl OpDef for CacheWrite {
    fn name(&self) -> &'static str {
        "cache_write"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [cache, rows, positions] = expect_operands(inputs)?;
        let rounds = (cache.dtype, rows.dtype) == (DType::F16, DType::F32);
        let fits = (cache.dtype == rows.dtype || rounds)
            && cache.shape.rank() == rows.shape.rank()
            && cache.shape.rank() >= 2
            && cache.shape.0[0] == rows.shape.0[0]
            && cache.shape.0[2..] == rows.shape.0[2..]
            && rows.shape.0[..2] == positions.shape.0[..];
        if !fits {
            return Err("expected a cache [B, S, …], rows [B, T, …] of its type (or f32 for f16) and positions [B, T]".into());
        }
        Ok(cache.clone())
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        let mut cache = inputs[0].clone();
        self.write(&mut cache, inputs[1], inputs[2])?;
        Ok(cache.data)
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let rows = emit.inputs[1].ty.clone();
        let batch = rows.shape[0];
        let new = rows.shape[1];
        let width = rows.len() / (batch * new).max(1);
        let overrides = vec![("B", batch as f64), ("T", new as f64), ("S", emit.output.rows_override()), ("C", width as f64)];
        let narrow = emit.output.ty.dtype == DType::F16;
        let wide = emit.inputs[1].ty.dtype == DType::F32;
        if narrow && (!wide || !width.is_multiple_of(2)) {
            return Err(emit.refuse(format!("no kernel writes {width} {} a row into an f16 cache", rows.dtype)));
        }
        let count = rows.len() / if narrow { 2 } else { 1 };
        let options = vec![("LANES", "64".into()), ("KV", if narrow { "f16" } else { "f32" }.into())];
        let kernel = Kernel { shader: "cache_write", options, overrides, hole: String::new() };
        let bindings =
            vec![(0, emit.inputs[1].operand()), (1, emit.output.operand()), (2, emit.inputs[2].operand()), (8, Operand::Step)];
        let written = if narrow { 2 } else { 4 };
        emit.dispatch(kernel, bindings, [count.div_ceil(64), 1], Work::moves(rows.len() as u64 * (4 + written)));
        Ok(())
    }

    fn cases(&self) -> Vec<Case> {
        let case = |name: &str, slots: usize, positions: Vec<i32>| {
            let new = positions.len() / 2;
            let operands = vec![
                Case::values(&[2, slots, 3, 4], 1, 1.0),
                Case::values(&[2, new, 3, 4], 2, 1.0),
                Value::i32([2, new], positions),
            ];
            Case::new(name, CacheWrite, operands)
        };
        let narrow = |name: &str, slots: usize, positions: Vec<i32>| {
            let wide = case(name, slots, positions);
            Case { inputs: [vec![Case::halves(&[2, slots, 3, 4], 1, 1.0)], wide.inputs[1..].to_vec()].concat(), ..wide }
        };
        let mut large = narrow("f16, beyond its range", 8, vec![0, 1, 2, 4, 5, 6]);
        large.inputs[1] = Case::values(&[2, 3, 3, 4], 2, 2e5);
        let table = vec![Value::i32([1, 6], vec![9; 6]), Value::i32([1, 2], vec![5, 6]), Value::i32([1, 2], vec![5, 6])];
        vec![
            case("in order", 8, vec![0, 1, 2, 4, 5, 6]),
            case("wraps", 5, vec![8, 9, 10, 3, 4, 5]),
            Case::new("positions", CacheWrite, table),
            narrow("f16, in order", 8, vec![0, 1, 2, 4, 5, 6]),
            narrow("f16, wraps", 5, vec![8, 9, 10, 3, 4, 5]),
            large,
        ]
    }
}
