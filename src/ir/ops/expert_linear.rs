//! Matrix products with the weights of chosen experts.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{
    Lowering, OpDef, expect_operands,
    linear::{EACH_COLUMNS, FEW_ROWS, LinearParams, groups},
    linear_vec::{Division, Few},
    product::{Matrix, Scratch},
};
use crate::{
    Result,
    ir::{
        Case, DType, Data, Dim, FixedType, Packed, Shape, Type, Value,
        emit::{Arg, Emit},
        expect_dtype, expect_weight,
        kernel::{Kernel, Operand},
        tolerance::{Scale, Tolerance},
        work::{WeightsRead, Work},
    },
};

/// Most experts whose products can be grouped: the kernel counts each one's in workgroup memory.
pub(crate) const MOST_EXPERTS: usize = 1024;

/// Most experts of any product.
pub(crate) const MOST_UNGROUPED: usize = 1 << 16;

/// The average number of products of an expert up to which lanes split k.
const FEW_PRODUCTS: usize = 8;

/// Products of a workgroup of a kernel for few rows. Experts differ in how many they have.
fn most_of_few(few: usize) -> usize {
    (2 * few).min(4)
}

/// `y[…, j, n] = Σᵢ x[…, j, i] · W[e·N + n, i]`, e being the j-th expert of the row's [`Route`](super::Route) `[…, 2,
/// k]`.
///
/// x is `[…, k, K]`, or `[…, 1, K]` where all k products have one operand; W is `[E·N, K]`, the matrices of the experts
/// one behind the other, as stored, packed or not. The result is `[…, k, N]`. An index past the last expert stands for
/// that one.
///
/// Few rows read the weights of their experts once a product; more are grouped by expert on the device, and weights are
/// read once a tile of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertLinear {
    /// Experts E.
    pub experts: usize,
}

/// The kernel of one product with experts.
struct Form {
    shader: &'static str,
    options: Vec<(&'static str, String)>,
    /// Most rows of a tile.
    height: usize,
    /// Columns of a workgroup.
    width: usize,
}

impl Form {
    /// The kernel where each expert has `average` products, or where they are not grouped.
    fn of(emit: &Emit, weight: &Arg, average: Option<usize>) -> Self {
        let means = LinearParams::of(emit.target);
        let weights = std::slice::from_ref(weight);
        let dtype = weight.ty.dtype;
        let inner = emit.inputs[0].ty.last();
        let few = average.unwrap_or(1).max(1);
        let experts = ("EXPERTS", if average.is_some() { "tiles" } else { "each" }.to_string());
        let one_row = |held: usize| if held <= 2 { 2 } else { 4 };
        if means.wide && dtype.is_half_word() && inner.is_multiple_of(16) {
            let height = few.min(8);
            let mut options = means.options(emit, weights, ("LANES", means.lanes), one_row(height), height);
            options.retain(|(name, _)| *name != "VEC");
            options.extend([("MAXIMA", "no".into()), experts]);
            Self { shader: "linear_wide", options, height, width: one_row(height) * means.lanes }
        } else if means.software {
            let height = few.min(6);
            let mut options = means.options(emit, weights, ("LANES", means.lanes), one_row(height), height);
            options.extend([("MAXIMA", "no".into()), groups(dtype, height), experts]);
            Self { shader: "linear_tile", options, height, width: one_row(height) * means.lanes }
        } else if emit.target.lanes_work_alone() {
            let height = average.map_or(1, |_| most_of_few(few));
            let mut options = means.each_options(emit, weights, height);
            options.extend([("MAXIMA", "no".into()), experts]);
            Self { shader: "linear_each", options, height, width: EACH_COLUMNS }
        } else if few <= FEW_PRODUCTS {
            let height = average.map_or(1, |_| most_of_few(few));
            let columns = emit.output.ty.last();
            let products = emit.output.ty.rows();
            let layers = products.div_ceil(height);
            let tier = emit.target.tier;
            let few = Few { dtype, weights: 1, held: height, normed: false, inner, columns, layers, tier };
            let division = Division::of(&few);
            let mut options = division.options(&few, emit.compute);
            options.extend([("MAXIMA", "no".into()), ("NORM", "none".into()), experts]);
            Self { shader: "linear_vec", options, height, width: division.width() }
        } else {
            let held = few.div_ceil(16).next_power_of_two().min(4);
            let mut options = means.options(emit, weights, ("DEPTH", 16), 4, held);
            options.push(experts);
            Self { shader: "linear_tile_shared", options, height: 16 * held, width: 16 * 4 }
        }
    }

