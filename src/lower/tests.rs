//! Plans of small graphs: which dispatches they have, and that no value is overwritten before it was read.

use std::collections::{BTreeMap, BTreeSet};

use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::{Residency, Unplaced, bound::Bound, fuse, lower};
use crate::{
    Error, Result,
    error::GraphError,
    ir::{
        Case, DType, Data, DimBinding, Graph, LowerOptions, MaskKind, NodeId, Op, PassReport, Shape, UnaryFn, Value, decompose,
        fusion::Fusion,
        kernel::{Kernel, Operand, Slot, Target, Tier},
        ops::{Attention, CacheWrite, Concat, Gain, Lowering, Permute, PositionRule, Role, Rope, RopeTable, Softmax, Unary},
        passes::prepare,
        sym,
    },
    plan::{
        Plan, SlotKind,
        sampling::{argmax, top_k},
    },
    shader::{Access, Sizes, reflect},
};

/// The bindings that a kernel writes, in order.
fn written(kernel: &Kernel) -> Vec<u32> {
    let bindings = reflect(kernel, Sizes::Constants).unwrap_or_else(|e| panic!("{kernel}: {e}")).bindings;
    bindings.iter().filter(|binding| binding.access == Access::ReadWrite).map(|binding| binding.number).collect()
}

/// Follows what every slot holds and checks each read against what the graph says is read there.
pub(super) fn check(graph: &Graph, binding: &DimBinding, target: &Target, options: &LowerOptions, plan: &Plan) {
    let bound = Bound::new(graph, binding, target, options, &Unplaced).unwrap();
    let mut held: BTreeMap<Slot, NodeId> = BTreeMap::new();
    for id in bound.values() {
        if let Op::Input(input) = bound.op(id) {
            held.insert(plan.input(&input.name).unwrap(), id);
        }
    }
    let mut dispatches = plan.dispatches.iter().peekable();
    for group in fuse::groups(&bound).unwrap() {
        let label = bound.label(group.roots.first().copied().unwrap_or(group.sink));
        let mut expected = group.operands(&bound);
        expected.retain(|id| !matches!(bound.op(*id), Op::Weight(_)));
        let has_prologue = group.fusions.iter().any(|fusion| matches!(fusion, Fusion::DecodePrologue(_)));
        let caches = if has_prologue { &group.inputs[1..3] } else { &[] };
        let mut in_place: Vec<NodeId> = caches.iter().map(|id| bound.resolve(*id)).collect();
        if matches!(bound.op(group.sink), Op::CacheWrite(_)) {
            in_place.push(expected.remove(0));
        }
        let mut own = Vec::new();
        let mut result = None;
        let mut second = None;
        assert!(dispatches.peek().is_some_and(|d| d.label == label), "{label} has no dispatch");
        while let Some(dispatch) = dispatches.next_if(|d| d.label == label) {
            let outputs = written(&dispatch.kernel);
            let slots = dispatch.bindings.iter().filter_map(|(binding, operand)| match operand {
                Operand::Slot(slot, _) => Some((outputs.iter().position(|o| o == binding), *slot)),
                _ => None,
            });
            let (writes, reads): (Vec<_>, Vec<_>) = slots.partition(|(write, _)| write.is_some());
            for (_, slot) in &reads {
                let known = own.contains(slot) || held.get(slot).is_some_and(|value| expected.contains(value));
                assert!(known, "{label} reads slot {} with {:?}\n{plan}", slot.0, held.get(slot));
                assert!(!writes.iter().any(|(_, w)| w == slot), "{label} reads and writes slot {}\n{plan}", slot.0);
            }
            for (output, slot) in writes {
                let cached = held.get(&slot).is_some_and(|value| in_place.contains(value));
                let input = matches!(plan.slots[slot.0].kind, SlotKind::Input { .. });
                assert!(input == cached, "{label} writes beside its cache, or overwrites an input");
                let row = cached && has_prologue;
                if !row && !own.contains(&slot) {
                    own.push(slot);
                }
                match (output, dispatch.kernel.shader) {
                    (Some(1), "rms_norm") => second = Some(slot),
                    _ if row => {}
                    _ => result = Some(slot),
                }
            }
        }
        // Scratch memory of the op holds nothing that anybody knows.
        own.iter().for_each(|slot| _ = held.remove(slot));
        held.insert(result.unwrap(), group.sink);
        assert_eq!(second.is_some(), group.second.is_some(), "{label}");
        second.zip(group.second).into_iter().for_each(|(slot, norm)| _ = held.insert(slot, norm));
    }
    assert!(dispatches.next().is_none());
    for (output, (name, id)) in plan.outputs.iter().zip(graph.outputs()) {
        assert_eq!((&output.name, held.get(&output.slot)), (name, Some(&bound.resolve(*id))), "{plan}");
    }
    for dispatch in &plan.dispatches {
        let buffers = dispatch.bindings.iter().filter(|(_, o)| !o.is_step()).count();
        assert!(buffers <= target.max_storage_buffers as usize, "{}", dispatch.label);
    }
}

