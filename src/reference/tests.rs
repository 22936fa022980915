use super::*;
use std::collections::BTreeSet;

use crate::ir::ops::{Input, Lowering};

#[test]
fn an_op_with_a_rule_of_its_own_means_its_definition() {
    let has_both = |op: &Op| op.lowering() == Lowering::Kernel && !op.runs_decomposed();
    let mut defined_ops = BTreeSet::new();
    for case in Op::examples().iter().filter(|op| has_both(op)).flat_map(|op| op.cases()) {
        let mut scratch = case.graph().unwrap();
        let inputs = scratch.node(scratch.outputs()[0].1).inputs.clone();
        if case.op.decompose(&mut scratch, &inputs).is_none() {
            continue;
        }
        defined_ops.insert(case.op.name());
        let operands: Vec<_> = case.inputs.iter().cloned().map(Arc::new).collect();
        let defined = run_definition(&case.op, &operands).unwrap();
        let ty = FixedType { dtype: defined.dtype(), shape: defined.shape.clone() };
        let own = evaluate(&case.op, &operands, &ty).unwrap();
        let own = own.to_f32().unwrap();
        let defined = defined.to_f32().unwrap();
        let largest = defined.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (a, b) in own.iter().zip(defined.iter()) {
            // Sums of the same f32 products in another order.
            assert!((a - b).abs() <= 1e-5 * largest.max(1e-3), "{} {}: {a} and {b}", case.op.name(), case.name);
        }
    }
    assert!(["attention", "layer_norm", "linear", "rms_norm", "rope"].iter().all(|op| defined_ops.contains(op)));
}

/// A graph that writes twice into one cache, and its inputs.
fn two_writes() -> (Graph, Inputs) {
    let mut graph = Graph::new("writes");
    let mut inputs = Inputs::new();
    let mut input = |name: &str, role, value: Value| {
        let ty = Type::new(value.dtype(), value.shape.as_slice());
        inputs.insert(name.into(), Arc::new(value));
        graph.push(Input { name: name.into(), role, ty }, &[]).unwrap()
    };
    let cache = input("cache", Role::Cache, Value::f32([1, 4, 2], (0..8).map(|x| x as f32).collect()));
    let rows = input("rows", Role::Caller, Value::f32([1, 2, 2], vec![10.0, 11.0, 12.0, 13.0]));
    let first = input("first", Role::Caller, Value::i32([1, 2], vec![3, 4]));
    let second = input("second", Role::Caller, Value::i32([1, 2], vec![1, 2]));
    let before = graph.push(CacheWrite, &[cache, rows, first]).unwrap();
    let after = graph.push(CacheWrite, &[cache, rows, second]).unwrap();
    graph.output("before", before);
    graph.output("after", after);
    (graph, inputs)
}

fn numbers(value: &Value) -> Vec<f32> {
    value.to_f32().unwrap().into_owned()
}

#[test]
fn a_cache_is_written_where_it_is_and_means_the_same() {
    let (graph, mut inputs) = two_writes();
    let outcome = run(&graph, &DimBinding::new(), &inputs, &Weights::new()).unwrap();
    let found: Vec<_> = outcome.outputs.iter().map(|(_, value)| numbers(value)).collect();
    assert_eq!(found[0], [12.0, 13.0, 2.0, 3.0, 4.0, 5.0, 10.0, 11.0]);
    assert_eq!(found[1], [0.0, 1.0, 10.0, 11.0, 12.0, 13.0, 6.0, 7.0], "what the cache was before the first write");
    assert_eq!(numbers(&inputs["cache"]), (0..8).map(|x| x as f32).collect::<Vec<_>>(), "the caller's cache");
    let address = |inputs: &Inputs| match &inputs["cache"].data {
        Data::F32(numbers) => numbers.as_ptr(),
        _ => panic!("another type"),
    };
    let mut one = Graph::new("write");
    for node in graph.nodes().iter().filter(|node| !matches!(&node.op, Op::Input(input) if input.name == "second")).take(4) {
        one.push(node.op.clone(), &node.inputs).unwrap();
    }
    let before = address(&inputs);
    run_unless(&one, &DimBinding::new(), &mut inputs, &Weights::new(), &CancelToken::new()).unwrap();
    assert_eq!(numbers(&inputs["cache"]), found[0]);
    assert_eq!(address(&inputs), before, "no copy");
}

#[test]
fn caches_are_as_they_were_after_an_error() {
    let (graph, mut inputs) = two_writes();
    for last in 0..graph.nodes().len() {
        let mut left = last;
        let mut stop = |_: NodeId, _: &Value| match left {
            0 => Err(Error::Cancelled("a test")),
            _ => {
                left -= 1;
                Ok(())
            }
        };
        let weights = Weights::new();
        let mut run = Run::new(&graph, &DimBinding::new(), &mut inputs, &weights).unwrap();
        assert!(run.all(&mut stop).is_err());
        run.restore().unwrap();
        assert_eq!(numbers(&inputs["cache"]), (0..8).map(|x| x as f32).collect::<Vec<_>>(), "after node {last}");
    }
}
