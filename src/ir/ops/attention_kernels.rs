//! The kernels of attention, and which of them an attention takes.

use super::{Attention, Gain, Rope};
use crate::{
    Result,
    ir::{
        Compute,
        emit::{Arg, Emit, Place},
        fusion::DecodePrologue,
        kernel::{Kernel, Operand, Target, Tier, weight_option},
        work::{AttentionWork, Work},
    },
};

/// The most queries of a KV head that lie in registers of one workgroup, on GPUs.
const FEW_QUERIES: usize = 16;

/// The fewest new tokens whose attention goes through cooperative matrices.
const LEAST_MATRIX_ROWS: usize = 32;

/// Workgroup memory that every device has, less what a kernel declares besides its arrays.
const WORKGROUP_BYTES: usize = (16 << 10) - 64;

/// Workgroup memory for queries, key and value of the decode prologue, in the kernel of drivers on the CPU.
const PROLOGUE_BYTES: usize = 10 << 10;

/// Sizes of an attention.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    new: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    cached: usize,
}

impl Sizes {
    fn of(emit: &Emit) -> Self {
        let q = &emit.inputs[0].ty.shape;
        let k = &emit.inputs[1].ty.shape;
        Self { batch: q[0], new: q[1], heads: q[2], kv_heads: k[2], head_dim: q[3], cached: k[1] }
    }

    /// The work of a kernel, for [`Emit::choose`].
    fn work(&self, kernel: &str, target: &Target) -> String {
        let Self { new, heads, kv_heads, head_dim, .. } = self;
        format!("{kernel}, {}: {heads} heads on {kv_heads} of {head_dim}, {new} queries", target.tier.option().0)
    }

    /// Queries of a KV head: pairs of a new token and a head.
    fn queries(&self) -> usize {
        self.new * (self.heads / self.kv_heads)
    }
}

/// Elements of the vectors that heads of `width` are read by; none for an odd width.
fn vector_of(width: usize) -> Option<usize> {
    [4, 2].into_iter().find(|vector| width.is_multiple_of(*vector))
}

/// A kernel's file, its layout as options, and the queries of a workgroup.
struct Layout {
    shader: &'static str,
    options: Vec<(&'static str, String)>,
    queries: usize,
}

/// Returns `true` if the device takes the kernel for drivers on the CPU.
fn is_of_software(target: &Target) -> bool {
    target.software && matches!(target.tier, Tier::Subgroup(_))
}

/// Devices without subgroup operations are mostly small ones, with 32 to 64 registers a lane.
fn is_small(target: &Target) -> bool {
    target.tier == Tier::Portable
}

/// The options TIER, LANES and ROLLED of the kernels for GPUs, where a workgroup has several subgroups.
fn gpu_options(target: &Target, lanes: usize) -> Vec<(&'static str, String)> {
    let tier = if target.tier == Tier::Portable { "portable" } else { "subgroups" };
    vec![("TIER", tier.into()), ("LANES", lanes.to_string()), ("ROLLED", yes(target.rolled))]
}

impl Layout {
    fn of(emit: &mut Emit, sizes: &Sizes, has_prologue: bool) -> Result<Self> {
        let Some(vector) = vector_of(sizes.head_dim) else { return Err(emit.refuse("no kernel for an odd head dimension")) };
        if is_of_software(emit.target) {
            return Ok(Self::software(emit.target, sizes, vector, has_prologue));
        }
        let width = sizes.head_dim / vector;
        if width > Self::MOST_WIDTH {
            return Err(emit.refuse(format!("no kernel for heads of {} elements", sizes.head_dim)));
        }
        if sizes.queries() <= FEW_QUERIES {
            return Ok(Self::few(emit, sizes, vector));
        }
        let mut layouts = Self::many(emit, sizes, vector);
        let chosen = emit.choose(sizes.work("attention of many", emit.target), layouts.len());
        Ok(layouts.swap_remove(chosen))
    }

    /// The most vectors of a head: one a lane of the largest workgroup.
    const MOST_WIDTH: usize = 256;

