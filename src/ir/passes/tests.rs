use super::*;
use crate::ir::{DType, ops::Role};

fn counted(build: impl Fn(&mut Graph, NodeId) -> Result<NodeId>, options: &LowerOptions) -> (Graph, PassReport) {
    let mut graph = Graph::new("test");
    let x = graph.input("x", Role::Caller, DType::F32, [2, 3]).unwrap();
    let y = build(&mut graph, x).unwrap();
    graph.label(y, "y");
    graph.output("y", y);
    let mut report = PassReport::default();
    (prepare(&graph, options, &mut report).unwrap(), report)
}

#[test]
fn factors_are_joined_and_constants_computed() {
    let chain = |g: &mut Graph, x: NodeId| {
        let x = g.scale(x, 2.0)?;
        let x = g.scale(x, 1.0)?;
        let a = g.constant(1.5)?;
        let b = g.constant(2.5)?;
        let sum = g.add(a, b)?;
        let root = g.push(crate::ir::ops::Unary { f: crate::ir::UnaryFn::Sqrt }, &[sum])?;
        g.mul(x, root)
    };
    let (folded, report) = counted(chain, &LowerOptions::default());
    // x · 2 · 1 · √(1.5 + 2.5)
    let numbers: Vec<f32> =
        folded.nodes().iter().filter_map(|n| if let Op::Const(c) = &n.op { Some(c.value) } else { None }).collect();
    assert_eq!(numbers, [4.0], "{folded}");
    assert_eq!(folded.nodes().len(), 4, "{folded}");
    assert_eq!(folded.node(folded.outputs()[0].1).name, "y");
    let pass = report.passes.iter().find(|p| p.name == "constant_folding").unwrap();
    assert!(pass.graph.is_none());
    let off = LowerOptions { constant_folding: false, verbose: true, ..LowerOptions::default() };
    let (unfolded, report) = counted(chain, &off);
    assert!(unfolded.nodes().len() > folded.nodes().len());
    assert!(report.passes.iter().all(|p| p.name != "constant_folding" && p.graph.is_some()), "{report}");
}

#[test]
fn a_factor_that_others_read_stays_where_it_is() {
    let (folded, _) = counted(
        |g, x| {
            let twice = g.scale(x, 2.0)?;
            let more = g.scale(twice, 3.0)?;
            g.add(twice, more)
        },
        &LowerOptions::default(),
    );
    assert_eq!(folded.nodes().iter().filter(|n| n.op.name() == "mul").count(), 2, "{folded}");
}

#[test]
fn dead_nodes_stay_only_when_asked() {
    let dead = |g: &mut Graph, x: NodeId| {
        g.push(crate::ir::ops::Unary { f: crate::ir::UnaryFn::Exp }, &[x])?;
        g.scale(x, 2.0)
    };
    let (kept, report) = counted(dead, &LowerOptions { dce: false, ..LowerOptions::default() });
    assert!(kept.nodes().iter().any(|n| n.op.name() == "exp") && report.passes.iter().all(|p| p.name != "dce"));
    let (dropped, report) = counted(dead, &LowerOptions::default());
    assert!(dropped.nodes().iter().all(|n| n.op.name() != "exp"));
    assert_eq!((report.passes[0].name, report.passes[0].before - report.passes[0].after), ("dce", 1));
}
