//! Runs the variants of one shape in turns and prints them.

use std::{collections::HashMap, sync::Arc, time::Instant};

use anyhow::{Result, anyhow};
use gemmaflow::{
    internals::{
        ir::{
            kernel::{Dispatch, Kernel, Operand, Slot, grid},
            work::Work,
        },
        plan::{Live, Plan, PlanOutput, SlotInfo, SlotKind, cost},
        runtime::{Bindings, PipelineCache, PreparedPlan, ResidentWeight, ScratchPool, Step},
    },
    ir::{DType, Data, FixedType, Value, ops::Role},
    runtime::{Buffer, Cost, GpuContext, wgpu::BufferUsages},
};

use crate::Arguments;

/// A submit of repeated dispatches takes about this long, so that submitting and waiting vanish in it.
const SUBMIT_SECONDS: f64 = 0.02;
const MOST_REPEATS: f64 = 1000.0;
/// Results that differ by more than this share of the largest magnitude are wrong: sums of thousands of f32 in another
/// order.
const TOLERANCE: f32 = 2e-3;

/// What all measurements share.
pub struct Bench<'a> {
    context: &'a GpuContext,
    pipelines: &'a PipelineCache,
    step: Arc<Buffer>,
    rounds: usize,
    /// What a variant's name must contain, unless empty.
    wanted: &'a [String],
    bandwidth: f64,
}

/// The operands of all variants of one shape. Slot 0 is the result; slots 1, … are the inputs; scratch comes after
/// them.
#[derive(Default)]
pub struct Operands {
    pub result: usize,
    pub inputs: Vec<Value>,
    pub weights: HashMap<String, ResidentWeight>,
    pub live: Option<Live>,
}

/// One way to compute the result.
pub struct Variant {
    pub name: String,
    /// Bytes of scratch slots.
    pub scratch: Vec<u64>,
    pub dispatches: Vec<Dispatch>,
}

impl Variant {
    pub fn new(name: String, dispatches: Vec<Dispatch>) -> Self {
        Self { name, scratch: Vec::new(), dispatches }
    }
}

pub fn dispatch(kernel: Kernel, bindings: Vec<(u32, Operand)>, [count, layers]: [usize; 2], work: Work) -> Dispatch {
    Dispatch { label: "bench".into(), kernel, bindings, workgroups: grid(count, layers), work }
}

pub fn slot(index: usize) -> Operand {
    Operand::Slot(Slot(index), 0)
}