    /// One subgroup a workgroup, and as many queries at a time as registers hold; each key is read once for all of
    /// them. On the CPU a spilled register is read faster than a key, but one token's queries are few and fill the
    /// cores as small groups.
    fn software(target: &Target, sizes: &Sizes, vector: usize, has_prologue: bool) -> Self {
        let lanes = target.tier.option().1 as usize;
        let held = sizes.head_dim.div_ceil(vector * lanes);
        let shuffles = lanes >= 8 && sizes.head_dim.is_multiple_of(8);
        let vectors = match sizes.new {
            1 => 16,
            2..=16 if shuffles => 32,
            _ if shuffles => 64,
            _ => 16,
        };
        let queries = (vectors / held).clamp(1, 8).min(sizes.queries().next_power_of_two());
        // Queries of a prologue lie in workgroup memory, beside its key and value.
        let room = (PROLOGUE_BYTES / (held * lanes * vector * 4)).saturating_sub(2).max(1);
        let queries = if has_prologue { queries.min(room) } else { queries };
        let options = vec![
            ("TIER", "subgroup".into()),
            ("LANES", lanes.to_string()),
            ("QUERIES", queries.to_string()),
            ("READ", if shuffles { "shuffle" } else { "load" }.into()),
            ("VEC", vector.to_string()),
            ("HV", held.to_string()),
            ("WIDE", yes(shuffles && target.int64 && vector == 4)),
        ];
        Self { shader: "attention", options, queries }
    }

    /// Queries in workgroup memory, keys split among lanes.
    fn few(emit: &mut Emit, sizes: &Sizes, vector: usize) -> Self {
        let target = emit.target;
        let width = sizes.head_dim / vector;
        let lanes = if width > 128 { 256 } else { 128 };
        let split = if target.tier != Tier::Portable && width.is_multiple_of(4) { 4 } else { 1 };
        let fits = |queries: &usize| Self::few_bytes(target, *queries, width, vector, lanes) <= WORKGROUP_BYTES;
        let wanted = sizes.queries().next_power_of_two().min(if is_small(target) { 2 } else { 4 });
        let most: usize = [4, 2].into_iter().filter(|queries| *queries <= wanted).find(fits).unwrap_or(1);
        let queries = most >> emit.choose(sizes.work("attention_few", target), most.min(2));
        let products = if width > 64 { 8 } else { 16 };
        // The products of so many vectors of a key with all queries fit registers.
        let depth = [8, 4, 2]
            .into_iter()
            .find(|depth| depth * queries <= products && (width / split).is_multiple_of(*depth))
            .unwrap_or(1);
        let mut options = gpu_options(target, lanes);
        options.extend([
            ("QUERIES", queries.to_string()),
            ("ROOM", Self::room(queries, width, lanes).to_string()),
            ("VEC", vector.to_string()),
            ("SPLIT", split.to_string()),
            ("DEPTH", depth.to_string()),
            ("WIDE", yes(false)),
        ]);
        Self { shader: "attention_few", options, queries }
    }

    /// Vectors of queries, or of one a lane, in workgroup memory.
    fn room(queries: usize, width: usize, lanes: usize) -> usize {
        (queries * width).max(lanes).next_power_of_two()
    }

    /// Workgroup memory of `attention_few`.
    fn few_bytes(target: &Target, queries: usize, width: usize, vector: usize, lanes: usize) -> usize {
        // Of each reduction a number for each lane, or for each subgroup of at least four.
        let met = if target.tier == Tier::Portable { lanes } else { lanes / 4 };
        4 * (Self::room(queries, width, lanes) * vector + queries * lanes + (queries + 1) * met + 2 * met)
    }

    /// By the device's matrix units, where numbers may be f16 and there are new tokens enough; else, or where that may
    /// be faster, by tiles without them. None has more queries a workgroup than the first, so that none has more parts,
    /// which take scratch.
    fn many(emit: &Emit, sizes: &Sizes, vector: usize) -> Vec<Self> {
        let mut layouts: Vec<Self> = Self::coop(emit, sizes, vector).into_iter().collect();
        if layouts.is_empty() || emit.compute == Compute::Auto {
            layouts.extend(Self::tiles(emit.target, sizes, vector));
        }
        let most = layouts.first().map_or(0, |layout| layout.queries);
        layouts.retain(|layout| layout.queries <= most);
        layouts
    }

    /// Products of tiles by matrix units.
    fn coop(emit: &Emit, sizes: &Sizes, vector: usize) -> Option<Self> {
        let tile = emit.target.cooperative.filter(|_| emit.compute != Compute::F32 && sizes.new >= LEAST_MATRIX_ROWS)?;
        let side = tile.m as usize;
        let lanes = tile.lanes as usize;
        let columns = sizes.head_dim.div_ceil(4 * side);
        // Of the results a lane holds at most 64 numbers, if subgroups have the size that the device likely takes.
        let held = |rows: usize| rows * columns * side * side / (lanes / 4);
        let fits = |rows: usize| held(rows) <= 64 && Self::coop_bytes(rows, columns, side, lanes) <= tile.memory as usize;
        let rows = [4, 2, 1].into_iter().find(|rows| fits(*rows))?;
        let mut options = gpu_options(emit.target, lanes);
        let sizes = [("P", side), ("ROWS", rows), ("COLS", columns), ("VEC", vector)];
        options.extend(sizes.map(|(name, size)| (name, size.to_string())));
        options.push(("WIDE", yes(false)));
        Some(Self { shader: "attention_coop", options, queries: rows * side })
    }