    /// Workgroups and layers for `tiles` tiles of `columns` columns.
    fn grid(&self, tiles: usize, columns: usize) -> (usize, usize) {
        match self.shader {
            "linear_each" | "linear_vec" => (columns.div_ceil(self.width), tiles),
            _ => (tiles * columns.div_ceil(self.width), 1),
        }
    }
}

/// Products of a row of experts.
struct Products {
    count: usize,
    /// Experts of a row.
    top: usize,
    /// Products that share a row of x.
    share: usize,
}

impl ExpertLinear {
    pub(super) fn example() -> Self {
        Self { experts: 1 }
    }

    /// Emits the dispatch that groups the products; what a kernel binds of its result, and how many tiles there may be.
    fn group(&self, emit: &mut Emit, route: &Arg, products: &Products, height: usize) -> (Vec<(u32, Operand)>, usize) {
        let busy = self.experts.min(products.count);
        let tiles = (products.count - busy) / height + busy;
        let order = Operand::Slot(emit.scratch(4 * products.count as u64), 0);
        let list = Operand::Slot(emit.scratch(16 * tiles as u64), 0);
        let lanes = if emit.target.software { "64" } else { "256" };
        let sizes = [products.count, products.top, self.experts, tiles, height];
        let overrides = ["P", "TOP", "E", "TILES", "HEIGHT"].into_iter().zip(sizes.map(|size| size as f64)).collect();
        let options = vec![("LANES", lanes.into())];
        let kernel = Kernel { shader: "expert_tiles", options, overrides, hole: String::new() };
        let bindings = vec![(0, route.operand()), (1, order.clone()), (2, list.clone())];
        emit.dispatch(kernel, bindings, [1, 1], Work::moves((8 * products.count + 16 * tiles) as u64));
        (vec![(6, list), (7, order)], tiles)
    }

    /// The work of the products with `bound` rows of the matrices of all experts, each of which has `columns` rows.
    fn work(&self, products: &Products, inner: usize, columns: usize, bound: usize) -> Work {
        let part = |of_all: u64| (u128::from(of_all) * bound as u128 / (self.experts * columns).max(1) as u128) as u64;
        let [count, own, inner, columns] =
            [products.count, products.count / products.share, inner, columns].map(|size| size as u64);
        let bytes = 4 * (own * inner + part(count * columns));
        let read = products.count.min(self.experts) as u64;
        let weights = WeightsRead::Parts { read, of: self.experts as u64 };
        Work { weights, ..Work::of(bytes, part(2 * count * inner * columns)) }
    }

    /// The products of each expert.
    fn by_expert(&self, route: &[f32], top: usize) -> Vec<(usize, Vec<usize>)> {
        let mut found = BTreeMap::<usize, Vec<usize>>::new();
        for (row, route) in route.chunks_exact(2 * top).enumerate() {
            for (j, id) in route[..top].iter().enumerate() {
                found.entry((*id as usize).min(self.experts - 1)).or_default().push(row * top + j);
            }
        }
        found.into_iter().collect()
    }
}

impl OpDef for ExpertLinear {
    fn name(&self) -> &'static str {
        "expert_linear"
    }

