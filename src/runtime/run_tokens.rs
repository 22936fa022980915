//! The inputs of a generator's graph, which follow from the tokens of a run.

use std::{borrow::Cow, ops::Range};

use super::{DeviceRows, GpuContext, KeptRows};
use crate::{
    Error, Result,
    error::WeightError,
    flow::ModelParams,
    ir::{
        DType, Data, DimBinding, Value,
        derive::of_positions,
        ops::{Input, Role},
    },
    prompt::{Modality, SoftSpan},
};

/// Tokens at consecutive positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunTokens<'a> {
    pub(crate) tokens: &'a [u32],
    /// Position of the first.
    pub(crate) start: usize,
    /// Soft tokens of the history, those outside of the run among them.
    pub(crate) soft: &'a [SoftSpan],
}

impl<'a> RunTokens<'a> {
    /// Tokens of text alone.
    pub(crate) fn text(tokens: &'a [u32], start: usize) -> Self {
        Self { tokens, start, soft: &[] }
    }

    /// The position after the last.
    pub(crate) fn end(&self) -> usize {
        self.start + self.tokens.len()
    }

    /// The soft tokens of the run, with where in it and in the whole of them they lie.
    fn soft(&self) -> impl Iterator<Item = (&'a SoftSpan, Range<usize>, Range<usize>)> {
        let run = self.start..self.end();
        self.soft.iter().filter_map(move |span| {
            let all = span.range();
            let part = all.start.max(run.start)..all.end.min(run.end);
            let within = |start: usize| part.start - start..part.end - start;
            (!part.is_empty()).then(|| (span, within(run.start), within(all.start)))
        })
    }

    /// True if soft tokens are among them.
    pub(crate) fn has_soft(&self) -> bool {
        self.soft().next().is_some()
    }

    /// The soft tokens of the run, if all of them are kept on the device of `context`.
    pub(crate) fn kept_rows(&self, context: &GpuContext) -> Option<Vec<KeptRows>> {
        let kept = |(span, run, of_span): (&SoftSpan, Range<usize>, Range<usize>)| {
            Some(KeptRows { rows: DeviceRows::of(context, &span.rows)?, run, first: of_span.start })
        };
        self.soft().map(kept).collect()
    }

    /// The ids by which rows of tables are looked up: those of soft tokens are `pad` (HF: `llm_input_ids`).
    pub(crate) fn ids(&self, pad: u32) -> Cow<'a, [u32]> {
        let mut ids = Cow::Borrowed(self.tokens);
        for (_, run, _) in self.soft() {
            ids.to_mut()[run].fill(pad);
        }
        ids
    }

    /// The positions of each picture in the run.
    pub(crate) fn pictures(&self) -> Vec<Range<usize>> {
        let pictures = self.soft().filter(|(span, ..)| span.rows.modality() == Modality::Image);
        pictures.map(|(span, ..)| span.range()).collect()
    }

    /// The rows of soft tokens among `rows` of `width` numbers, zero elsewhere.
    pub(crate) fn soft_rows(&self, rows: usize, width: usize) -> Vec<f32> {
        let mut values = vec![0.0; rows * width];
        for (span, run, of_span) in self.soft() {
            values[run.start * width..run.end * width]
                .copy_from_slice(&span.rows.values()[of_span.start * width..of_span.end * width]);
        }
        values
    }

    /// 0 for soft tokens and 1 for others, of `rows`.
    pub(crate) fn is_text(&self, rows: usize) -> Vec<f32> {
        let mut flags = vec![1.0; rows];
        self.soft().for_each(|(_, run, _)| flags[run].fill(0.0));
        flags
    }

    /// The value of `input`; nothing for caches and for what does not follow from tokens. Rows of soft tokens are
    /// looked up by the id `pad`.
    ///
    /// # Errors
    /// [`Error::Input`] for an unbound symbol; what is wrong with a table on the host.
    pub(crate) fn input(&self, input: &Input, pad: u32, binding: &DimBinding, params: &ModelParams) -> Result<Option<Value>> {
        let shape = input.ty.shape.bind(binding)?;
        let positions = (self.start + input.role.offset()..).take(self.tokens.len()).map(|position| position as i32);
        let data = match &input.role {
            Role::TableRows(table) => Data::F32(table_rows(params, table, &self.ids(pad))?),
            Role::SoftRows => Data::F32(self.soft_rows(self.tokens.len(), shape.last().copied().unwrap_or(1))),
            Role::IsText => Data::F32(self.is_text(self.tokens.len())),
            Role::Caller if input.name == "last_token_idx" => Data::U32(vec![self.tokens.len() as u32 - 1]),
            Role::Caller if input.ty.dtype == DType::U32 => Data::U32(self.ids(pad).into_owned()),
            role => match of_positions(role, positions, &self.pictures()) {
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
