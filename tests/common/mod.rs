//! Op cases on a device and on the reference.
#![allow(dead_code)] // Each test binary uses a part.

pub mod files;
pub mod gguf;
pub mod oracle;
pub mod tolerance;
pub mod uniformity;

use std::{collections::HashMap, sync::Arc};

use gemmaflow::{
    Result,
    ir::{
        Case, DType, Data, DimBinding, FixedType, LowerOptions, Op, Value,
        kernel::{Target, Tier},
    },
    lower::{Unplaced, lower},
    plan::Plan,
    reference,
    runtime::{
        Bound, Buffer, Device, GpuContext, GpuOptions, KernelTier, Opened, PipelineCache, PreparedPlan, ResidentWeight,
        ScratchPool, Shard, Step, WeightUploader, wgpu::BufferUsages,
    },
    weights::Tensor,
};

/// Opens the best adapter; a machine without one fails the test.
pub fn open(options: &GpuOptions) -> Arc<GpuContext> {
    match Device::Gpu.open(options).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

/// The device once for each tier that it has.
pub fn tiers() -> Vec<(&'static str, Arc<GpuContext>)> {
    let best = open(&GpuOptions::default());
    let portable = open(&GpuOptions { kernels: KernelTier::Portable, ..GpuOptions::default() });
    assert_eq!(portable.capabilities().target().tier, Tier::Portable);
    let gpu = open(&GpuOptions { kernels: KernelTier::Subgroup, ..GpuOptions::default() });
    let several = open(&GpuOptions { kernels: KernelTier::Subgroups, ..GpuOptions::default() });
    match best.capabilities().target() {
        Target { tier: Tier::Portable, .. } => vec![("portable", portable)],
        Target { tier: Tier::Subgroups, .. } => vec![("subgroups", best), ("portable", portable)],
        Target { software: true, .. } => {
            vec![("software", best), ("subgroup", gpu), ("subgroups", several), ("portable", portable)]
        }
        _ => vec![("subgroup", best), ("subgroups", several), ("portable", portable)],
    }
}

/// The device with its cooperative matrices and the kernels for GPUs; nothing, and a note, where it has none that multiply f16 and
/// sum in f32.
pub fn cooperative() -> Option<Arc<GpuContext>> {
    let kernels = KernelTier::Subgroup;
    let context = open(&GpuOptions { kernels, cooperative_matrices: true, ..GpuOptions::default() });
    let found = context.capabilities().target().cooperative;
    if found.is_none() {
        eprintln!("{} has no cooperative matrices from f16 to f32: not run", context.capabilities().adapter);
    }
    found.map(|_| context)
}

/// Every case of every op.
pub fn cases() -> Vec<Case> {
    Op::examples().iter().flat_map(|op| op.cases()).collect()
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

/// What the reference says.
pub fn expected(case: &Case) -> Result<Value> {
    let graph = case.graph()?;
    let ty = graph.fixed_types(&DimBinding::new())?.pop().expect("a graph with a result");
    let operands: Vec<Arc<Value>> = case.inputs.iter().cloned().map(Arc::new).collect();
    reference::evaluate(&case.op, &operands, &ty)
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
        let bytes: &[u8] = match &value.data {
            Data::F32(v) => bytemuck::cast_slice(v),
            Data::F16(v) => bytemuck::cast_slice(v),
            Data::I32(v) => bytemuck::cast_slice(v),
            Data::U32(v) => bytemuck::cast_slice(v),
            Data::Stored(tensor) => {
                weights.insert(name, resident(context, tensor)?);
                continue;
            }
        };
        inputs.insert(name, (storage(context, bytes)?, 0));
    }
    let step =
        Arc::new(context.create_buffer("step", size_of::<Step>() as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?);
    context.write(&step, 0, bytemuck::bytes_of(&Step::all(u32::MAX)))?;
    let bound = Bound { weights: &weights, inputs: &inputs, step: &step };
    Ok((PreparedPlan::new(pipelines, plan, bound, &mut ScratchPool::default())?, inputs))
}

/// Runs the plan of a case. Whatever the plan does not write of its result comes back as NaN.
pub fn run(pipelines: &PipelineCache, plan: &Plan, case: &Case) -> Result<Value> {
    let context = pipelines.context();
    let (prepared, inputs) = prepare(pipelines, plan, case)?;
    let (buffer, offset, bytes) = prepared.output("result").expect("a plan with a result");
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
    Ok(value(&plan.outputs[0].ty, &out))
}

fn value(ty: &FixedType, bytes: &[u8]) -> Value {
    let shape = ty.shape.clone();
    match ty.dtype {
        DType::I32 => Value::i32(shape, bytemuck::pod_collect_to_vec(bytes)),
        DType::U32 => Value::u32(shape, bytemuck::pod_collect_to_vec(bytes)),
        DType::F16 => Value { shape, data: Data::F16(bytemuck::pod_collect_to_vec(bytes)) },
        _ => Value::f32(shape, bytemuck::pod_collect_to_vec(bytes)),
    }
}