    fn attributes(&self) -> String {
        format!("{{experts={}}}", self.experts)
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x, weight, route] = expect_operands(inputs)?;
        expect_dtype("x", x, &[DType::F32])?;
        expect_weight("the weight", weight)?;
        expect_dtype("the route", route, &[DType::F32])?;
        let wrong = || format!("expected x […, 1 or k, K], a weight [E·N, K] of {} experts and a route […, 2, k]", self.experts);
        let rank = x.shape.rank();
        let rows = weight.shape.0.first().and_then(|rows| rows.fixed()).unwrap_or(0);
        if !(1..=MOST_UNGROUPED).contains(&self.experts) || weight.shape.rank() != 2 || !rows.is_multiple_of(self.experts) {
            return Err(wrong());
        }
        if rank < 2 || route.shape.rank() != rank || weight.shape.last() != x.shape.last() {
            return Err(wrong());
        }
        let lead = &x.shape.0[..rank - 2];
        let own = x.shape.0[rank - 2];
        let top = route.shape.0[rank - 1];
        if top.fixed().is_none()
            || route.shape.0 != [lead, &[Dim::from(2), top][..]].concat()
            || (own != top && own.fixed() != Some(1))
        {
            return Err(wrong());
        }
        Ok(Type::new(DType::F32, Shape([lead, &[top, Dim::from(rows / self.experts)][..]].concat())))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let x = inputs[0].to_f32()?;
        let route = inputs[2].to_f32()?;
        let top = output.shape[output.shape.len() - 2];
        let columns = output.last();
        let inner = inputs[0].shape.last().copied().unwrap_or(1);
        let share = output.rows() * inner / x.len().max(1);
        let matrix = Matrix::new(inputs[1])?;
        let product = |(expert, products): &(usize, Vec<usize>)| -> Result<Vec<f32>> {
            let mut rows = Vec::with_capacity(products.len() * inner);
            products.iter().for_each(|p| rows.extend_from_slice(&x[p / share * inner..][..inner]));
            let mut out = vec![0.0; products.len() * columns];
            let mut scratch = Scratch::default();
            let tile = matrix.tile(products.len());
            for first in (0..columns).step_by(tile) {
                let count = tile.min(columns - first);
                let start = expert * columns + first;
                let part = matrix.multiply(&rows, start..start + count, &mut scratch)?;
                let to = out.chunks_exact_mut(columns).zip(part.chunks_exact(count));
                to.for_each(|(out, part)| out[first..first + count].copy_from_slice(part));
            }
            Ok(out)
        };
        let experts = self.by_expert(&route, top);
        let parts = experts.par_iter().map(product).collect::<Result<Vec<_>>>()?;
        let mut out = vec![0.0; output.len()];
        for ((_, products), part) in experts.iter().zip(parts) {
            let rows = products.iter().zip(part.chunks_exact(columns));
            rows.for_each(|(p, row)| out[p * columns..][..columns].copy_from_slice(row));
        }
        Ok(Data::F32(out))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let route = emit.inputs.remove(2);
        let weight = emit.inputs.remove(1);
        let shape = emit.output.ty.shape.clone();
        let x = emit.inputs[0].clone();
        let [top, columns] = [shape[shape.len() - 2], shape[shape.len() - 1]];
        let count = emit.output.ty.rows();
        let products = Products { count, top, share: count / x.ty.rows().max(1) };
        let grouped = count / top > FEW_ROWS && self.experts <= MOST_EXPERTS;
        let form = Form::of(emit, &weight, grouped.then_some(count / self.experts));
        let (lists, tiles) =
            if grouped { self.group(emit, &route, &products, form.height) } else { (vec![(6, route.operand())], count) };
        let (workgroups, layers) = form.grid(tiles, columns);
        for (rows, part) in weight.shards() {
            let sizes = [count, x.ty.last(), columns, columns, self.experts, products.share, rows.start, rows.len()];
            let names = ["T", "IN", "OUT", "OUT_STRIDE", "E", "SHARE", "FIRST_ROW", "BOUND"];
            let mut overrides: Vec<_> = names.into_iter().zip(sizes.map(|size| size as f64)).collect();
            overrides.push(if grouped { ("TILES", tiles as f64) } else { ("TOP", top as f64) });
            let hole = emit.epilogue.text.clone();
            let kernel = Kernel { shader: form.shader, options: form.options.clone(), overrides, hole };
            let mut bindings = vec![(0, x.operand()), (1, emit.output.operand()), (2, part)];
            bindings.extend(lists.iter().cloned());
            emit.dispatch(kernel, bindings, [workgroups, layers], self.work(&products, x.ty.last(), columns, rows.len()));
        }
        Ok(())
    }

    fn takes_shards(&self, operand: usize) -> bool {
        operand == 1
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        Tolerance::new(Tolerance::of_sum(case.width()), Scale::Absolute, 0.0)
    }

    fn cases(&self) -> Vec<Case> {
        cases()
    }
}

