//! Rows of a table.

use super::{Lowering, OpDef, expect_operands};
use crate::{
    Error, Result,
    error::PromptError,
    ir::{
        Case, DType, Data, FixedType, Packed, Shape, Type, Value,
        emit::Emit,
        expect_dtype, expect_weight,
        kernel::{Kernel, weight_option, words_option},
        tolerance::{EPS, Scale, Tolerance},
        work::{WeightsRead, Work},
    },
};

/// `out[…, :] = table[ids[…], :]`, widened to f32. With `per_batch` the table is `[B, R, C]`, the ids `[B, J]`, and
/// each batch entry takes rows of its own part.
///
/// Row r stands for the id `first + r`. An id outside the table takes row 0 with `or_first`; else it is the caller's
/// mistake: the reference refuses it, a kernel leaves the row unwritten.
#[derive(Debug, Clone, PartialEq)]
pub struct Gather {
    /// True if the outermost dimension of table and ids is a batch.
    pub per_batch: bool,
    /// True if an id outside the table takes row 0.
    pub or_first: bool,
    /// The id of row 0.
    pub first: usize,
}

impl Gather {
    pub(super) fn example() -> Self {
        Self { per_batch: false, or_first: false, first: 0 }
    }
}

impl OpDef for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn attributes(&self) -> String {
        let first = (self.first > 0).then(|| format!("first={}", self.first));
        let flags = [(self.per_batch, "per_batch"), (self.or_first, "or_first")];
        let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_string());
        let all: Vec<String> = flags.chain(first).collect();
        if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(", ")) }
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [table, ids] = expect_operands(inputs)?;
        expect_weight("the table", table)?;
        expect_dtype("the ids", ids, &[DType::U32])?;
        let lead = usize::from(self.per_batch);
        let fits = table.shape.rank() == 2 + lead && ids.shape.rank() > lead;
        if !fits || table.shape.0[..lead] != ids.shape.0[..lead] {
            return Err("expected a table [rows, columns] (or [batch, rows, columns]) and ids".into());
        }
        let columns = table.shape.0[1 + lead];
        Ok(Type { dtype: DType::F32, shape: Shape(ids.shape.0.iter().copied().chain([columns]).collect()) })
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let table = inputs[0];
        let ids = inputs[1].to_indices()?;
        let columns = output.last();
        let rows = table.shape[table.shape.len() - 2];
        let per_part = if self.per_batch { ids.len() / ids.len().min(table.shape[0]).max(1) } else { ids.len() };
        let mut out = vec![0.0; output.len()];
        for (i, (row, &id)) in out.chunks_exact_mut(columns.max(1)).zip(&ids).enumerate() {
            let row_of_id = id.checked_sub(self.first).filter(|row| *row < rows).or(self.or_first.then_some(0));
            let Some(of_table) = row_of_id else {
                return Err(Error::Prompt(PromptError::TokenOutOfRange { token: id as u32, index: i, vocab_size: rows }));
            };
            let first = ((i / per_part) * rows + of_table) * columns;
            match &table.data {
                Data::Stored(tensor) => tensor.read_f32(first, row)?,
                _ => row.copy_from_slice(&table.to_f32()?[first..first + columns]),
            }
        }
        Ok(Data::F32(out))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let ids = emit.inputs[1].ty.len();
        let columns = emit.output.ty.last();
        let (stride, group) = if self.per_batch { (emit.inputs[0].ty.shape[1], emit.inputs[1].ty.last()) } else { (0, ids) };
        let total = emit.inputs[0].ty.shape[usize::from(self.per_batch)];
        for (rows, table) in emit.inputs[0].shards() {
            let held = if self.per_batch { stride } else { rows.len() };
            let overrides = vec![
                ("R", ids as f64),
                ("C", columns as f64),
                ("FIRST", rows.start as f64 * f64::from(!self.per_batch)),
                ("ROWS", held as f64),
                ("STRIDE", stride as f64),
                ("GROUP", group as f64),
                ("BASE", self.first as f64),
                ("LIMIT", if self.or_first { total as f64 } else { f64::from(u32::MAX) }),
            ];
            let vector = if columns.is_multiple_of(8) { "8" } else { "1" };
            let stored = emit.inputs[0].ty.dtype;
            let mut options =
                vec![("LANES", "64".into()), weight_option(stored), ("VEC", vector.into()), ("WEIGHTS", "1".into())];
            options.extend(words_option(stored, false));
            let kernel = Kernel { shader: "gather", options, overrides, hole: emit.epilogue.text.clone() };
            let mut bindings = vec![(0, emit.inputs[1].operand()), (1, emit.output.operand()), (2, table)];
            bindings.extend(emit.epilogue_bindings(0));
            let row = stored.resident_row_bytes(columns).unwrap_or(0);
            let bytes = ids as u64 * ((4 * columns * (1 + emit.epilogue.operands.len())) as u64 + row);
            let work = Work { weights: WeightsRead::Rows, ..Work::moves(bytes) };
            emit.dispatch(kernel, bindings, [(ids * columns.div_ceil(8)).div_ceil(64), 1], work);
        }
        Ok(())
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn takes_shards(&self, operand: usize) -> bool {
        operand == 0 && !self.per_batch
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        match case.inputs[0].dtype() {
            // Packed numbers are a product less an offset, which devices may fuse; the offset may be as large as the
            // table's numbers.
            DType::Packed(_) => Tolerance::new(2.0 * EPS, Scale::Largest(0), 0.0),
            _ => Tolerance::EXACT,
        }
    }

    fn cases(&self) -> Vec<Case> {
        let ids = Value::u32([2, 3], vec![0, 7, 3, 12, 12, 1]);
        let stored = |dtype, columns: usize| {
            let table = Case::weight(&[13, columns], 1, 1.0, dtype);
            Case::new(
                format!("{dtype} {columns} columns"),
                Gather { per_batch: false, or_first: false, first: 0 },
                vec![table, ids.clone()],
            )
        };
        let batched = vec![Case::values(&[2, 5, 9], 3, 1.0), Value::u32([2, 1], vec![4, 2])];
        let scalar = [(DType::F32, 33), (DType::F16, 64), (DType::BF16, 7), (DType::BF16, 130)];
        let packed = Packed::all().map(|format| stored(DType::Packed(format), 3 * format.block_elements()));
        let batched = Case::new("per batch", Gather { per_batch: true, or_first: false, first: 0 }, batched);
        let outside = vec![Case::weight(&[5, 24], 4, 1.0, DType::BF16), Value::u32([1, 4], vec![4, 5, 0, 200])];
        let outside = Case::new("or the first row", Gather { per_batch: false, or_first: true, first: 0 }, outside);
        let later = vec![Case::weight(&[5, 20], 5, 1.0, DType::F32), Value::u32([1, 6], vec![11, 7, 0, 12, 6, 9])];
        let later = Case::new("from the id 7 on", Gather { per_batch: false, or_first: true, first: 7 }, later);
        scalar.map(|(dtype, columns)| stored(dtype, columns)).into_iter().chain(packed).chain([batched, outside, later]).collect()
    }
}
