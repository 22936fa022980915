//! New rows into a cache.

use super::{Lowering, OpDef, expect_operands};
use crate::{
    Result,
    ir::{
        Case, DType, Data, FixedType, Type, Value,
        kernel::{Emit, Kernel, Operand},
    },
};

/// `cache[b, positions[b, t] mod S, …] = rows[b, t, …]`; everything else stays.
///
/// Cache `[B, S, …]`, rows `[B, T, …]` of the same type, or f32 rows into an f16 cache, which rounds them
/// ([`Value::narrow`]); positions `[B, T]`. A cache of `S` rows is a ring that always holds the last `S`
/// positions written; one that is as long as the context is simply never wrapped. The meaning is functional; on a device the
/// cache is donated and written in place.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheWrite;

impl CacheWrite {
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

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        fn write<T: Copy>(cache: &[T], rows: &[T], positions: &[usize], slots: usize, per_batch: usize) -> Vec<T> {
            let width = rows.len() / positions.len().max(1);
            let mut out = cache.to_vec();
            for (i, &position) in positions.iter().enumerate() {
                let row = (i / per_batch.max(1)) * slots + position % slots;
                out[row * width..][..width].copy_from_slice(&rows[i * width..][..width]);
            }
            out
        }
        let positions = inputs[2].to_indices()?;
        let (slots, per_batch) = (output.shape[1], inputs[2].shape[1]);
        Ok(match (&inputs[0].data, &inputs[1].data) {
            (Data::I32(c), Data::I32(r)) => Data::I32(write(c, r, &positions, slots, per_batch)),
            (Data::U32(c), Data::U32(r)) => Data::U32(write(c, r, &positions, slots, per_batch)),
            (Data::F16(c), _) => {
                let rows: Vec<_> = inputs[1].to_f32()?.iter().map(|x| Value::narrow(*x)).collect();
                Data::F16(write(c, &rows, &positions, slots, per_batch))
            }
            _ => Data::F32(write(&inputs[0].to_f32()?, &inputs[1].to_f32()?, &positions, slots, per_batch)),
        })
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let rows = &emit.inputs[1].ty;
        let (batch, new) = (rows.shape[0], rows.shape[1]);
        let width = rows.len() / (batch * new).max(1);
        let overrides = vec![("B", batch as f64), ("T", new as f64), ("S", emit.output.rows_override()), ("C", width as f64)];
        let (narrow, wide) = (emit.output.ty.dtype == DType::F16, emit.inputs[1].ty.dtype == DType::F32);
        if narrow && (!wide || !width.is_multiple_of(2)) {
            return Err(emit.refuse(format!("no kernel writes {width} {} a row into an f16 cache", rows.dtype)));
        }
        let count = rows.len() / if narrow { 2 } else { 1 };
        let options = vec![("LANES", "64".into()), ("KV", if narrow { "f16" } else { "f32" }.into())];
        let kernel = Kernel { shader: "cache_write", options, overrides, hole: String::new() };
        let bindings =
            vec![(0, emit.inputs[1].operand()), (1, emit.output.operand()), (2, emit.inputs[2].operand()), (8, Operand::Step)];
        emit.dispatch(kernel, bindings, count.div_ceil(64), 1);
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
