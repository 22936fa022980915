//! Costs of lowered graphs, counted by hand.

use super::{Cost, Live, cost};
use crate::{
    ir::{
        Compute, DType, DimBinding, Graph, LowerOptions, MaskKind, NodeId,
        kernel::Target,
        ops::{Attention, ExpertLinear, PositionRule, Role, Slice},
    },
    lower::{Unplaced, lower},
    plan::{Plan, sampling},
};

const SHARD: u64 = 1000;

fn costs(plan: &Plan, tokens: usize, start: usize) -> Vec<Cost> {
    let live = Live { tokens, start };
    plan.dispatches.iter().map(|dispatch| cost(plan, dispatch, live, &|_, _| SHARD)).collect()
}

fn lowered(graph: &Graph) -> Plan {
    let options = LowerOptions { compute: Compute::F32, ..LowerOptions::default() };
    lower(graph, &DimBinding::new(), &Target::portable(), &options, &Unplaced).unwrap()
}

fn x(g: &mut Graph, name: &str, shape: &[usize]) -> NodeId {
    g.input(name, Role::Caller, DType::F32, shape).unwrap()
}

#[test]
fn a_product_reads_its_weight_once_and_multiplies_every_pair() {
    let mut g = Graph::new("pair");
    let h = x(&mut g, "h", &[3, 10]);
    let gate = g.weight("gate", DType::BF16, &[7, 10]).unwrap();
    let up = g.weight("up", DType::BF16, &[7, 10]).unwrap();
    let gate = g.linear(h, gate).unwrap();
    let up = g.linear(h, up).unwrap();
    let y = g.mul(gate, up).unwrap();
    g.output("y", y);
    let expected = Cost { bytes: 2 * SHARD + 4 * (30 + 21), flops: 2 * 3 * 10 * 7 * 2 };
    assert_eq!(costs(&lowered(&g), 3, 0), [expected]);
}

#[test]
fn of_experts_those_that_are_chosen_are_read() {
    let products = |rows: usize| {
        let mut g = Graph::new("experts");
        let h = x(&mut g, "h", &[1, rows, 1, 10]);
        let route = x(&mut g, "route", &[1, rows, 2, 3]);
        let matrices = g.weight("experts", DType::BF16, &[8 * 7, 10]).unwrap();
        let y = g.push(ExpertLinear { experts: 8 }, &[h, matrices, route]).unwrap();
        g.output("y", y);
        costs(&lowered(&g), rows, 0)
    };
    assert_eq!(products(1), [Cost { bytes: SHARD * 3 / 8 + 4 * (10 + 21), flops: 2 * 3 * 70 }]);
    assert_eq!(products(8), [Cost { bytes: SHARD + 4 * (80 + 168), flops: 2 * 24 * 70 }]);
}

#[test]
fn attention_counts_the_keys_that_its_queries_see() {
    let plan = |mask, new| {
        let mut g = Graph::new("attention");
        let q = x(&mut g, "q", &[1, new, 2, 8]);
        let k = g.input("k", Role::Caller, DType::F16, [1, 64, 1, 8]).unwrap();
        let v = g.input("v", Role::Caller, DType::F16, [1, 64, 1, 8]).unwrap();
        let role = Role::Visible { rule: PositionRule::From(0), mask, pictures: false };
        let visible = g.input("visible", role, DType::I32, [1, new, 2]).unwrap();
        let positions = g.input("positions", Role::Caller, DType::I32, [1, 64]).unwrap();
        let attention = Attention { scale: 1.0, softcap: None, keep: false };
        let y = g.push(attention, &[q, k, v, visible, positions]).unwrap();
        g.output("y", y);
        lowered(&g)
    };
    let causal = plan(MaskKind::Causal, 4);
    let window = plan(MaskKind::SlidingWindow(5), 4);
    // By hand: position p sees p + 1 keys, at most 5 in the window; 4 · heads · width operations a pair.
    assert_eq!(costs(&causal, 4, 10)[0].flops, 4 * 2 * 8 * (11 + 12 + 13 + 14));
    assert_eq!(costs(&window, 4, 2)[0].flops, 4 * 2 * 8 * (3 + 4 + 5 + 5));
    let all = plan(MaskKind::None, 4);
    assert_eq!(costs(&all, 4, 10)[0].flops, 4 * 2 * 8 * 4 * 14);
    let activations = 4 * 4 * 2 * (8 + 8);
    assert_eq!(costs(&causal, 1, 59)[0].bytes, activations + 60 * (2 * 8 * 2 + 4));
    assert_eq!(costs(&window, 4, 50)[0].bytes, activations + 8 * (2 * 8 * 2 + 4));
}

/// A tower's keys may be fewer than its queries, whose visible positions are then a part of those of the run.
#[test]
fn attention_of_computed_positions_counts_all_pairs() {
    let mut g = Graph::new("attention");
    let q = x(&mut g, "q", &[1, 4, 2, 8]);
    let k = x(&mut g, "k", &[1, 3, 1, 8]);
    let role = Role::Visible { rule: PositionRule::From(0), mask: MaskKind::None, pictures: false };
    let visible = g.input("visible", role, DType::I32, [1, 16, 2]).unwrap();
    let visible = g.push(Slice { axis: 1, start: 0, len: 4.into() }, &[visible]).unwrap();
    let positions = g.input("positions", Role::Caller, DType::I32, [1, 3]).unwrap();
    let y = g.push(Attention { scale: 1.0, softcap: None, keep: false }, &[q, k, k, visible, positions]).unwrap();
    g.output("y", y);
    assert_eq!(costs(&lowered(&g), 16, 0).last().unwrap().flops, 4 * 2 * 8 * 4 * 3);
}

#[test]
fn choosing_a_token_reads_the_logits_once_or_one_slice_of_them() {
    let all = sampling::argmax(1, 1000, false, &Target::portable());
    // Two slices, each with its maximum and where it is.
    assert_eq!(costs(&all, 1, 0)[0], Cost { bytes: 4 * (1000 + 4), flops: 0 });
    let maxima = sampling::argmax(1, 1000, true, &Target::portable());
    // Two maxima, one slice of 512 logits and the id.
    assert_eq!(costs(&maxima, 1, 0)[0], Cost { bytes: 4 * (2 + 512 + 1), flops: 0 });
}
