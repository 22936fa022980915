//! The inputs of a run in one small buffer, written with one call.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use crate::{
    Result,
    flow::BuiltModel,
    ir::{
        Graph,
        derive::of_positions,
        ops::{DEAD_KEY, Input, Role},
    },
    runtime::{Buffer, GpuContext, KeptRows, RunTokens, STEP_STRIDE, Step, table_rows, wgpu},
};

/// Every part begins at a multiple of this, the largest alignment that WebGPU lets an adapter ask for.
const ALIGNMENT: usize = 256;

/// Step uniform, token ids, positions, the index of the last token and rotary rows, for up to `tokens` new tokens.
pub(super) struct InputBlock {
    buffer: Arc<Buffer>,
    host: Vec<u8>,
    tokens: usize,
    offsets: BTreeMap<String, usize>,
    /// The rows of soft tokens, which are the last part.
    soft: Option<SoftPart>,
}

/// Where rows of `width` numbers lie.
#[derive(Clone, Copy)]
struct SoftPart {
    offset: usize,
    width: usize,
}

/// The input for the rows of soft tokens and the width of a row, where the graph takes some.
fn soft_rows(graph: &Graph) -> Option<(&str, usize)> {
    let (_, input) = graph.inputs().find(|(_, input)| matches!(input.role, Role::SoftRows))?;
    Some((&input.name, input.ty.shape.last()?.fixed()?))
}

impl InputBlock {
    /// With a step for each of so many `sequences` besides that of all, where they lie apart; else none.
    pub(super) fn new(context: &GpuContext, graph: &Graph, tokens: usize, sequences: usize) -> Result<Self> {
        let (offsets, end) = Self::layout(graph, tokens, sequences);
        let soft = soft_rows(graph).and_then(|(name, width)| Some(SoftPart { offset: *offsets.get(name)?, width }));
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = Arc::new(context.create_buffer("inputs", end as u64, usage)?);
        Ok(Self { buffer, host: vec![0; end], tokens, offsets, soft })
    }

    /// Bytes of the block that [`new`](Self::new) makes.
    pub(super) fn bytes(graph: &Graph, tokens: usize, sequences: usize) -> u64 {
        Self::layout(graph, tokens, sequences).1 as u64
    }

    /// Where each part begins, and where the last one ends.
    fn layout(graph: &Graph, tokens: usize, sequences: usize) -> (BTreeMap<String, usize>, usize) {
        let steps = sequences * STEP_STRIDE as usize + size_of::<Step>();
        let parts = [("step", steps), ("input_ids", tokens * 4), ("positions", tokens * 4), ("last_token_idx", 4)];
        let table = |(_, input): (_, &Input)| match &input.role {
            Role::Visible { .. } => Some((input.name.clone(), tokens * 2 * 4)),
            Role::RopeTable(table) => Some((input.name.clone(), tokens * table.inv_freq.len() * 2 * 4)),
            Role::TableRows(_) | Role::IsText => Some((input.name.clone(), tokens * input.ty.shape.last()?.fixed()? * 4)),
            _ => None,
        };
        // Inputs whose values are copied to the block on the device.
        let other = |(_, input): (_, &Input)| match &input.role {
            Role::Caller => Some((input.name.clone(), input.ty.shape.fixed()?.iter().product::<usize>() * 4)),
            _ => None,
        };
        let soft = soft_rows(graph).map(|(name, width)| (name.to_string(), tokens * width * 4));
        let mut offsets = BTreeMap::new();
        let mut end = 0;
        let parts = parts.map(|(name, bytes)| (name.to_string(), bytes)).into_iter();
        let parts = parts.chain(graph.inputs().filter_map(table)).chain(graph.inputs().filter_map(other));
        for (name, bytes) in parts.chain(soft) {
            if offsets.contains_key(&name) {
                continue;
            }
            offsets.insert(name, end);
            end = (end + bytes + 16).next_multiple_of(ALIGNMENT);
        }
        (offsets, end)
    }

    /// The buffer; the step uniform is at its start.
    pub(super) fn buffer(&self) -> &Arc<Buffer> {
        &self.buffer
    }

    /// The parts by the names of the graph's inputs.
    pub(super) fn bindings(&self) -> impl Iterator<Item = (String, (Arc<Buffer>, u64))> {
        self.offsets.iter().map(|(name, offset)| (name.clone(), (self.buffer.clone(), *offset as u64)))
    }

