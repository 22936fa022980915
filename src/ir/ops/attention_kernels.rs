//! The dispatches of attention.

use super::{
    Attention, Gain, Rope,
    attention_layouts::{Layout, PROLOGUE_BYTES, Sizes, vector_of, yes},
};
use crate::{
    Result,
    ir::{
        emit::{Arg, Emit, Place},
        fusion::DecodePrologue,
        kernel::{Kernel, Operand, Target, weight_option},
        work::{AttentionWork, Work},
    },
};

/// Emits the dispatches of `op`.
pub(super) fn emit(op: &Attention, emit: &mut Emit) -> Result<()> {
    let sizes = Sizes::of(emit);
    let prologue = emit.decode_prologue().cloned();
    let Layout { shader, mut options, groups } = Layout::of(emit, &sizes, prologue.is_some())?;
    let parts = parts(emit, &sizes, groups);
    options.extend([
        ("SOFTCAP", yes(op.softcap.is_some())),
        ("KEEP", yes(op.keep)),
        ("SPLITS", yes(parts > 1)),
        ("KV", emit.inputs[1].ty.dtype.name().into()),
        ("PROLOGUE", yes(prologue.is_some())),
    ]);
    let mut overrides = vec![
        ("BATCH", sizes.batch as f64),
        ("T", sizes.new as f64),
        ("S", emit.inputs[1].rows_override()),
        ("N", sizes.heads as f64),
        ("K", sizes.kv_heads as f64),
        ("H", sizes.head_dim as f64),
        ("SCALE", f64::from(op.scale)),
        ("CAP", f64::from(op.softcap.unwrap_or(1.0))),
        ("PARTS", parts as f64),
    ];
    let mut bindings: Vec<(u32, Operand)> = (0..5).zip(&emit.inputs).map(|(i, arg)| (i, arg.operand())).collect();
    bindings.push((8, Operand::Step));
    if let Some(prologue) = prologue {
        overrides.extend(prologue.rope.overrides(sizes.head_dim, prologue.table.ty.last()));
        bind_prologue(prologue, &mut options, &mut overrides, &mut bindings);
    }
    let kernel = Kernel { shader, options, overrides, hole: String::new() };
    let work = work(emit, &sizes, parts);
    if op.keep {
        bindings.push((6, emit.inputs[5].operand()));
    }
    if parts == 1 {
        bindings.push((5, emit.output.operand()));
        emit.dispatch(kernel, bindings, [groups, 1], work);
        return Ok(());
    }
    let results = sizes.batch * sizes.new * sizes.heads;
    let partial = Operand::Slot(emit.scratch(results as u64 * (parts * (sizes.head_dim + 2) * 4) as u64), 0);
    bindings.push((7, partial.clone()));
    emit.dispatch(kernel, bindings, [groups, parts], work);
    combine(emit, &sizes, parts, partial);
    Ok(())
}

/// Queries, results (or their parts) and the decode prologue, besides the keys that queries see: two products a pair.
fn work(emit: &Emit, sizes: &Sizes, parts: usize) -> Work {
    let Sizes { batch, new, heads, kv_heads, head_dim, .. } = *sizes;
    let cached = emit.inputs[1].ty.dtype.scalar_bytes().unwrap_or(4);
    let written = if parts > 1 { parts * (head_dim + 2) } else { head_dim };
    let mut work = Work::of(4 * (batch * new * heads) as u64 * (head_dim + written) as u64, 0);
    if let Place::Slot(visible, _) = emit.inputs[3].place {
        let token_bytes = (2 * kv_heads * head_dim * cached + 4) as u64;
        let pair_flops = (4 * heads * head_dim) as u64;
        let pairs = [new as u64, sizes.cached as u64];
        work.attention = Some(AttentionWork { batch: batch as u64, token_bytes, pair_flops, visible, pairs });
    }
    if let Some(prologue) = emit.decode_prologue() {
        // Key and value are read and written once more, with their angles; the norm of an element is four operations,
        // its turn three.
        let rotated = prologue.rope.rotated(head_dim);
        let norm = if prologue.norms.is_some() { 4 * head_dim } else { 0 };
        work.bytes += (4 * batch * (2 * kv_heads * head_dim + rotated)) as u64;
        work.flops += (batch * (heads + kv_heads) * (3 * rotated + norm)) as u64;
    }
    work
}

