//! WGSL of elementwise regions, written by pulling elements from the sink.

use std::collections::BTreeMap;

use super::{bound::Bound, fuse::Group};
use crate::{
    Error, Result,
    ir::{
        DType, NodeId, Op,
        emit::{Arg, Emit, Epilogue, Place},
        kernel::Kernel,
        ops::{Broadcast, Concat, strides},
        work::Work,
    },
};

/// The first binding of operands of generated text.
const FIRST_BINDING: u32 = 16;

/// Where slices begin: sizes of the kernel instead of text, so that those which differ in them alone share a pipeline
/// where sizes are data.
const STARTS: [&str; 8] = ["START0", "START1", "START2", "START3", "START4", "START5", "START6", "START7"];

/// `fn epilogue(i, v) -> f32` over the result of the group's root, or `(i, v0, v1)` over those of its pair, with its
/// bindings for `operands`.
pub(super) fn epilogue(bound: &Bound, group: &Group, operands: Vec<Arg>) -> Result<Epilogue> {
    let names: &[&str] = if group.roots.len() == 2 { &["v0", "v1"] } else { &["v"] };
    let values = group.roots.iter().copied().zip(names.iter().copied()).collect();
    let Written { body, result, overrides } = Text::write(bound, group, values)?;
    let parameters: String = names.iter().map(|name| format!(", {name}: f32")).collect();
    let declared = declarations(bound, group, &overrides);
    let text = format!("{declared}fn epilogue(i: u32{parameters}) -> f32 {{\n{body}    return {result};\n}}\n");
    Ok(Epilogue { text, overrides, operands })
}

/// Emits a region of its own, which reads `operands`.
pub(super) fn emit(bound: &Bound, group: &Group, operands: &[Arg], emit: &mut Emit) -> Result<()> {
    let mut bindings = vec![(0, emit.output.operand())];
    bindings.extend((FIRST_BINDING..).zip(operands.iter().map(Arg::operand)));
    let total = bound.ty(group.sink).len();
    // An operand has at most as many elements as the result, or not all of them are read. Weights are counted by
    // themselves.
    let read = operands.iter().filter(|arg| matches!(arg.place, Place::Slot(..)));
    let results = 4 * total as u64;
    let bytes: u64 = read.map(|arg| arg.ty.device_bytes().unwrap_or(0).min(results)).sum();
    emit.dispatch(kernel(bound, group)?, bindings, [total.div_ceil(64), 1], Work::moves(bytes + results));
    Ok(())
}

/// Binding 0 is the result.
fn kernel(bound: &Bound, group: &Group) -> Result<Kernel> {
    let Written { body, result, mut overrides } = Text::write(bound, group, BTreeMap::new())?;
    let ty = bound.ty(group.sink);
    let out = element(ty.dtype);
    let declared = declarations(bound, group, &overrides);
    let hole = format!("{declared}fn element(i: u32) -> {out} {{\n{body}    return {result};\n}}\n");
    overrides.insert(0, ("TOTAL", ty.len() as f64));
    Ok(Kernel { shader: "region", options: vec![("OUT", out.into())], overrides, hole })
}

/// The WGSL type of an element in a register.
fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::Packed(_) => "f32",
        DType::I32 => "i32",
        DType::U32 => "u32",
    }
}