    /// Workgroup memory of `attention_coop`.
    fn coop_bytes(rows: usize, columns: usize, side: usize, lanes: usize) -> usize {
        let queries = rows * side;
        let keys = (4 * side / rows).max(32);
        let key_slice = keys * (128 * side / keys + 8);
        let value_slice = 32 * (4 * side + 8);
        let halves = queries * (4 * side * columns + 8) + key_slice.max(value_slice) + queries * (keys + 8);
        // Scores, a number for each lane, one for each row and key, ends for each subgroup of at least four, and what
        // alignment takes.
        let words = queries * (keys + 4) + lanes.max(queries) + queries + keys + 2 * (lanes / 4) + 8;
        2 * halves + 4 * words
    }

    /// Tiles of queries and keys in workgroup memory; at most 16 vectors of results lie in a lane's registers, on small
    /// devices 4. Half as many may be faster, on a device that has fewer registers.
    fn tiles(target: &Target, sizes: &Sizes, vector: usize) -> Vec<Self> {
        let held = (sizes.head_dim / vector).div_ceil(16);
        let vectors = if is_small(target) { 4 } else { 16 };
        let most: usize = [4, 2].into_iter().find(|rows| rows * held <= vectors).unwrap_or(1);
        let of = |rows: usize| {
            let mut options = gpu_options(target, 128);
            options.extend([
                ("ROWS", rows.to_string()),
                ("HV", held.to_string()),
                ("VEC", vector.to_string()),
                ("WIDE", yes(false)),
            ]);
            Self { shader: "attention_tile", options, queries: 8 * rows }
        };
        [most, most / 2].into_iter().filter(|rows| *rows > 0).map(of).collect()
    }
}

fn yes(is: bool) -> String {
    if is { "yes".into() } else { "no".into() }
}

/// Emits the dispatches of `op`.
pub(super) fn emit(op: &Attention, emit: &mut Emit) -> Result<()> {
    let sizes = Sizes::of(emit);
    let prologue = emit.decode_prologue().cloned();
    let Layout { shader, mut options, queries } = Layout::of(emit, &sizes, prologue.is_some())?;
    let groups = sizes.batch * sizes.kv_heads * sizes.queries().div_ceil(queries);
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
    let partial = Operand::Slot(emit.scratch((results * parts * (sizes.head_dim + 2) * 4) as u64), 0);
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
    let mut work = Work::of(4 * batch * new * heads * (head_dim + written), 0);
    if let Place::Slot(visible, _) = emit.inputs[3].place {
        let token_bytes = (2 * kv_heads * head_dim * cached + 4) as u64;
        let pair_flops = (4 * heads * head_dim) as u64;
        work.attention = Some(AttentionWork { batch: batch as u64, token_bytes, pair_flops, visible });
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
        if is_of_software(target) {
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
    let work = Work::of(4 * results * (parts * (width + 2) + width), 2 * results * parts * width);
    emit.dispatch(kernel, bindings, [results, 1], work);
}

/// Cached rows from which on a device may be faster with fewer parts.
const MANY_ROWS: usize = 4096;

/// Parts that the keys are split into, so that the workgroups of a decode step fill the device: on GPUs 256 workgroups,
/// as the large ones have about a hundred compute units, of at least 64 keys each. Fewer may suffice: a half, a
/// quarter.
fn parts(emit: &mut Emit, sizes: &Sizes, groups: usize) -> usize {
    let (wanted, least_keys) = if is_of_software(emit.target) { (8, 512) } else { (256, 64) };
    let most = (wanted / groups.max(1)).min(sizes.cached / least_keys).clamp(1, 64);
    if emit.target.software || sizes.cached < MANY_ROWS || most < 4 {
        return most;
    }
    // Caches of any such size take the same share.
    let work = format!("{} in {groups} groups, {MANY_ROWS} rows and more", sizes.work("attention parts", emit.target));
    most >> emit.choose(work, 3)
}