/// Parses and validates the generated text of every dispatch behind the least kernel that calls it.
fn validate(plan: &Plan) {
    for dispatch in plan.dispatches.iter().filter(|d| !d.kernel.hole.is_empty()) {
        let out = dispatch.kernel.options.iter().find(|(name, _)| *name == "OUT").map_or("f32", |(_, out)| out.as_str());
        let call = match &dispatch.kernel.hole {
            hole if hole.contains("fn element") => "element(g.x)",
            hole if hole.contains("v1: f32") => "epilogue(g.x, 1.5, 2.5)",
            _ => "epilogue(g.x, 1.5)",
        };
        let text = format!(
            "@group(0) @binding(0) var<storage, read_write> out: array<{out}>;\noverride TOTAL: u32;\n\
             @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) g: vec3<u32>) {{ \
             if g.x < TOTAL {{ out[g.x] = {call}; }} }}\n{}",
            dispatch.kernel.hole
        );
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}\n{text}", e.emit_to_string(&text)));
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32);
        validator.validate(&module).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        let bound = dispatch.bindings.iter().filter(|(binding, _)| *binding >= 16).count();
        assert_eq!(text.matches("var<storage, read> x").count(), bound, "{text}");
    }
}

pub(super) fn lowered(graph: &Graph) -> Plan {
    lowered_for(graph, &DimBinding::new(), &Target::portable())
}

/// Lowers and checks, also with each op on its own, with a name of its own for every node.
pub(super) fn lowered_for(graph: &Graph, binding: &DimBinding, target: &Target) -> Plan {
    let mut graph = prepare(graph, &LowerOptions::default(), &mut PassReport::default()).unwrap();
    for id in graph.ids() {
        graph.label(id, &format!("n{}", id.0));
    }
    let plan_with = |options: &LowerOptions| {
        let plan = lower(&graph, binding, target, options, &Unplaced).unwrap_or_else(|e| panic!("{}: {e}", graph.name));
        check(&graph, binding, target, options, &plan);
        validate(&plan);
        plan
    };
    let direct = plan_with(&LowerOptions { fuse: false, ..LowerOptions::default() });
    let fused = plan_with(&LowerOptions::default());
    assert!(direct.dispatches.len() >= fused.dispatches.len(), "{direct}");
    fused
}

pub(super) fn shaders(plan: &Plan) -> Vec<&str> {
    plan.dispatches.iter().map(|d| d.kernel.shader).collect()
}

pub(super) fn option<'a>(plan: &'a Plan, dispatch: usize, name: &str) -> &'a str {
    &plan.dispatches[dispatch].kernel.options.iter().find(|(n, _)| *n == name).unwrap().1
}

pub(super) fn x(g: &mut Graph, name: &str, shape: &[usize]) -> NodeId {
    g.input(name, Role::Caller, DType::F32, shape).unwrap()
}

/// `down(gelu(gate·x) · (up·x))`.
fn feed_forward(g: &mut Graph, x: NodeId, width: usize, hidden: usize) -> Result<NodeId> {
    let gate = g.weight("gate", DType::BF16, &[hidden, width])?;
    let up = g.weight("up", DType::BF16, &[hidden, width])?;
    let gate = g.linear(x, gate)?;
    let up = g.linear(x, up)?;
    let bent = g.gelu(gate)?;
    let mixed = g.mul(bent, up)?;
    let down = g.weight("down", DType::BF16, &[width, hidden])?;
    g.linear(mixed, down)
}