impl Attention {
    /// Returns `true` if the kernel has a decode prologue for heads of `width`, rotated by a table of so many columns:
    /// queries, key and value lie in workgroup memory, and lanes turn whole vectors.
    pub(crate) fn has_decode_prologue(target: &Target, width: usize, rope: &Rope, columns: usize) -> bool {
        let Some(vector) = vector_of(width) else { return false };
        if target.lanes_work_alone() {
            return false;
        }
        if target.lanes_shuffle() {
            let lanes = target.tier.option().1 as usize;
            return 3 * 4 * width.next_multiple_of(4 * lanes) <= PROLOGUE_BYTES;
        }
        let whole = |dimensions: usize| dimensions.is_multiple_of(2 * vector);
        width / vector <= Layout::MOST_WIDTH && whole(rope.rotated(width)) && whole(columns)
    }
}

/// Options, sizes and operands of the decode prologue.
fn bind_prologue(
    prologue: DecodePrologue<Arg>,
    options: &mut Vec<(&'static str, String)>,
    overrides: &mut Vec<(&'static str, f64)>,
    bindings: &mut Vec<(u32, Operand)>,
) {
    bindings.extend([(9, prologue.key.operand()), (10, prologue.value.operand()), (11, prologue.table.operand())]);
    let Some(norms) = prologue.norms else {
        options.push(Gain::None.option());
        return;
    };
    options.push(norms[0].op.gain.option());
    overrides.push(("EPS", f64::from(norms[0].op.eps)));
    for (norm, binding) in norms.into_iter().zip(12..) {
        let Some(gain) = norm.gain else { continue };
        if binding == 12 {
            options.extend([weight_option(gain.ty.dtype), ("WEIGHTS", "2".into())]);
        }
        bindings.push((binding, gain.operand()));
    }
}

/// Puts the parts of all results together.
fn combine(emit: &mut Emit, sizes: &Sizes, parts: usize, partial: Operand) {
    let overrides = vec![
        ("BATCH", sizes.batch as f64),
        ("T", sizes.new as f64),
        ("N", sizes.heads as f64),
        ("H", sizes.head_dim as f64),
        ("PARTS", parts as f64),
    ];
    let kernel = Kernel { shader: "attention_combine", options: vec![("LANES", "64".into())], overrides, hole: String::new() };
    let bindings = vec![(5, emit.output.operand()), (7, partial), (8, Operand::Step)];
    let results = sizes.batch * sizes.new * sizes.heads;
    let width = sizes.head_dim;
    let [counted, parts, width] = [results, parts, width].map(|size| size as u64);
    let work = Work::of(4 * counted * (parts * (width + 2) + width), 2 * counted * parts * width);
    emit.dispatch(kernel, bindings, [results, 1], work);
}

/// Cached rows from which on a device may be faster with fewer parts.
const MANY_ROWS: usize = 4096;

/// Parts that the keys are split into, so that the workgroups of a decode step fill the device: on GPUs 256 workgroups,
/// as the large ones have about a hundred compute units, of at least 64 keys each. Fewer may suffice: a half, a
/// quarter. Drivers on the CPU have few cores.
fn parts(emit: &mut Emit, sizes: &Sizes, groups: usize) -> usize {
    let (wanted, least_keys) = match emit.target {
        target if target.lanes_work_alone() => (8, 256),
        target if target.lanes_shuffle() => (8, 512),
        _ => (256, 64),
    };
    let most = (wanted / groups.max(1)).min(sizes.cached / least_keys).clamp(1, 64);
    if emit.target.software || sizes.cached < MANY_ROWS || most < 4 {
        return most;
    }
    // Caches of any such size take the same share.
    let work = format!("{} in {groups} groups, {MANY_ROWS} rows and more", sizes.work("attention parts", emit.target));
    most >> emit.choose(work, 3)
}
