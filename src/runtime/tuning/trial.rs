//! One kernel of a plan, run apart from its model.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        Buffer, RunTokens,
        prepared::{Bindings, PreparedPlan, Step},
        scratch::ScratchPool,
        wgpu::BufferUsages,
    },
    Bench,
};
use crate::{
    Error, Result,
    error::DeviceError,
    ir::{
        Case, DType, Data, DimBinding, FixedType, Graph, LowerOptions, Value,
        derive::Inputs,
        ops::{DEAD_KEY, Input, Role},
        sym,
    },
    lower::Part,
    plan::Plan,
    reference,
};

/// Token ids that every vocabulary has.
const TOKENS: u32 = 8;

/// A run of a model in which kernels are tried.
pub(crate) struct TrialRun<'a> {
    /// The whole graph.
    pub(crate) graph: &'a Graph,
    /// How it is lowered.
    pub(crate) options: LowerOptions,
    /// New tokens.
    pub(crate) tokens: usize,
    /// Rows of the caches that grow, half of which are live.
    pub(crate) rows: usize,
    /// Rows of the rings.
    pub(crate) ring: usize,
}

impl TrialRun<'_> {
    pub(crate) fn binding(&self) -> DimBinding {
        DimBinding::new().with(sym::SEQ, self.tokens).with(sym::CACHE, self.rows).with(sym::RING, self.ring)
    }

    /// Position of the first new token.
    fn start(&self) -> usize {
        (self.rows / 2).min(self.rows.saturating_sub(self.tokens))
    }

    fn step(&self) -> Step {
        let end = (self.start() + self.tokens) as u32;
        Step { end, capacity: self.rows as u32, ..Step::all(self.tokens as u32) }
    }
}

/// Buffers of a graph's inputs by name, and where in them they begin.
type InputBuffers = HashMap<String, (Arc<Buffer>, u64)>;

/// A part of a plan with values for its inputs.
pub(crate) struct Trial<'a> {
    bench: &'a Bench<'a>,
    part: &'a Part,
    run: &'a TrialRun<'a>,
    inputs: Inputs,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(bench: &'a Bench<'a>, part: &'a Part, run: &'a TrialRun<'a>) -> Result<Self> {
        let tokens: Vec<u32> = (0..run.tokens as u32).map(|t| (t * 5 + 1) % TOKENS).collect();
        let given = RunTokens::text(&tokens, run.start());
        let mut inputs = Inputs::new();
        for (seed, (_, input)) in (1..).zip(part.graph.inputs()) {
            let value = match given.input(input, 0, &run.binding(), bench.params)? {
                Some(value) => value,
                None => random(input, run, seed)?,
            };
            inputs.insert(input.name.clone(), Arc::new(value));
        }
        Ok(Self { bench, part, run, inputs })
    }

    /// Compares the results of `plan` with the reference's.
    ///
    /// # Errors
    /// The difference, as text; [`Error`] for failures that say nothing of the kernel.
    pub(crate) fn check(&self, plan: &Plan) -> Result<std::result::Result<(), String>> {
        let expected = self.expected(&self.inputs)?;
        // A root of a negative number is not defined: the part is then checked on absolute values.
        let is_defined =
            expected.outputs.iter().all(|(_, value)| value.to_f32().is_ok_and(|all| all.iter().all(|x| x.is_finite())));
        if !is_defined && self.inputs.values().any(|value| has_negative(value)) {
            let inputs = self.inputs.iter().map(|(name, value)| (name.clone(), Arc::new(absolute(value)))).collect();
            return Self { inputs, ..*self }.check(plan);
        }
        let (prepared, buffers) = match self.prepare(plan) {
            Ok(prepared) => prepared,
            Err(
                Error::Device(DeviceError::Shader { problem, .. }) | Error::Device(DeviceError::Driver { message: problem, .. }),
            ) => return Ok(Err(problem)),
            Err(error) => return Err(error),
        };
        self.bench.pipelines.context().time_whole(&[&prepared])?;
        let half = plan.dispatches.iter().any(|d| d.kernel.rounds_to_half());
        for (name, value) in &expected.outputs {
            let Some((buffer, offset, _)) = prepared.output(name) else { continue };
            let found = self.read(buffer, offset, value)?;
            if let Err(problem) = close(&found, value, half) {
                return Ok(Err(problem));
            }
        }
        for (name, value) in &expected.caches {
            let Some((buffer, offset)) = buffers.get(name) else { continue };
            let found = self.read(buffer, *offset, value)?;
            if let Err(problem) = close(&found, value, half) {
                return Ok(Err(format!("{name}: {problem}")));
            }
        }
        Ok(Ok(()))
    }

    fn expected(&self, inputs: &Inputs) -> Result<reference::Outcome> {
        reference::run(&self.part.graph, &self.run.binding(), inputs, self.bench.params)
    }

    /// The plan with its inputs on the device.
    pub(crate) fn prepare(&self, plan: &Plan) -> Result<(PreparedPlan, InputBuffers)> {
        let context = self.bench.pipelines.context();
        let mut buffers = InputBuffers::new();
        for (name, value) in &self.inputs {
            buffers.insert(name.clone(), (self.upload(value.bytes())?, 0));
        }
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let step = Arc::new(context.create_buffer("step", size_of::<Step>() as u64, usage)?);
        context.write(&step, 0, bytemuck::bytes_of(&self.run.step()))?;
        let bound = Bindings { weights: self.bench.resident, inputs: &buffers, step: &step };
        let prepared = PreparedPlan::new(self.bench.pipelines, plan, bound, &mut ScratchPool::default())?;
        for name in self.part.graph.outputs().iter().map(|(name, _)| name) {
            let Some((buffer, _, _)) = prepared.output(name) else { continue };
            // An element that a kernel leaves unwritten must show.
            if !buffers.values().any(|(input, _)| Arc::ptr_eq(input, buffer)) {
                context.write(buffer, 0, &f32::NAN.to_le_bytes().repeat(buffer.size() as usize / 4))?;
            }
        }
        Ok((prepared, buffers))
    }

    fn upload(&self, bytes: &[u8]) -> Result<Arc<Buffer>> {
        let context = self.bench.pipelines.context();
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(16) + 16, 0);
        let buffer = context.create_buffer("operand", padded.len() as u64, usage)?;
        context.write(&buffer, 0, &padded)?;
        Ok(Arc::new(buffer))
    }

    /// A value of the type of `like`.
    fn read(&self, buffer: &Arc<Buffer>, offset: u64, like: &Value) -> Result<Value> {
        let mut out = vec![0; like.bytes().len()];
        self.bench.pipelines.context().read_back(buffer, offset, &mut out)?;
        Ok(Value::from_bytes(&FixedType { dtype: like.dtype(), shape: like.shape.clone() }, &out))
    }
}