#[test]
fn a_gated_feed_forward_block_is_two_dispatches() {
    let mut g = Graph::new("ffw");
    let input = x(&mut g, "x", &[1, 1, 32]);
    let y = feed_forward(&mut g, input, 32, 96).unwrap();
    g.output("y", y);
    let plan = lowered(&g);
    assert_eq!(shaders(&plan), ["linear_vec", "linear_vec"]);
    assert_eq!(option(&plan, 0, "WEIGHTS"), "2");
    let weight = |name: &str| Operand::Weight(name.into(), 0);
    assert_eq!(plan.dispatches[0].bindings[2..], [(2, weight("gate")), (3, weight("up"))]);
    assert!(plan.dispatches[0].kernel.hole.contains("fn epilogue(i: u32, v0: f32, v1: f32) -> f32"));
    assert_eq!(option(&plan, 1, "WEIGHTS"), "1");
}

#[test]
fn the_pair_takes_its_parameters_in_order_of_the_products() {
    let mut g = Graph::new("ratio");
    let input = x(&mut g, "x", &[1, 4]);
    let a = g.weight("a", DType::F32, &[8, 4]).unwrap();
    let b = g.weight("b", DType::F32, &[8, 4]).unwrap();
    let a = g.linear(input, a).unwrap();
    let b = g.linear(input, b).unwrap();
    let y = g.binary(crate::ir::BinaryFn::Div, b, a).unwrap();
    g.output("y", y);
    let hole = lowered(&g).dispatches[0].kernel.hole.clone();
    assert_eq!(hole, "fn epilogue(i: u32, v0: f32, v1: f32) -> f32 {\n    let t0 = (v1 / v0);\n    return t0;\n}\n");
}

#[test]
fn products_that_do_not_match_are_no_pair() {
    let mut g = Graph::new("unlike");
    let input = x(&mut g, "x", &[1, 1, 4]);
    let a = g.weight("a", DType::F32, &[8, 4]).unwrap();
    let b = g.weight("b", DType::F16, &[8, 4]).unwrap();
    let a = g.linear(input, a).unwrap();
    let b = g.linear(input, b).unwrap();
    let y = g.mul(a, b).unwrap();
    g.output("y", y);
    let plan = lowered(&g);
    assert_eq!(shaders(&plan), ["linear_vec", "linear_vec"]);
    assert!(plan.dispatches[1].kernel.hole.contains("let t0 = x16[i];"), "{plan}");
    assert_eq!(plan.dispatches[0].bindings[1].1, plan.dispatches[1].bindings[3].1);
}

#[test]
fn a_residual_is_the_epilogue_of_its_norm() {
    let mut g = Graph::new("residual");
    let residual = x(&mut g, "residual", &[1, 3, 20]);
    let h = x(&mut g, "h", &[1, 3, 20]);
    let gain = g.weight("gain", DType::BF16, &[20]).unwrap();
    let normed = g.rms_norm(h, gain, 1e-6, Gain::OnePlus).unwrap();
    let sum = g.add(residual, normed).unwrap();
    let next = g.rms_norm(sum, gain, 1e-6, Gain::OnePlus).unwrap();
    g.output("sum", sum);
    g.output("next", next);
    let plan = lowered(&g);
    // The norm that follows is a second result.
    assert_eq!((shaders(&plan), option(&plan, 0, "SECOND_NORM")), (vec!["rms_norm"], "yes"));
    assert_eq!(plan.dispatches[0].bindings.last().unwrap(), &(16, Operand::Slot(plan.input("residual").unwrap(), 0)));
}

#[test]
fn a_result_that_others_read_is_not_absorbed() {
    let mut g = Graph::new("shared");
    let residual = x(&mut g, "residual", &[1, 20]);
    let h = x(&mut g, "h", &[1, 20]);
    let normed = g.push(crate::ir::ops::RmsNorm { eps: 1e-6, gain: Gain::None }, &[h]).unwrap();
    let sum = g.add(residual, normed).unwrap();
    g.output("sum", sum);
    g.output("normed", normed);
    assert_eq!(shaders(&lowered(&g)), ["rms_norm", "region"]);
}