/// Options of a kernel from names and numbers or words.
pub fn options(pairs: &[(&'static str, &dyn std::fmt::Display)]) -> Vec<(&'static str, String)> {
    pairs.iter().map(|(name, value)| (*name, value.to_string())).collect()
}

impl<'a> Bench<'a> {
    pub fn new(context: &'a GpuContext, pipelines: &'a PipelineCache, arguments: &'a Arguments, bandwidth: f64) -> Result<Self> {
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let step = Arc::new(context.create_buffer("step", size_of::<Step>() as u64, usage)?);
        let (rounds, wanted) = (arguments.rounds, &arguments.variant[..]);
        Ok(Self { context, pipelines, step, rounds, wanted, bandwidth })
    }

    pub fn context(&self) -> &GpuContext {
        self.context
    }

    /// Runs and prints the variants; the first is the plain one.
    pub fn run(&self, title: &str, operands: &Operands, rows: usize, capacity: usize, variants: Vec<Variant>) -> Result<()> {
        println!("\n{title}");
        let end = operands.live.map_or(u32::MAX, |live| (live.start + live.tokens) as u32);
        let step = Step { end, capacity: capacity as u32, ..Step::all(rows as u32) };
        self.context.write(&self.step, 0, bytemuck::bytes_of(&step))?;
        let inputs = self.inputs(operands)?;
        let mut ready: Vec<(Variant, PreparedPlan, Cost, u32, Vec<f64>)> = Vec::new();
        let mut expected = Vec::new();
        let named = |variant: &Variant| self.wanted.is_empty() || self.wanted.iter().any(|text| variant.name.contains(text));
        for variant in variants.into_iter().enumerate().filter(|(i, v)| *i == 0 || named(v)).map(|(_, v)| v) {
            let plan = plan(operands, &variant);
            let bound = Bindings { weights: &operands.weights, inputs: &inputs, step: &self.step };
            let prepared = match PreparedPlan::new(self.pipelines, &plan, bound, &mut ScratchPool::default()) {
                Ok(prepared) => prepared,
                Err(error) => {
                    println!("  {:58} {error}", variant.name);
                    continue;
                }
            };
            self.seconds(&prepared, 1)?;
            let found = self.result(&prepared)?;
            if expected.is_empty() {
                expected.clone_from(&found);
            } else if let Some(difference) = differs(&found, &expected) {
                println!("  {:58} WRONG: differs by {difference:e}", variant.name);
                continue;
            }
            let once = self.seconds(&prepared, 1)?;
            let repeats = (SUBMIT_SECONDS / once).clamp(1.0, MOST_REPEATS) as u32;
            let cost = self.cost(&plan, operands);
            ready.push((variant, prepared, cost, repeats, Vec::new()));
        }
        for _ in 0..self.rounds {
            for (_, prepared, _, repeats, times) in &mut ready {
                times.push(self.seconds(prepared, *repeats)?);
            }
        }
        self.print(&mut ready);
        Ok(())
    }

    fn print(&self, ready: &mut [(Variant, PreparedPlan, Cost, u32, Vec<f64>)]) {
        let mut plain = None;
        for (variant, _, cost, _, times) in ready {
            times.sort_by(f64::total_cmp);
            let seconds = times[times.len() / 2];
            let plain = *plain.get_or_insert(seconds);
            let (bytes, flops) = (cost.bytes as f64 / seconds, cost.flops as f64 / seconds);
            println!(
                "  {:58} {:11.1} µs {:8.2} GB/s ({:5.1} % of read) {:9.2} GFLOP/s {:8.2} × plain",
                variant.name,
                seconds * 1e6,
                bytes / 1e9,
                bytes / self.bandwidth * 100.0,
                flops / 1e9,
                plain / seconds
            );
        }
    }

    fn cost(&self, plan: &Plan, operands: &Operands) -> Cost {
        let live = operands.live.unwrap_or(Live { tokens: 1, start: 0 });
        let shard = |name: &str, shard: usize| operands.weights.get(name).map_or(0, |weight| weight.shards[shard].bytes);
        let costs = plan.dispatches.iter().map(|dispatch| cost(plan, dispatch, live, &shard));
        costs.fold(Cost::default(), |sum, one| Cost { bytes: sum.bytes + one.bytes, flops: sum.flops + one.flops })
    }

    /// Seconds of one run, `repeats` of them in one submit.
    fn seconds(&self, prepared: &PreparedPlan, repeats: u32) -> Result<f64> {
        let start = Instant::now();
        let submission = self.context.run("a variant", |encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            (0..repeats).for_each(|_| prepared.record(&mut pass));
            Ok(())
        })?;
        self.context.wait(&submission, "a variant")?;
        Ok(start.elapsed().as_secs_f64() / f64::from(repeats))
    }

    fn result(&self, prepared: &PreparedPlan) -> Result<Vec<f32>> {
        let (buffer, offset, bytes) = prepared.output("result").ok_or_else(|| anyhow!("a plan without a result"))?;
        let mut out = vec![0; bytes as usize];
        self.context.read_back(buffer, offset, &mut out)?;
        Ok(bytemuck::pod_collect_to_vec(&out))
    }

    fn inputs(&self, operands: &Operands) -> Result<HashMap<String, (Arc<Buffer>, u64)>> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let mut inputs = HashMap::new();
        for (index, value) in operands.inputs.iter().enumerate() {
            let mut bytes: Vec<u8> = match &value.data {
                Data::F32(v) => bytemuck::cast_slice(v).to_vec(),
                Data::F16(v) => bytemuck::cast_slice(v).to_vec(),
                Data::I32(v) => bytemuck::cast_slice(v).to_vec(),
                _ => return Err(anyhow!("an operand of another type")),
            };
            bytes.resize(bytes.len().next_multiple_of(16) + 16, 0);
            let buffer = self.context.create_buffer("operand", bytes.len() as u64, usage)?;
            self.context.write(&buffer, 0, &bytes)?;
            inputs.insert(index.to_string(), (Arc::new(buffer), 0));
        }
        Ok(inputs)
    }
}

fn plan(operands: &Operands, variant: &Variant) -> Plan {
    let scratch = |bytes: u64| SlotInfo { bytes: bytes.next_multiple_of(16) + 16, kind: SlotKind::Scratch };
    let mut slots = vec![scratch(operands.result as u64 * 4)];
    for (index, value) in operands.inputs.iter().enumerate() {
        let ty = FixedType { dtype: value.dtype(), shape: value.shape.clone() };
        let bytes = ty.byte_len().expect("a cache is not packed").next_multiple_of(16) as u64 + 16;
        slots.push(SlotInfo { bytes, kind: SlotKind::Input { name: index.to_string(), role: Role::Caller, ty } });
    }
    slots.extend(variant.scratch.iter().map(|bytes| scratch(*bytes)));
    let ty = FixedType { dtype: DType::F32, shape: vec![operands.result] };
    let outputs = vec![PlanOutput { name: "result".into(), slot: Slot(0), ty }];
    Plan { name: "bench".into(), slots, dispatches: variant.dispatches.clone(), outputs, ..Plan::default() }
}

/// The largest difference, where it is too large.
fn differs(found: &[f32], expected: &[f32]) -> Option<f32> {
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let apart = |(a, b): (&f32, &f32)| if a.is_finite() { (a - b).abs() } else { f32::MAX };
    let worst = found.iter().zip(expected).map(apart).fold(0.0, f32::max);
    (worst > TOLERANCE * largest).then_some(worst)
}
