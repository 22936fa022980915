//! The parts of a plan, apart from each other, take the kernels of the whole. No hardware.

use std::collections::BTreeSet;

use gemmaflow::{
    gemma::{GemmaConfig, GemmaFlow, random_weights},
    internals::{
        ir::{
            LowerOptions,
            kernel::{CooperativeTile, Target, Tier},
        },
        lower::{Together, lower, parts},
    },
    ir::{Compute, DType, DimBinding, Graph, sym},
};

const FAMILIES: [&str; 7] =
    ["gemma-2b", "gemma-2-2b", "gemma-3-270m", "gemma-3-4b", "gemma-3n-e2b", "gemma-4-e2b", "gemma-4-26b-a4b"];

fn targets() -> [Target; 3] {
    let gpu = Target { max_binding: 1 << 30, f16: true, int64: true, max_storage_buffers: 16, ..Target::portable() };
    let tile = CooperativeTile { m: 16, n: 16, k: 16, lanes: 128, memory: 32 << 10 };
    [
        Target { tier: Tier::Subgroup(32), cooperative: Some(tile), ..gpu.clone() },
        Target { tier: Tier::Subgroup(8), software: true, rolled: true, sizes_are_data: true, ..gpu },
        Target::portable(),
    ]
}

fn graph(name: &str) -> Graph {
    let mut config = GemmaConfig::preset(name).expect("a preset");
    config.effective_num_layers = Some(6);
    let mut loader = random_weights(&config, DType::BF16, 1).expect("weights of a preset");
    GemmaFlow::resident(&config).last_token_logits().build(&mut loader).expect("a graph").graph
}

#[test]
fn parts_take_the_kernels_of_the_whole() {
    for name in FAMILIES {
        let graph = graph(name);
        let residency = Together::of(&graph);
        let runs = targets().into_iter().flat_map(|target| [1, 16, 64].map(|tokens| (target.clone(), tokens)));
        for ((target, tokens), compute) in
            runs.flat_map(|run| [Compute::F32, Compute::Auto].map(|compute| (run.clone(), compute)))
        {
            let options =
                LowerOptions { chosen_from: Some("logits".into()), compute, ..LowerOptions::default() }.for_graph(&graph);
            let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, 4096).with(sym::RING, 640);
            let kernels = |graph: &Graph| -> BTreeSet<String> {
                let plan = lower(graph, &binding, &target, &options, &residency).expect("a plan");
                plan.dispatches.iter().map(|dispatch| dispatch.kernel.key()).collect()
            };
            let whole = kernels(&graph);
            let parts = parts(&graph, &binding, &target, &options, &residency).expect("parts");
            for part in &parts {
                part.graph.verify().unwrap_or_else(|e| panic!("{name}: {}: {e}", part.label));
            }
            let found: BTreeSet<String> = parts.iter().flat_map(|part| kernels(&part.graph)).collect();
            // The results of products that are joined are put into one.
            let more = |kernel: &&String| !whole.contains(*kernel) && !kernel.starts_with("region");
            let missing: Vec<_> = whole.difference(&found).chain(found.iter().filter(more)).collect();
            assert!(missing.is_empty(), "{name}, {:?}, {compute:?}, {tokens} tokens: {missing:#?}", target.tier);
        }
    }
}