#[test]
fn the_embedding_scale_and_the_final_softcap_are_epilogues() {
    let mut g = Graph::new("ends");
    let ids = g.input("ids", Role::Caller, DType::U32, [1, 3]).unwrap();
    let table = g.weight("embed", DType::BF16, &[260, 16]).unwrap();
    let h = g.gather(table, ids).unwrap();
    let h = g.scale(h, 4.0).unwrap();
    let logits = g.linear(h, table).unwrap();
    let logits = g.softcap(logits, 30.0).unwrap();
    g.output("logits", logits);
    let plan = lowered(&g);
    assert_eq!(shaders(&plan), ["gather", "linear_vec"]);
    assert!(plan.dispatches[0].kernel.hole.contains("4.0f") && plan.dispatches[1].kernel.hole.contains("tanh"));
    // A table in shards: one dispatch each, the text once.
    let small = Target { max_binding: 128 * 16 * 2, ..Target::portable() };
    let plan = lowered_for(&g, &DimBinding::new(), &small);
    assert_eq!(shaders(&plan), ["gather", "gather", "gather", "linear_vec", "linear_vec", "linear_vec"]);
    assert_eq!(plan.dispatches[4].bindings[1].1, Operand::Slot(plan.outputs[0].slot, 128 * 4));
}

#[test]
fn an_epilogue_reads_what_moves_unless_the_product_is_in_shards() {
    let mut g = Graph::new("bias");
    let input = x(&mut g, "x", &[1, 3, 4]);
    let w = g.weight("w", DType::F32, &[128, 4]).unwrap();
    let bias = g.weight("bias", DType::BF16, &[128]).unwrap();
    let y = g.linear(input, w).unwrap();
    let bias = g.push(crate::ir::ops::Cast, &[bias]).unwrap();
    let y = g.add(y, bias).unwrap();
    g.output("y", y);
    let plan = lowered(&g);
    assert_eq!(shaders(&plan), ["linear_vec"]);
    assert!(plan.dispatches[0].kernel.hole.contains("(i % 128u)"), "{}", plan.dispatches[0].kernel.hole);
    // A shard's epilogue counts from the shard's first column.
    let small = Target { max_binding: 128 * 3 * 4 + 16, ..Target::portable() };
    let plan = lowered_for(&g, &DimBinding::new(), &small);
    assert_eq!(shaders(&plan), ["linear_vec", "linear_vec", "region"]);
    assert_eq!(plan.dispatches.last().unwrap().kernel.overrides, [("TOTAL", 3.0 * 128.0)]);
}

/// One attention layer with its cache, as a decode step has it.
fn attend(g: &mut Graph, h: NodeId, [positions, visible, table]: [NodeId; 3], layer: usize) -> Result<NodeId> {
    let cached = Shape(vec![1.into(), sym::CACHE.into(), 1.into(), 8.into()]);
    let [k_cache, v_cache] = ["k", "v"].map(|n| g.input(format!("{n}{layer}"), Role::Cache, DType::F32, cached.clone()));
    let rows = Shape(vec![1.into(), sym::CACHE.into()]);
    let key_positions = g.input(format!("rows{layer}"), Role::Cache, DType::I32, rows)?;
    let heads = |g: &mut Graph, name: &str, count: usize| -> Result<NodeId> {
        let w = g.weight(format!("{layer}.{name}"), DType::BF16, &[count * 8, 16])?;
        let y = g.linear(h, w)?;
        g.reshape(y, Shape(vec![1.into(), sym::SEQ.into(), count.into(), 8.into()]))
    };
    let q = heads(g, "q", 2)?;
    let k = heads(g, "k", 1)?;
    let v = heads(g, "v", 1)?;
    let q = g.push(Rope::default(), &[q, table])?;
    let k = g.push(Rope::default(), &[k, table])?;
    let k = g.push(CacheWrite, &[k_cache?, k, positions])?;
    let v = g.push(CacheWrite, &[v_cache?, v, positions])?;
    let key_positions = g.push(CacheWrite, &[key_positions, positions, positions])?;
    let op = Attention { scale: 0.25, softcap: None, keep: false };
    let mixed = g.push(op, &[q, k, v, visible, key_positions])?;
    let mixed = g.reshape(mixed, Shape(vec![1.into(), sym::SEQ.into(), 16.into()]))?;
    let w = g.weight(format!("{layer}.o"), DType::BF16, &[16, 16])?;
    let out = g.linear(mixed, w)?;
    for (name, id) in [("k", k), ("v", v), ("rows", key_positions)] {
        g.output(format!("{name}{layer}"), id);
    }
    g.add(h, out)
}