/// A value of an input that no token decides: activations and cached rows are random, the positions of cached rows
/// those of earlier tokens.
fn random(input: &Input, run: &TrialRun, seed: u64) -> Result<Value> {
    let shape = input.ty.shape.bind(&run.binding())?;
    let len = shape.iter().product();
    Ok(match input.ty.dtype {
        DType::I32 if input.role == Role::Cache => {
            let rows = shape.get(1).copied().unwrap_or(1).max(1);
            let last = |row: usize| (0..run.start()).rev().find(|position| position % rows == row);
            let position = |index: usize| last(index % rows).map_or(DEAD_KEY, |position| position as i32);
            Value::i32(shape, (0..len).map(position).collect::<Vec<_>>())
        }
        DType::I32 => Value::i32(shape, vec![0; len]),
        DType::U32 => Value::u32(shape, vec![0; len]),
        DType::F16 => Value::f16(shape, &Case::numbers(len, seed, 1.0)),
        _ => Value::f32(shape, Case::numbers(len, seed, 1.0)),
    })
}

fn has_negative(value: &Value) -> bool {
    matches!(&value.data, Data::F32(numbers) if numbers.iter().any(|x| *x < 0.0))
}

fn absolute(value: &Value) -> Value {
    match &value.data {
        Data::F32(numbers) => Value::f32(value.shape.clone(), numbers.iter().map(|x| x.abs()).collect::<Vec<_>>()),
        _ => value.clone(),
    }
}

/// The largest error of an element, as a part of the sum of the result's root mean square and the element. Sums of f32
/// in another order are off by 10⁻⁵ at most at the sizes of Gemma (`OpDef::tolerance`), here with room for what a
/// kernel computes before and after. Operands in f16 are off by 2⁻¹¹ each; experts and later norms make it more, and
/// 3·10⁻² is the gate of a whole model in f16. A kernel that its driver compiled wrongly is off by as much as the
/// result itself.
const EXACT: f64 = 1e-3;
const ROUNDED: f64 = 3e-2;

/// Checks a kernel's result against the reference's. The error names the first element that is off.
fn close(found: &Value, expected: &Value, half: bool) -> std::result::Result<(), String> {
    let text = |error: Error| error.to_string();
    let have = found.to_f32().map_err(text)?;
    let want = expected.to_f32().map_err(text)?;
    let squares: f64 = want.iter().map(|x| f64::from(*x).powi(2)).sum();
    let size = (squares / want.len().max(1) as f64).sqrt();
    let gate = if half { ROUNDED } else { EXACT };
    let is_wrong = |(have, want): (&f32, &f32)| {
        let error = f64::from(have - want).abs();
        have != want && (error.is_nan() || error > gate * (size + f64::from(want.abs())))
    };
    let wrong: Vec<usize> = (0..want.len()).filter(|i| have.get(*i).is_none_or(|have| is_wrong((have, &want[*i])))).collect();
    match wrong.first() {
        None => Ok(()),
        Some(first) => {
            let found = have.get(*first).copied().unwrap_or(f32::NAN);
            let expected = want[*first];
            Err(format!("element {first} is {found:e}, expected {expected:e} ({} of {} are off)", wrong.len(), want.len()))
        }
    }
}
