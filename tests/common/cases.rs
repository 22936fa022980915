//! Op cases on a device: lowered, prepared and run.
#![allow(dead_code)] // Each program uses a part.

use std::{collections::HashMap, sync::Arc};

use gemmaflow::{
    Error, Result,
    internals::{
        ir::{Case, LowerOptions, kernel::Target},
        lower::{Unplaced, lower},
        plan::Plan,
        runtime::{Bindings, PipelineCache, PreparedPlan, ResidentWeight, ScratchPool, Shard, Step, WeightUploader},
    },
    ir::{DType, Data, DimBinding, Op, Packed, Value, ops::Linear},
    runtime::{Buffer, GpuContext, wgpu::BufferUsages},
    weights::Tensor,
};

/// Every case of every op.
pub fn cases() -> Vec<Case> {
    Op::examples().iter().flat_map(|op| op.cases()).collect()
}

/// Products that go through cooperative matrices where a device has any: one workgroup and several, tiles that end
/// within rows, columns and the step of k, rows of weights that share a word.
pub fn products() -> Vec<Case> {
    let sizes = [(32, 32, 16), (33, 256, 66), (40, 35, 7), (64, 64, 128), (70, 84, 130), (129, 640, 200)];
    let types = [DType::F32, DType::F16, DType::BF16];
    let stored = types.into_iter().flat_map(|d| sizes.map(|(rows, inner, out)| product(rows, inner, out, d)));
    let packed = ["Q4_0", "Q6_K"].into_iter().filter_map(Packed::by_name);
    stored.chain(packed.map(|format| product(33, 512, 66, DType::Packed(format)))).collect()
}

/// A product of `rows` rows.
pub fn product(rows: usize, inner: usize, out: usize, dtype: DType) -> Case {
    let operands = vec![Case::values(&[1, rows, inner], 1, 1.0), Case::weight(&[out, inner], 2, 1.0, dtype)];
    Case::new(format!("{rows}x{inner}x{out} {dtype}"), Linear, operands)
}

/// `op`, its case's name and its operands' shapes.
pub fn title(case: &Case) -> String {
    format!("{} '{}'", case.op.name(), case.name)
}

/// The plan of a case on a device.
pub fn plan(case: &Case, target: &Target) -> Result<Plan> {
    plan_with(case, target, &LowerOptions::default())
}

/// As [`plan`], lowered as `options` say.
pub fn plan_with(case: &Case, target: &Target, options: &LowerOptions) -> Result<Plan> {
    lower(&case.graph()?, &DimBinding::new(), target, options, &Unplaced)
}

fn storage(context: &GpuContext, bytes: &[u8]) -> Result<Arc<Buffer>> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().max(1).next_multiple_of(16), 0);
    let buffer = context.create_buffer("operand", padded.len() as u64, usage)?;
    context.write(&buffer, 0, &padded)?;
    Ok(Arc::new(buffer))
}

fn resident(context: &Arc<GpuContext>, tensor: &Tensor) -> Result<ResidentWeight> {
    if let DType::Packed(_) = tensor.dtype() {
        let mut uploader = WeightUploader::new(context)?;
        let weight = uploader.upload(tensor)?;
        uploader.finish()?;
        return Ok(weight);
    }
    let mut bytes = vec![0; tensor.byte_len()];
    tensor.read_bytes(0, &mut bytes)?;
    let rows = 0..tensor.shape().first().copied().unwrap_or(1);
    let shard = Shard { buffer: storage(context, &bytes)?, offset: 0, bytes: bytes.len() as u64, rows };
    Ok(ResidentWeight { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), shards: vec![shard] })
}

/// Input buffers by operand.
pub type Inputs = HashMap<String, (Arc<Buffer>, u64)>;

/// The plan of a case with its operands on the device.
pub fn prepare(pipelines: &PipelineCache, plan: &Plan, case: &Case) -> Result<(PreparedPlan, Inputs)> {
    let context = pipelines.context();
    let (mut inputs, mut weights) = (HashMap::new(), HashMap::new());
    for (i, value) in case.inputs.iter().enumerate() {
        let name = format!("operand {i}");
        if let Data::Stored(tensor) = &value.data {
            weights.insert(name, resident(context, tensor)?);
            continue;
        }
        inputs.insert(name, (storage(context, value.bytes())?, 0));
    }
    let step =
        Arc::new(context.create_buffer("step", size_of::<Step>() as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?);
    context.write(&step, 0, bytemuck::bytes_of(&Step::all(u32::MAX)))?;
    let bound = Bindings { weights: &weights, inputs: &inputs, step: &step };
    Ok((PreparedPlan::new(pipelines, plan, bound, &mut ScratchPool::default())?, inputs))
}

/// Runs the plan of a case. Whatever the plan does not write of its result comes back as NaN.
pub fn run(pipelines: &PipelineCache, plan: &Plan, case: &Case) -> Result<Value> {
    let context = pipelines.context();
    let (prepared, inputs) = prepare(pipelines, plan, case)?;
    let (buffer, offset, bytes) = prepared.output("result").ok_or_else(|| {
        let (name, problem) = ("result".into(), "is no output of the plan".into());
        Error::Input { name, problem }
    })?;
    if !inputs.values().any(|(input, _)| Arc::ptr_eq(input, buffer)) {
        context.write(buffer, 0, &f32::NAN.to_le_bytes().repeat(buffer.size() as usize / 4))?;
    }
    let submission = context.run("plan", |encoder| {
        prepared.record(&mut encoder.begin_compute_pass(&Default::default()));
        Ok(())
    })?;
    context.wait(&submission, "a case")?;
    let mut out = vec![0; bytes as usize];
    context.read_back(buffer, offset, &mut out)?;
    Ok(Value::from_bytes(&plan.outputs[0].ty, &out))
}