/// A route of `rows` rows to `top` of `experts`: neighbours, so that a row's are distinct, from a first that varies
/// with the row.
fn route(rows: usize, experts: usize, top: usize) -> Value {
    let first = |row: usize| row * row * 7 + row;
    let of = |row: usize| (0..top).map(move |j| ((first(row) + j) % experts) as f32).chain(std::iter::repeat_n(0.5, top));
    Value::f32([1, rows, 2, top], (0..rows).flat_map(of).collect())
}

fn cases() -> Vec<Case> {
    // Rows, experts and how many of them, K, N; `shared` if the products of a row share their operand.
    let case = |[rows, experts, top]: [usize; 3], [inner, out]: [usize; 2], shared: bool, dtype: DType| {
        let own = if shared { 1 } else { top };
        let x = Case::values(&[1, rows, own, inner], 1, 1.0);
        let weight = Case::weight(&[experts * out, inner], 2, 1.0, dtype);
        let name = format!("{rows} rows, {top} of {experts}, {inner}x{out}, {}, {dtype}", if shared { "shared" } else { "own" });
        Case::new(name, ExpertLinear { experts }, vec![x, weight, route(rows, experts, top)])
    };
    let sizes = [
        ([1, 1, 1], [1, 1], true),
        ([1, 5, 2], [20, 33], true),
        ([1, 128, 8], [64, 66], false),
        ([3, 6, 3], [40, 20], true),
        ([8, 4, 2], [48, 65], false),
        ([9, 3, 3], [32, 7], true),
        ([10, 128, 8], [32, 20], true),
        ([33, 8, 2], [64, 34], true),
        ([40, 5, 4], [36, 70], false),
        ([70, 2, 1], [80, 66], true),
        ([9, 1100, 2], [8, 3], true),
    ];
    let types = [DType::F32, DType::F16, DType::BF16];
    let scalar =
        sizes.iter().enumerate().map(|(i, (rows, [inner, out], shared))| case(*rows, [*inner, *out], *shared, types[i % 3]));
    let wide = [case([2, 7, 3], [96, 40], true, DType::BF16), case([20, 7, 3], [96, 40], false, DType::BF16)];
    let packed = Packed::all().flat_map(|format| {
        let inner = format.block_elements() * if format.block_elements() > 32 { 1 } else { 3 };
        let dtype = DType::Packed(format);
        // Kernels differ in how they ask for a packed format's elements by their numbers of rows alone.
        let count = if ["Q4_0", "Q6_K"].contains(&format.name()) { 2 } else { 1 };
        [case([1, 5, 2], [inner, 36], true, dtype), case([17, 5, 2], [inner, 36], false, dtype)].into_iter().take(count)
    });
    let mut lost = case([4, 3, 2], [24, 10], true, DType::F32);
    lost.name = "indices that no expert has".into();
    lost.inputs[2] = Value::f32([1, 4, 2, 2], [7.0, 1.0, 0.5, 0.5, 1e9, 0.0, 0.5, 0.5].repeat(2));
    scalar.chain(wide).chain(packed).chain([lost]).collect()
}

#[cfg(test)]
mod tests;
