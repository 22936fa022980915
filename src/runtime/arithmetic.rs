//! How fast the device multiplies and adds.

use super::{bandwidth::best_dispatch_rate, capabilities::AdapterKind, context::GpuContext};
use crate::{
    Error, Result,
    ir::{DType, kernel::CooperativeTile},
};

const SHADER: &str = include_str!("../../shaders/multiply_add.wgsl");
const MATRICES: &str = include_str!("../../shaders/multiply_matrices.wgsl");
/// Operations of one invocation: 128 rounds of 24 operations on vectors of four, each a multiplication and an addition.
const INVOCATION: u64 = 128 * 24 * 4 * 2;
const INVOCATIONS: u64 = 256;
/// Enough for the largest GPUs to be full.
const GPU_GROUPS: u64 = 2048;
const SOFTWARE_GROUPS: u64 = 64;
/// Rounds of a subgroup in `multiply_matrices`, and products of tiles in each.
const ROUNDS: u64 = 256;
const PRODUCTS: u64 = 8;

/// Multiplications and additions a second that a shader reaches with all operands in registers, in `dtype` (f32, or f16
/// where the device has it), without matrix units: the upper bound of kernels that are bound by arithmetic and use
/// none.
///
/// Three chains of `fma` on vectors of four an invocation, 2,048 workgroups of 256 (64 on a software adapter), repeated
/// in submits of about 50 ms timed on the host; the best of five counts.
///
/// # Errors
/// [`Error::Unsupported`] for another type; as [`GpuContext::create_buffer`] and [`GpuContext::wait`].
pub fn measure_arithmetic_rate(context: &GpuContext, dtype: DType) -> Result<f64> {
    let shader = match dtype {
        DType::F32 => SHADER.to_owned(),
        DType::F16 if context.capabilities().f16 => SHADER.replace("alias real = f32;", "enable f16;\nalias real = f16;"),
        _ => return Err(Error::Unsupported(format!("measuring the arithmetic rate in {dtype} on this device"))),
    };
    let groups = if context.capabilities().kind == AdapterKind::Software { SOFTWARE_GROUPS } else { GPU_GROUPS };
    let sink = context.create_buffer("arithmetic sink", 16, wgpu::BufferUsages::STORAGE)?;
    let pipeline = context.compile_plain("multiply_add.wgsl", &shader)?;
    let group = context.plain_bind_group(&pipeline, &[sink.raw().as_entire_binding()])?;
    best_dispatch_rate(context, groups * INVOCATIONS * INVOCATION, &pipeline, &group, [groups as u32, 1])
}

/// Multiplications and additions a second that matrix units reach with all operands in registers, f16 summed in f32, in
/// the tile that kernels take ([`Target::cooperative`](crate::ir::kernel::Target)); `None` where they take none. The
/// upper bound of products of many rows.
///
/// Two by four tiles a subgroup, as the kernels have them, in workgroups of four subgroups; submits as
/// [`measure_arithmetic_rate`] makes them.
///
/// # Errors
/// As [`GpuContext::create_buffer`] and [`GpuContext::wait`].
pub fn measure_matrix_rate(context: &GpuContext) -> Result<Option<f64>> {
    let Some(tile) = context.capabilities().target().cooperative else { return Ok(None) };
    let groups = if context.capabilities().kind == AdapterKind::Software { SOFTWARE_GROUPS } else { GPU_GROUPS };
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let counts = context.create_buffer("subgroup counts", 16, usage)?;
    let tile_bytes = 4 * u64::from(tile.m) * u64::from(tile.n);
    let sink = context.create_buffer("matrix sink", PRODUCTS * tile_bytes, usage)?;
    let pipeline = context.compile_plain("multiply_matrices.wgsl", &matrix_shader(&tile))?;
    let resources = [counts.raw().as_entire_binding(), sink.raw().as_entire_binding()];
    let group = context.plain_bind_group(&pipeline, &resources)?;
    let runs = best_dispatch_rate(context, 1, &pipeline, &group, [groups as u32, 1])?;
    let mut subgroups = [0; 4];
    context.read_back(&counts, 0, &mut subgroups)?;
    let operations = 2 * u64::from(tile.m) * u64::from(tile.n) * u64::from(tile.k);
    let of_a_run = groups * u64::from(u32::from_le_bytes(subgroups)) * ROUNDS * PRODUCTS * operations;
    Ok(Some(of_a_run as f64 * runs))
}

/// `multiply_matrices.wgsl` for a tile.
fn matrix_shader(tile: &CooperativeTile) -> String {
    let put = |text: String, (name, value): (&str, u32)| text.replace(name, &value.to_string());
    [("${M}", tile.m), ("${N}", tile.n), ("${K}", tile.k), ("${LANES}", tile.lanes)].into_iter().fold(MATRICES.to_owned(), put)
}
