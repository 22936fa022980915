//! The inputs of a generator's graph, which follow from the tokens of a run.

use crate::{
    Error, Result,
    error::WeightError,
    flow::ModelParams,
    ir::{
        DType, Data, DimBinding, Value,
        derive::of_positions,
        ops::{Input, Role},
    },
};

/// Tokens at consecutive positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunTokens<'a> {
    pub(crate) tokens: &'a [u32],
    /// Position of the first.
    pub(crate) start: usize,
}

impl RunTokens<'_> {
    /// The value of `input`; nothing for caches and for what does not follow from tokens.
    ///
    /// # Errors
    /// [`Error::Input`] for an unbound symbol; what is wrong with a table on the host.
    pub(crate) fn input(&self, input: &Input, binding: &DimBinding, params: &ModelParams) -> Result<Option<Value>> {
        let shape = input.ty.shape.bind(binding)?;
        let positions = (self.start + input.role.offset()..).take(self.tokens.len()).map(|position| position as i32);
        let data = match &input.role {
            Role::TableRows(table) => Data::F32(table_rows(params, table, self.tokens)?),
            Role::Caller if input.name == "last_token_idx" => Data::U32(vec![self.tokens.len() as u32 - 1]),
            Role::Caller if input.ty.dtype == DType::U32 => Data::U32(self.tokens.to_vec()),
            role => match of_positions(role, positions) {
                Some(data) => data,
                None => return Ok(None),
            },
        };
        Ok(Some(Value { shape, data }))
    }
}

/// The rows of a table `[rows, width]` that tokens choose, the first for tokens that it does not have.
pub(crate) fn table_rows(params: &ModelParams, table: &str, tokens: &[u32]) -> Result<Vec<f32>> {
    let tensor = params.get(table).ok_or_else(|| Error::Weight(WeightError::NotGiven { name: table.into() }))?;
    let [rows, width] = [0, 1].map(|axis| tensor.shape().get(axis).copied().unwrap_or(1));
    let mut values = vec![0.0; tokens.len() * width];
    for (token, row) in tokens.iter().zip(values.chunks_mut(width.max(1))) {
        let at = if (*token as usize) < rows { *token as usize } else { 0 };
        tensor.read_f32(at * width, row)?;
    }
    Ok(values)
}
