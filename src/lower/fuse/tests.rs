//! Graphs that look like a model's and must not be fused.

use crate::{
    ir::{
        BinaryFn, DType, DimBinding, Graph, MaskKind, NodeId, Shape, UnaryFn,
        kernel::{Target, Tier},
        ops::{Attention, CacheWrite, Concat, Gain, Permute, PositionRule, RmsNorm, Role, Rope, RopeTable, Unary},
    },
    lower::tests::{lowered, lowered_for, option, shaders, x},
};

fn device() -> Target {
    Target { tier: Tier::Subgroup(32), max_storage_buffers: 16, ..Target::portable() }
}

fn norm(g: &mut Graph, x: NodeId) -> NodeId {
    g.push(RmsNorm { eps: 1e-6, gain: Gain::None }, &[x]).unwrap()
}

#[test]
fn of_a_chain_of_norms_two_share_a_kernel() {
    let mut g = Graph::new("chain");
    let mut h = x(&mut g, "x", &[1, 20]);
    for _ in 0..5 {
        h = norm(&mut g, h);
    }
    g.output("y", h);
    let plan = lowered(&g);
    assert_eq!(shaders(&plan), ["rms_norm"; 3]);
    assert_eq!([0, 1, 2].map(|i| option(&plan, i, "SECOND_NORM")), ["yes", "yes", "no"]);
}

#[test]
fn a_norm_with_a_computed_gain_waits_for_it() {
    let mut g = Graph::new("computed");
    let h = x(&mut g, "x", &[1, 20]);
    let w = x(&mut g, "w", &[20]);
    let first = g.rms_norm(h, w, 1e-6, Gain::Plain).unwrap();
    let gain = g.mul(w, w).unwrap();
    let second = g.rms_norm(first, gain, 1e-6, Gain::Plain).unwrap();
    g.output("y", second);
    assert_eq!(shaders(&lowered(&g)), ["rms_norm", "region", "rms_norm"]);
}

/// Attention of one token over caches, as a layer emits it; `norm_by_head` as Gemma 3 does, or over the whole row.
fn attention(norm_by_head: bool, values_of_keys: bool, mask: MaskKind) -> Graph {
    let heads = 2;
    let width = 32;
    let mut g = Graph::new("step");
    let positions = g.input("positions", Role::Positions(PositionRule::From(0)), DType::I32, [1, 1]).unwrap();
    let rule = PositionRule::From(0);
    let table = RopeTable { inv_freq: vec![1.0; width / 2].into(), rule };
    let table = g.input("rope", Role::RopeTable(table), DType::F32, [1, 1, width]).unwrap();
    let row = |g: &mut Graph, name: &str| {
        let flat = x(g, name, &[1, 1, heads * width]);
        let gain = g.weight(format!("{name}.gain"), DType::F32, &[if norm_by_head { width } else { heads * width }]).unwrap();
        let split = Shape::from([1, 1, heads, width]);
        let normed = if norm_by_head {
            let rows = g.reshape(flat, split).unwrap();
            g.rms_norm(rows, gain, 1e-6, Gain::OnePlus).unwrap()
        } else {
            let normed = g.rms_norm(flat, gain, 1e-6, Gain::OnePlus).unwrap();
            g.reshape(normed, split).unwrap()
        };
        g.push(Rope::default(), &[normed, table]).unwrap()
    };
    let q = row(&mut g, "q");
    let k = row(&mut g, "k");
    let v = x(&mut g, "v", &[1, 1, heads, width]);
    let cache = |g: &mut Graph, name: &str, row: NodeId| {
        let cache = g.input(name, Role::Cache, DType::F32, [1, 8, heads, width]).unwrap();
        g.push(CacheWrite, &[cache, row, positions]).unwrap()
    };
    let keys = cache(&mut g, "keys", k);
    let values = if values_of_keys { keys } else { cache(&mut g, "values", v) };
    let held = g.input("held", Role::Cache, DType::I32, [1, 8]).unwrap();
    let held = g.push(CacheWrite, &[held, positions, positions]).unwrap();
    let op = Attention { scale: 1.0, softcap: None, keep: false };
    let role = Role::Visible { rule: PositionRule::From(0), mask, pictures: false };
    let visible = g.input("visible", role, DType::I32, [1, 1, 2]).unwrap();
    let y = g.push(op, &[q, keys, values, visible, held]).unwrap();
    g.output("y", y);
    g
}

#[test]
fn attention_makes_rows_that_are_normed_by_head() {
    let plan = |graph: &Graph| lowered_for(graph, &DimBinding::new(), &device());
    let stock = plan(&attention(true, false, MaskKind::Causal));
    assert_eq!(shaders(&stock), ["cache_write", "attention_few"]);
    // The norm of a whole row stays a step of its own; the rest is absorbed.
    assert_eq!(
        shaders(&plan(&attention(false, false, MaskKind::Causal))),
        ["rms_norm", "rms_norm", "cache_write", "attention_few"]
    );
    // Keys that are also the values are written once.
    let shared = plan(&attention(true, true, MaskKind::Causal));
    assert_eq!(option(&shared, shared.dispatches.len() - 1, "PROLOGUE"), "no");
    // Where a query's own position is not the last that it sees, the kernel does not know it.
    let around = plan(&attention(true, false, MaskKind::SymmetricWindow(3)));
    assert_eq!(option(&around, around.dispatches.len() - 1, "PROLOGUE"), "no");
}

/// What a region needs twice at one index it computes once; at two indices it would compute it at each.
#[test]
fn a_value_is_stored_where_it_is_needed_at_several_indices() {
    let mut g = Graph::new("once");
    let h = x(&mut g, "x", &[3, 20]);
    let w = g.weight("w", DType::F32, &[20, 20]).unwrap();
    let y = g.linear(h, w).unwrap();
    let bound = g.constant(6.0).unwrap();
    let clamped = g.binary(BinaryFn::Min, y, bound).unwrap();
    let gate = g.push(Unary { f: UnaryFn::Sigmoid }, &[clamped]).unwrap();
    let silu = g.mul(clamped, gate).unwrap();
    g.output("y", silu);
    assert_eq!(lowered(&g).dispatches.len(), 1, "{}", lowered(&g));

    let mut g = Graph::new("several");
    let h = x(&mut g, "x", &[3, 20]);
    let square = g.mul(h, h).unwrap();
    let turned = g.push(Permute { order: vec![1, 0] }, &[square]).unwrap();
    let flat = g.reshape(turned, [3, 20]).unwrap();
    let sum = g.add(square, flat).unwrap();
    g.output("y", sum);
    assert_eq!(shaders(&lowered(&g)), ["region"; 2]);

    let mut g = Graph::new("both sides");
    let h = x(&mut g, "x", &[3, 20]);
    let square = g.mul(h, h).unwrap();
    let twice = g.push(Concat { axis: 1 }, &[square, square]).unwrap();
    g.output("y", twice);
    assert_eq!(shaders(&lowered(&g)), ["region"; 2]);
}
