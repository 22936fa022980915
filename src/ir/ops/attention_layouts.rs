//! Which kernel an attention takes, and in which layout.

use crate::{
    Result,
    ir::{
        Compute,
        emit::Emit,
        kernel::{Target, Tier},
    },
};

/// The most queries of a KV head that lie in registers of one workgroup, on GPUs.
const FEW_QUERIES: usize = 16;

/// The fewest new tokens whose attention goes through cooperative matrices.
const LEAST_MATRIX_ROWS: usize = 32;

/// Workgroup memory that every device has, less what a kernel declares besides its arrays.
const WORKGROUP_BYTES: usize = (16 << 10) - 64;

/// Workgroup memory for queries, key and value of the decode prologue, in the kernel of drivers on the CPU.
pub(super) const PROLOGUE_BYTES: usize = 10 << 10;

/// Sizes of an attention.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    pub new: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub cached: usize,
}

impl Sizes {
    pub fn of(emit: &Emit) -> Self {
        let q = &emit.inputs[0].ty.shape;
        let k = &emit.inputs[1].ty.shape;
        Self { batch: q[0], new: q[1], heads: q[2], kv_heads: k[2], head_dim: q[3], cached: k[1] }
    }

    /// The work of a kernel, for [`Emit::choose`].
    pub fn work(&self, kernel: &str, target: &Target) -> String {
        let Self { new, heads, kv_heads, head_dim, .. } = self;
        format!("{kernel}, {}: {heads} heads on {kv_heads} of {head_dim}, {new} queries", target.tier.option().0)
    }

    /// Queries of a KV head: pairs of a new token and a head.
    pub fn queries(&self) -> usize {
        self.new * (self.heads / self.kv_heads)
    }

    /// Workgroups of so many queries of a KV head each.
    fn groups(&self, queries: usize) -> usize {
        self.batch * self.kv_heads * self.queries().div_ceil(queries)
    }
}

/// Elements of the vectors that heads of `width` are read by; none for an odd width.
pub(super) fn vector_of(width: usize) -> Option<usize> {
    [4, 2].into_iter().find(|vector| width.is_multiple_of(*vector))
}

/// A kernel's file, its layout as options, and its workgroups for all keys.
pub(super) struct Layout {
    pub shader: &'static str,
    pub options: Vec<(&'static str, String)>,
    pub groups: usize,
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
    pub fn of(emit: &mut Emit, sizes: &Sizes, has_prologue: bool) -> Result<Self> {
        let Some(vector) = vector_of(sizes.head_dim) else { return Err(emit.refuse("no kernel for an odd head dimension")) };
        if emit.target.lanes_shuffle() {
            let lanes = Self::lanes(emit.target, sizes).filter(|_| !has_prologue);
            return Ok(lanes.unwrap_or_else(|| Self::software(emit.target, sizes, vector, has_prologue)));
        }
        if emit.target.lanes_work_alone() {
            return Ok(Self::each(sizes, vector));
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
    pub const MOST_WIDTH: usize = 256;

    /// One subgroup a workgroup, and as many queries at a time as registers hold; each key is read once for all of
    /// them. On the CPU a spilled register is read faster than a key, but one token's queries are few and fill the
    /// cores as small groups.
    fn software(target: &Target, sizes: &Sizes, vector: usize, has_prologue: bool) -> Self {
        let lanes = target.tier.option().1 as usize;
        let held = sizes.head_dim.div_ceil(vector * lanes);
        let shuffles = sizes.head_dim.is_multiple_of(8);
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
        Self { shader: "attention", options, groups: sizes.groups(queries) }
    }

    /// A lane has queries to itself, where heads are narrow and the queries many, as in a tower: twice as fast as
    /// [`software`](Self::software), and compiled for ten seconds where that takes two (lavapipe, heads of 72).
    fn lanes(target: &Target, sizes: &Sizes) -> Option<Self> {
        let lanes = target.tier.option().1 as usize;
        let width = sizes.head_dim / 4;
        let own = 3;
        let queries = lanes * own;
        if !sizes.head_dim.is_multiple_of(4) || width > Self::MOST_LANE_WIDTH || sizes.queries() < queries {
            return None;
        }
        let options = vec![
            ("TIER", "subgroup".into()),
            ("LANES", lanes.to_string()),
            ("OWN", own.to_string()),
            ("KEYS", lanes.min(8).to_string()),
            ("WIDTH", width.to_string()),
            ("VEC", "4".into()),
            ("WIDE", yes(target.int64)),
        ];
        Some(Self { shader: "attention_lanes", options, groups: sizes.groups(queries) })
    }

    /// The most vectors of a head in `attention_lanes`.
    const MOST_LANE_WIDTH: usize = 24;

    /// A lane has a query to itself, and no other lane's help.
    fn each(sizes: &Sizes, vector: usize) -> Self {
        let lanes = 4;
        let layout = [("LANES", lanes), ("WIDTH", sizes.head_dim / vector), ("VEC", vector)];
        let mut options = Vec::from(layout.map(|(name, size)| (name, size.to_string())));
        options.push(("WIDE", yes(false)));
        Self { shader: "attention_each", options, groups: (sizes.batch * sizes.new * sizes.heads).div_ceil(lanes) }
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
        Self { shader: "attention_few", options, groups: sizes.groups(queries) }
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
    /// be faster, by tiles without them. None has fewer workgroups than the first, so that none has more parts, which take
    /// scratch.
    fn many(emit: &Emit, sizes: &Sizes, vector: usize) -> Vec<Self> {
        let mut layouts: Vec<Self> = Self::coop(emit, sizes, vector).into_iter().collect();
        if layouts.is_empty() || emit.compute == Compute::Auto {
            layouts.extend(Self::tiles(emit.target, sizes, vector));
        }
        let fewest = layouts.first().map_or(0, |layout| layout.groups);
        layouts.retain(|layout| layout.groups >= fewest);
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
        let layout = [("P", side), ("ROWS", rows), ("COLS", columns), ("VEC", vector)];
        options.extend(layout.map(|(name, size)| (name, size.to_string())));
        options.push(("WIDE", yes(false)));
        Some(Self { shader: "attention_coop", options, groups: sizes.groups(rows * side) })
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
            Self { shader: "attention_tile", options, groups: sizes.groups(8 * rows) }
        };
        [most, most / 2].into_iter().filter(|rows| *rows > 0).map(of).collect()
    }
}

pub(super) fn yes(is: bool) -> String {
    if is { "yes".into() } else { "no".into() }
}