fn decoder(layers: usize) -> Graph {
    let mut g = Graph::new("decoder");
    let rows = |width: usize| Shape(vec![1.into(), sym::SEQ.into(), width.into()]);
    let mut h = g.input("h", Role::Caller, DType::F32, rows(16)).unwrap();
    let positions =
        g.input("positions", Role::Positions(PositionRule::From(0)), DType::I32, Shape(vec![1.into(), sym::SEQ.into()])).unwrap();
    let role = Role::Visible { rule: PositionRule::From(0), mask: MaskKind::Causal, pictures: false };
    let visible = g.input("visible", role, DType::I32, rows(2)).unwrap();
    let table = g
        .input(
            "rope",
            Role::RopeTable(RopeTable { inv_freq: vec![1.0; 4].into(), rule: PositionRule::From(0) }),
            DType::F32,
            rows(8),
        )
        .unwrap();
    for layer in 0..layers {
        h = attend(&mut g, h, [positions, visible, table], layer).unwrap();
        let y = feed_forward(&mut g, h, 16, 48).unwrap();
        h = g.add(h, y).unwrap();
    }
    g.output("h", h);
    g
}

#[test]
fn caches_are_written_in_place_and_slots_are_reused() {
    let g = decoder(2);
    for (new, cached) in [(1, 40), (12, 64), (1, 1000)] {
        let binding = DimBinding::new().with(sym::SEQ, new).with(sym::CACHE, cached);
        let plan = lowered_for(&g, &binding, &Target::portable());
        for name in ["k0", "v0", "rows0", "k1", "v1", "rows1"] {
            assert_eq!(plan.output(name).unwrap().slot, plan.input(name).unwrap());
        }
        let writes = plan.dispatches.iter().filter(|d| d.kernel.shader == "cache_write").count();
        assert_eq!(writes, 6);
        let scratch = plan.slots.iter().filter(|s| s.kind == SlotKind::Scratch).count();
        assert!(scratch <= 6, "{plan}");
        assert!(plan.slots.iter().all(|s| s.bytes % 16 == 0));
    }
}

#[test]
fn scratch_memory_does_not_grow_with_depth() {
    let bytes = |depth: usize| {
        let mut g = Graph::new("deep");
        let mut h = x(&mut g, "x", &[1, 1, 32]);
        for _ in 0..depth {
            h = feed_forward(&mut g, h, 32, 96).unwrap();
            h = g.push(crate::ir::ops::RmsNorm { eps: 1e-6, gain: Gain::None }, &[h]).unwrap();
        }
        g.output("y", h);
        lowered(&g).scratch_bytes()
    };
    assert_eq!(bytes(3), bytes(9));
}

#[test]
fn reading_a_cache_after_its_write_is_refused() {
    let mut g = Graph::new("stale");
    let positions = g.input("positions", Role::Positions(PositionRule::From(0)), DType::I32, [1, 2]).unwrap();
    let cache = g.input("cache", Role::Cache, DType::F32, [1, 8, 4]).unwrap();
    let rows = x(&mut g, "rows", &[1, 2, 4]);
    let before = g.push(Unary { f: UnaryFn::Abs }, &[cache]).unwrap();
    let written = g.push(CacheWrite, &[cache, rows, positions]).unwrap();
    g.output("before", before);
    g.output("cache", written);
    assert_eq!(shaders(&lowered(&g)), ["region", "cache_write"]);
    let after = g.push(Unary { f: UnaryFn::Neg }, &[cache]).unwrap();
    g.output("after", after);
    let refused = lower(&g, &DimBinding::new(), &Target::portable(), &LowerOptions::default(), &Unplaced);
    assert!(
        matches!(refused, Err(Error::Graph(GraphError::Malformed { problem, .. })) if problem.contains("overwritten in place"))
    );
}

