//! The inputs of a generator's graphs that follow from the tokens of a run.

use super::engine::{positions, table_rows};
use crate::{
    Result,
    flow::ModelParams,
    ir::{
        DType, DimBinding, Value,
        ops::{Input, PositionRule, Role, rope_rows},
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
    /// [`Error::Input`](crate::Error::Input) for an unbound symbol; what is wrong with a table on the host.
    pub(crate) fn input(&self, input: &Input, binding: &DimBinding, params: &ModelParams) -> Result<Option<Value>> {
        let rows = self.tokens.len();
        let shape = input.ty.shape.bind(binding)?;
        let after = |rule: &PositionRule| if let PositionRule::From(more) = rule { self.start + more } else { self.start };
        Ok(Some(match &input.role {
            Role::Positions(rule) => Value::i32(shape, positions(after(rule), rows)),
            Role::Visible { rule, mask } => {
                let bounds = positions(after(rule), rows).into_iter().flat_map(|position| mask.visible(position));
                Value::i32(shape, bounds.collect::<Vec<_>>())
            }
            Role::RopeTable(table) => Value::f32(shape, rope_rows(&table.inv_freq, after(&table.rule), rows)),
            Role::TableRows(table) => Value::f32(shape, table_rows(params, table, self.tokens)?),
            Role::Caller if input.name == "last_token_idx" => Value::u32(shape, vec![rows as u32 - 1]),
            Role::Caller if input.ty.dtype == DType::U32 => Value::u32(shape, self.tokens.to_vec()),
            // Graphs of a generator have none of the last three.
            Role::Caller | Role::Cache | Role::Optional | Role::KeyPositions { .. } | Role::LastToken(_) => return Ok(None),
        }))
    }
}