    /// Fills and writes the block. Padding rows get token 0; without caches they are dead keys. Soft tokens are looked
    /// up by the id `pad`.
    pub(super) fn write(
        &mut self,
        context: &GpuContext,
        step: Step,
        run: RunTokens,
        pad: u32,
        built: &BuiltModel,
        resident: bool,
    ) -> Result<()> {
        debug_assert!(run.tokens.len() <= self.tokens && !run.tokens.is_empty(), "a run fits its bucket");
        self.put("step", bytemuck::bytes_of(&step));
        let positions: Vec<usize> = (run.start..run.end()).collect();
        self.fill(&run.ids(pad), &positions, &run.pictures(), built, if resident { 0 } else { DEAD_KEY })?;
        let Some(soft) = self.soft.filter(|_| run.has_soft()) else { return context.write(&self.buffer, 0, &self.host) };
        for (_, input) in built.graph.inputs().filter(|(_, input)| matches!(input.role, Role::IsText)) {
            self.put(&input.name, bytemuck::cast_slice(&run.is_text(self.tokens)));
        }
        if let Some(kept) = run.kept_rows(context) {
            context.write(&self.buffer, 0, &self.host[..soft.offset])?;
            return self.copy_rows(context, soft, &kept);
        }
        let rows = run.soft_rows(self.tokens, soft.width);
        self.host[soft.offset..][..size_of_val(&rows[..])].copy_from_slice(bytemuck::cast_slice(&rows));
        context.write(&self.buffer, 0, &self.host)
    }

    /// Takes the rows of soft tokens from where they are kept on the device; those of other tokens are zero.
    fn copy_rows(&self, context: &GpuContext, SoftPart { offset, width }: SoftPart, kept: &[KeptRows]) -> Result<()> {
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("soft tokens") });
        encoder.clear_buffer(self.buffer.raw(), offset as u64, Some((self.tokens * width * size_of::<f32>()) as u64));
        kept.iter().for_each(|rows| rows.copy(&mut encoder, &self.buffer, offset, width));
        context.submit("soft tokens", [encoder.finish()])?;
        Ok(())
    }

    /// As [`write`](Self::write) where sequences lie apart: the step, the token and the position of each.
    pub(super) fn write_batch(
        &mut self,
        context: &GpuContext,
        steps: &[Step],
        tokens: &[u32],
        positions: &[usize],
        built: &BuiltModel,
    ) -> Result<()> {
        debug_assert!(steps.len() <= self.tokens && !steps.is_empty(), "the sequences fit their bucket");
        let first = self.offsets.get("step").copied().unwrap_or(0);
        self.put("step", bytemuck::bytes_of(&Step::all(tokens.len() as u32)));
        for (step, block) in steps.iter().zip(self.host[first..].chunks_mut(STEP_STRIDE as usize).skip(1)) {
            block[..size_of::<Step>()].copy_from_slice(bytemuck::bytes_of(step));
        }
        self.fill(tokens, positions, &[], built, 0)?;
        context.write(&self.buffer, 0, &self.host)
    }

    /// Tokens and what follows from their positions, and from those of `pictures`; rows of padding are at the position
    /// `padding`.
    fn fill(
        &mut self,
        tokens: &[u32],
        positions: &[usize],
        pictures: &[Range<usize>],
        built: &BuiltModel,
        padding: i32,
    ) -> Result<()> {
        self.put("input_ids", bytemuck::cast_slice(tokens));
        self.put("last_token_idx", &(tokens.len() as u32 - 1).to_le_bytes());
        for (_, input) in built.graph.inputs() {
            if let Role::TableRows(table) = &input.role {
                self.put(&input.name, bytemuck::cast_slice(&table_rows(&built.params, table, tokens)?));
            }
            // Rows of padding are rotated by whatever is there: nothing reads them.
            let (of_padding, rows) = match input.role {
                Role::Positions(_) => (padding, self.tokens),
                Role::RopeTable(_) => (DEAD_KEY, positions.len()),
                _ => (DEAD_KEY, self.tokens),
            };
            let live = positions.iter().map(|position| (position + input.role.offset()) as i32);
            let all = live.chain(std::iter::repeat(of_padding)).take(rows);
            if let Some(data) = of_positions(&input.role, all, pictures) {
                self.put(&input.name, data.bytes());
            }
        }
        Ok(())
    }

    /// Takes the input `name` from `offset` of `source` instead, which an earlier run fills: so many bytes.
    pub(super) fn copy(&self, encoder: &mut wgpu::CommandEncoder, name: &str, (source, offset, bytes): (&Buffer, u64, u64)) {
        if let Some(to) = self.offsets.get(name) {
            encoder.copy_buffer_to_buffer(source.raw(), offset, self.buffer.raw(), *to as u64, bytes);
        }
    }

    fn put(&mut self, name: &str, bytes: &[u8]) {
        if let Some(&offset) = self.offsets.get(name) {
            self.host[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }
}