#[test]
fn a_region_with_too_many_operands_is_split() {
    let mut g = Graph::new("wide");
    let mut sum = x(&mut g, "x0", &[5]);
    for i in 1..19 {
        let next = x(&mut g, &format!("x{i}"), &[5]);
        sum = g.add(sum, next).unwrap();
    }
    g.output("sum", sum);
    let plan = lowered(&g);
    assert_eq!(shaders(&plan), ["region"; 3]);
}

#[test]
fn single_token_permutes_cost_nothing() {
    let mut g = Graph::new("permute");
    let q = x(&mut g, "q", &[1, 1, 4, 8]);
    let a = g.push(Permute { order: vec![0, 2, 1, 3] }, &[q]).unwrap();
    let b = g.push(Permute { order: vec![0, 2, 3, 1] }, &[a]).unwrap();
    let y = g.push(crate::ir::ops::MatMul, &[a, b]);
    assert!(y.is_err(), "heads differ in dimension order");
    let rows = g.reshape(a, [4usize, 8]).unwrap();
    let y = g.push(crate::ir::ops::Reduce { f: crate::ir::ops::ReduceFn::Sum }, &[rows]).unwrap();
    g.output("y", y);
    assert_eq!(shaders(&lowered(&g)), ["reduce"]);
}

#[test]
fn text_stays_linear_in_the_number_of_ops() {
    let mut g = Graph::new("chain");
    let mut y = x(&mut g, "x", &[2, 8]);
    for _ in 0..24 {
        let twice = g.push(Concat { axis: 0 }, &[y, y]).unwrap();
        let half = g.push(crate::ir::ops::Slice { axis: 0, start: 1, len: 2.into() }, &[twice]).unwrap();
        let product = g.mul(half, half).unwrap();
        y = g.push(Unary { f: UnaryFn::Tanh }, &[product]).unwrap();
    }
    g.output("y", y);
    let text: usize = lowered(&g).dispatches.iter().map(|d| d.kernel.hole.len()).sum();
    assert!(text < 40_000, "{text} bytes");
}

#[test]
fn composites_without_a_kernel_decompose_and_keep_their_names() {
    let mut g = Graph::new("softmax");
    let input = x(&mut g, "x", &[3, 7]);
    let unused = g.push(Softmax, &[input]).unwrap();
    let y = g.push(Softmax, &[input]).unwrap();
    g.label(y, "router");
    g.output("y", y);
    let small = decompose(&g).unwrap();
    assert!(small.nodes().iter().all(|n| n.op.lowering() != Lowering::Decompose));
    assert_eq!(small.nodes().len(), 8);
    assert!(small.nodes().iter().skip(1).all(|n| n.name == "router"), "{small}");
    assert_ne!(unused, y);
    let plan = lower(&g, &DimBinding::new(), &Target::portable(), &LowerOptions::default(), &Unplaced).unwrap();
    assert_eq!(shaders(&plan), ["reduce", "region", "reduce", "region"]);
    assert!(plan.dispatches.iter().all(|d| d.label == "router"));
}

#[test]
fn limits_of_the_device_are_named() {
    let mut g = Graph::new("large");
    let input = x(&mut g, "x", &[1, 4096]);
    let y = g.gelu(input).unwrap();
    g.output("y", y);
    let small = Target { max_binding: 4096, ..Target::portable() };
    let error = lower(&g, &DimBinding::new(), &small, &LowerOptions::default(), &Unplaced).unwrap_err().to_string();
    assert!(error.contains("16400") && error.contains("4096"), "{error}");

    let mut g = Graph::new("sharded");
    let w = g.weight("w", DType::F32, &[128, 4]).unwrap();
    let y = g.gelu(w).unwrap();
    g.output("y", y);
    struct Cut;
    impl Residency for Cut {
        fn shards(&self, _: &str) -> Option<Vec<std::ops::Range<usize>>> {
            Some(vec![0..64, 64..128])
        }
        fn adjoin(&self, _: &str, _: &str) -> bool {
            false
        }
    }
    let error = lower(&g, &DimBinding::new(), &Target::portable(), &LowerOptions::default(), &Cut).unwrap_err().to_string();
    assert!(error.contains("'w'") && error.contains("gelu_tanh"), "{error}");
}