/// Sizes, then bindings.
fn declarations(bound: &Bound, group: &Group, overrides: &[(&'static str, f64)]) -> String {
    let sizes: String = overrides.iter().map(|(name, _)| format!("override {name}: u32;\n")).collect();
    sizes + &bindings(bound, group)
}

fn bindings(bound: &Bound, group: &Group) -> String {
    let declare = |(binding, id): (u32, &NodeId)| {
        let dtype = bound.ty(*id).dtype;
        let array = if dtype.is_word() { element(dtype) } else { "u32" };
        format!("@group(0) @binding({binding}) var<storage, read> x{binding}: array<{array}>;\n")
    };
    (FIRST_BINDING..).zip(&group.extras).map(declare).collect()
}

/// The statements, the name of the sink's element `i`, and the sizes that they read.
struct Written {
    body: String,
    result: String,
    overrides: Vec<(&'static str, f64)>,
}

struct Text<'a> {
    bound: &'a Bound<'a>,
    extras: &'a [NodeId],
    /// Results of the kernel that calls the text, by the parameter that holds them.
    parameters: BTreeMap<NodeId, &'static str>,
    body: String,
    lets: usize,
    /// Names of the values that were written, by node and index.
    values: BTreeMap<(NodeId, String), String>,
    indices: BTreeMap<String, String>,
    overrides: Vec<(&'static str, f64)>,
}

impl<'a> Text<'a> {
    fn write(bound: &'a Bound, group: &'a Group, parameters: BTreeMap<NodeId, &'static str>) -> Result<Written> {
        let values = BTreeMap::new();
        let indices = BTreeMap::new();
        let overrides = Vec::new();
        let mut text =
            Text { bound, extras: &group.extras, parameters, body: String::new(), lets: 0, values, indices, overrides };
        let result = text.value(group.sink, "i")?;
        Ok(Written { body: text.body, result, overrides: text.overrides })
    }

    /// The element at which a slice begins, as text; nothing for the first.
    fn start(&mut self, first: usize) -> Option<String> {
        if first == 0 {
            return None;
        }
        if let Some((name, _)) = self.overrides.iter().find(|(_, value)| *value == first as f64) {
            return Some((*name).into());
        }
        let Some(name) = STARTS.get(self.overrides.len()) else { return Some(format!("{first}u")) };
        self.overrides.push((name, first as f64));
        Some((*name).into())
    }

    fn bind(&mut self, expression: &str) -> String {
        let name = format!("t{}", self.lets);
        self.lets += 1;
        self.body.push_str(&format!("    let {name} = {expression};\n"));
        name
    }

    /// Names an index, once.
    fn index(&mut self, expression: String) -> String {
        if let Some(name) = self.indices.get(&expression) {
            return name.clone();
        }
        let name = self.bind(&expression);
        self.indices.insert(expression, name.clone());
        name
    }

    /// The name of element `index` of `id`.
    fn value(&mut self, id: NodeId, index: &str) -> Result<String> {
        if let Some(parameter) = self.parameters.get(&id) {
            return Ok((*parameter).into());
        }
        let key = (id, index.to_string());
        if let Some(name) = self.values.get(&key) {
            return Ok(name.clone());
        }
        let name = match (FIRST_BINDING..).zip(self.extras).find(|(_, extra)| **extra == id) {
            Some((binding, _)) => {
                let dtype = self.bound.ty(id).dtype;
                let unread = || Error::Unsupported(format!("{}: {dtype} elements one by one", self.bound.label(id)));
                let load = load(dtype, binding, index).ok_or_else(unread)?;
                self.bind(&load)
            }
            None => self.compute(id, index)?,
        };
        self.values.insert(key, name.clone());
        Ok(name)
    }

    fn compute(&mut self, id: NodeId, index: &str) -> Result<String> {
        let bound = self.bound;
        let x: Vec<NodeId> = bound.operands(id).collect();
        let expression = match bound.op(id) {
            Op::Const(constant) => literal(constant.value, &bound.label(id))?,
            Op::Unary(op) => op.f.wgsl(&self.value(x[0], index)?),
            Op::Binary(op) => op.f.wgsl(&self.value(x[0], index)?, &self.value(x[1], index)?),
            Op::Cast(_) => format!("f32({})", self.value(x[0], index)?),
            Op::Select(_) => {
                let [condition, a, b] = [self.value(x[0], index)?, self.value(x[1], index)?, self.value(x[2], index)?];
                format!("select({b}, {a}, {condition} > 0.5)")
            }
            Op::Concat(concat) => return self.joined(id, concat, index),
            Op::Permute(_) | Op::Broadcast(_) | Op::Slice(_) => {
                let source = self.source(id, index);
                return self.value(x[0], &source);
            }
            op => return Err(bound.malformed(format!("{} cannot be part of a region", op.name()))),
        };
        Ok(self.bind(&expression))
    }

    /// The index that a moving op reads for its element `index`.
    fn source(&mut self, id: NodeId, index: &str) -> String {
        let bound = self.bound;
        // Dimensions as the op sees them, which a resolved operand may hold otherwise.
        let from = &bound.ty(bound.graph.node(id).inputs[0]).shape;
        let to = &bound.ty(id).shape;
        let own = strides(from);
        let (by_dimension, first) = match bound.op(id) {
            Op::Permute(permute) => (permute.order.iter().map(|&d| own[d]).collect(), 0),
            Op::Broadcast(_) => (Broadcast::source_strides(from, to), 0),
            Op::Slice(slice) => (own.clone(), slice.start * own[slice.axis]),
            _ => (own, 0),
        };
        let first = self.start(first);
        match transformed(index, to, &by_dimension, first) {
            Some(expression) => self.index(expression),
            None => index.to_string(),
        }
    }

    /// Both sides are read, each within its bounds, and one is taken.
    fn joined(&mut self, id: NodeId, concat: &Concat, index: &str) -> Result<String> {
        let bound = self.bound;
        let inputs = &bound.graph.node(id).inputs;
        let [a, b] = [inputs[0], inputs[1]];
        let block = |id: NodeId| bound.ty(id).shape[concat.axis..].iter().product::<usize>();
        let left = block(a);
        let right = block(b);
        let both = block(id);
        match (left, right) {
            (0, _) => return self.value(bound.resolve(b), index),
            (_, 0) => return self.value(bound.resolve(a), index),
            _ => {}
        }
        let row = self.index(format!("{index} / {both}u"));
        let within = self.index(format!("{index} % {both}u"));
        let at_left = self.index(format!("{row} * {left}u + min({within}, {}u)", left - 1));
        let at_right = self.index(format!("{row} * {right}u + max({within}, {left}u) - {left}u"));
        let a = self.value(bound.resolve(a), &at_left)?;
        let b = self.value(bound.resolve(b), &at_right)?;
        Ok(self.bind(&format!("select({b}, {a}, {within} < {left}u)")))
    }
}

/// One element of an operand, widened; `None` for packed formats, which are read by eight.
fn load(dtype: DType, binding: u32, i: &str) -> Option<String> {
    Some(match dtype {
        DType::F32 | DType::I32 | DType::U32 => format!("x{binding}[{i}]"),
        DType::F16 => format!("unpack2x16float(x{binding}[{i} >> 1u] >> (16u * ({i} & 1u))).x"),
        DType::BF16 => format!("bitcast<f32>((x{binding}[{i} >> 1u] >> (16u * ({i} & 1u))) << 16u)"),
        DType::Packed(_) => return None,
    })
}

/// A number as WGSL writes it.
fn literal(value: f32, label: &str) -> Result<String> {
    if value.is_finite() {
        Ok(format!("{value:?}f"))
    } else {
        Err(Error::Unsupported(format!("{label}: the constant {value} in WGSL")))
    }
}

/// `first + Σ coordinate · stride` over the coordinates of the flat `index` in `shape`; `None` where that is `index`
/// itself.
fn transformed(index: &str, shape: &[usize], by_dimension: &[usize], first: Option<String>) -> Option<String> {
    // (size, stride) of the dimensions that matter, neighbours merged where one stride steps through both.
    let mut dimensions: Vec<(usize, usize)> = Vec::new();
    for (&size, &stride) in shape.iter().zip(by_dimension).filter(|(size, _)| **size != 1) {
        match dimensions.last_mut() {
            Some(outer) if outer.1 == stride * size => *outer = (outer.0 * size, stride),
            _ => dimensions.push((size, stride)),
        }
    }
    if first.is_none() && (dimensions.is_empty() || matches!(dimensions[..], [(_, 1)])) {
        return if dimensions.is_empty() { Some("0u".into()) } else { None };
    }
    let mut terms = Vec::new();
    let mut below = 1;
    for (i, &(size, stride)) in dimensions.iter().enumerate().rev() {
        if stride > 0 {
            let quotient = if below == 1 { index.to_string() } else { format!("{index} / {below}u") };
            let coordinate = if i == 0 { quotient } else { format!("{quotient} % {size}u") };
            terms.push(if stride == 1 { format!("({coordinate})") } else { format!("({coordinate}) * {stride}u") });
        }
        below *= size;
    }
    if first.is_some() || terms.is_empty() {
        terms.push(first.unwrap_or_else(|| "0u".into()));
    }
    Some(terms.join(" + "))
}