/// A case as a graph, and the node of its result.
fn graph_of(case: &Case) -> (Graph, NodeId) {
    let mut g = Graph::new(case.name.clone());
    let operand = |(i, value): (usize, &Value)| match &value.data {
        Data::Stored(tensor) => g.weight(format!("w{i}"), tensor.dtype(), &value.shape),
        _ => g.input(format!("x{i}"), Role::Caller, value.dtype(), &value.shape[..]),
    };
    let operands: Vec<NodeId> = case.inputs.iter().enumerate().map(operand).collect::<Result<_>>().unwrap();
    let y = g.push(case.op.clone(), &operands).unwrap();
    g.output("y", y);
    (g, y)
}

/// Parts of the keys cost a dispatch that puts them together.
#[test]
fn keys_are_split_where_the_device_has_cores_for_them() {
    let cases = Op::examples().into_iter().flat_map(|op| op.cases());
    let case = cases.into_iter().find(|case| case.name.starts_with("decode 1x8/4x64 over 300")).expect("attention's case");
    let is_split = |tier, software| {
        let target = Target { tier, software, ..Target::portable() };
        shaders(&lowered_for(&graph_of(&case).0, &DimBinding::new(), &target)).contains(&"attention_combine")
    };
    assert!(is_split(Tier::Subgroups, false) && is_split(Tier::Portable, false));
    assert!(!is_split(Tier::Subgroup(8), true) && !is_split(Tier::Subgroup(4), true) && !is_split(Tier::Portable, true));
}

/// A driver on the CPU without subgroups pays for each barrier, and in a browser for the clearing of workgroup memory:
/// at each run, and with one instruction per element when it compiles.
#[test]
fn lanes_that_work_alone_share_no_memory() {
    let target = Target { software: true, ..Target::portable() };
    let cases: Vec<Case> =
        Op::examples().iter().filter(|op| op.lowering() != Lowering::Source).flat_map(|op| op.cases()).collect();
    let plans = cases.iter().map(|case| lowered_for(&graph_of(case).0, &DimBinding::new(), &target));
    let plans = plans.chain([true, false].map(|maxima| argmax(1, 4096, maxima, &target)));
    let plans = plans.chain([top_k(1, 4096, 64, &target)]);
    let kernels: BTreeMap<String, Kernel> =
        plans.flat_map(|plan| plan.dispatches).map(|dispatch| (dispatch.kernel.key(), dispatch.kernel)).collect();
    let shares = |kernel: &&Kernel| {
        let module = reflect(kernel, Sizes::Constants).unwrap().module;
        module.global_variables.iter().any(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup)
    };
    let sharing: BTreeSet<&str> = kernels.values().filter(shares).map(|kernel| kernel.shader).collect();
    assert_eq!(sharing, BTreeSet::from(["conv2d", "expert_tiles", "relative_attention"]));
}

#[test]
fn every_case_lowers() {
    for target in [Target::portable(), Target { tier: Tier::Subgroup(32), ..Target::portable() }] {
        for op in Op::examples().iter().filter(|op| op.lowering() != Lowering::Source) {
            for case in op.cases() {
                let (g, y) = graph_of(&case);
                let plan = lowered_for(&g, &DimBinding::new(), &target);
                assert_eq!(plan.outputs[0].ty.shape, g.fixed_types(&DimBinding::new()).unwrap()[y.index()].shape);
            }
        }
    }
}

#[test]
fn definitions_of_composites_lower() {
    for op in [Op::from(Attention { scale: 1.0, softcap: None, keep: false }), Op::from(Rope::default())] {
        for case in op.cases() {
            let mut g = Graph::new(case.name.clone());
            let operand = |(i, value): (usize, &Value)| g.input(format!("x{i}"), Role::Caller, value.dtype(), &value.shape[..]);
            let operands: Vec<NodeId> = case.inputs.iter().enumerate().map(operand).collect::<Result<_>>().unwrap();
            let y = case.op.decompose(&mut g, &operands).unwrap().unwrap();
            g.output("y", y);
            lowered(&g);
        }
    }
}
