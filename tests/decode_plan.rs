//! What a decode step is made of: the dispatches of its plan, counted for every sort of device. No hardware.

use std::collections::BTreeSet;

use gemmaflow::{
    gemma::{GemmaConfig, GemmaFlow, random_weights},
    internals::{
        ir::{
            LowerOptions,
            kernel::{Operand, Target, Tier},
        },
        lower::{Together, Unplaced, lower},
        plan::{Plan, SlotKind, sampling},
        shader::Sizes,
    },
    ir::{DType, DimBinding, Graph, ops::Role, sym},
};

fn gpu(tier: Tier) -> Target {
    Target { tier, max_binding: 1 << 30, f16: true, int64: true, max_storage_buffers: 16, ..Target::portable() }
}

/// The plan of `tokens` new tokens of the first two layers after `rows` cached rows.
fn plan(name: &str, target: &Target, tokens: usize, rows: usize) -> Plan {
    plan_with(name, target, tokens, rows, &LowerOptions { chosen_from: Some("logits".into()), ..LowerOptions::default() })
}

fn plan_with(name: &str, target: &Target, tokens: usize, rows: usize, options: &LowerOptions) -> Plan {
    let mut config = GemmaConfig::preset(name).expect("a preset");
    config.effective_num_layers = Some(2);
    let mut loader = random_weights(&config, DType::BF16, 1).expect("weights of a preset");
    let built = GemmaFlow::resident(&config).last_token_logits().build(&mut loader).expect("a graph");
    let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, rows).with(sym::RING, 640);
    let together = Together::of(&built.graph);
    lower(&built.graph, &binding, target, options, &together).expect("a plan")
}

/// What layer 1 dispatches: from the first that reads one of its weights or caches to the last before the head.
fn layer(plan: &Plan) -> Vec<&str> {
    let labels = plan.dispatches.iter().map(|dispatch| dispatch.label.as_str());
    labels.filter(|label| label.starts_with("layer.1.")).collect()
}

/// Gemma 2 and 3: the products of q, k and v; attention in parts and their combination, with norms, rotation and cache
/// writes; its output; norm, residual and next norm; gate and up; down; norm, residual and next norm. Gemma 1 has no
/// norms after attention and FFW, and its products norm their operand themselves. Gemma 4 norms its values besides, and
/// its E-series has the gate, the projection and the norm of each layer's own input; the factor on the stream costs
/// nothing. Experts beside the FFW have the router, the route, two products, what stands between and the sum; three
/// norms more.
#[test]
fn a_layer_of_a_step_is_few_dispatches_on_a_gpu() {
    for tier in [8, 32, 64].map(Tier::Subgroup).into_iter().chain([Tier::Portable]) {
        for (name, most) in [("gemma-2b", 6), ("gemma-2-2b", 8), ("gemma-3-270m", 8), ("gemma-3-1b", 8), ("gemma-3-4b", 8)]
            .into_iter()
            .chain(FOUR)
            .chain([("gemma-4-26b-a4b", 18)])
        {
            for rows in [256, 8192] {
                let plan = plan(name, &gpu(tier), 1, rows);
                let labels = layer(&plan);
                assert!(labels.len() <= most, "{name}, {tier:?}, {rows} rows: {labels:?}");
            }
        }
    }
}

const FOUR: [(&str, usize); 3] = [("gemma-4-31b", 9), ("gemma-4-e4b", 12), ("gemma-4-e2b", 12)];

/// On a software driver products do not norm their operand; see `shaders/README.md`.
#[test]
fn a_layer_of_a_step_is_few_dispatches_on_a_software_driver() {
    let target = Target { software: true, ..gpu(Tier::Subgroup(8)) };
    for (name, most) in [("gemma-2b", 8), ("gemma-2-2b", 8), ("gemma-3-270m", 8), ("gemma-3-1b", 8)]
        .into_iter()
        .chain(FOUR)
        .chain([("gemma-4-26b-a4b", 19)])
    {
        let plan = plan(name, &target, 1, 8192);
        assert!(layer(&plan).len() <= most, "{name}: {:?}", layer(&plan));
    }
}

/// What does not fit a device's bindings goes in steps: the plan of a device with WebGPU's 8 storage buffers is valid
/// too.
#[test]
fn a_device_with_eight_buffers_makes_its_rows_in_steps() {
    let plan = plan("gemma-3-270m", &Target::portable(), 1, 8192);
    let has = |shader: &str| plan.dispatches.iter().any(|dispatch| dispatch.kernel.shader == shader);
    assert!(has("rope") && has("cache_write"));
    let buffers = |bindings: &[(u32, Operand)]| bindings.iter().filter(|(_, operand)| *operand != Operand::Step).count();
    assert!(plan.dispatches.iter().all(|dispatch| buffers(&dispatch.bindings) <= 8));
}

/// Rows are made together in prefill: nothing of a step's shortcuts is there.
#[test]
fn a_chunk_has_no_joined_products_and_no_new_row() {
    let plan = plan("gemma-3-270m", &gpu(Tier::Subgroup(32)), 128, 1024);
    let joined = |(_, operand): &(u32, Operand)| matches!(operand, Operand::Concatenated(_));
    assert!(!plan.dispatches.iter().any(|dispatch| dispatch.bindings.iter().any(joined)));
    let new = ("PROLOGUE", "yes".to_string());
    assert!(!plan.dispatches.iter().any(|dispatch| dispatch.kernel.options.contains(&new)));
}

/// Where sizes are data, layers that read different parts of one value share their kernels: those that begin at its
/// start, and all others.
#[test]
fn the_inputs_of_all_layers_are_gated_by_two_kernels() {
    let target = Target { software: true, ..gpu(Tier::Subgroup(8)) };
    let mut config = GemmaConfig::preset("gemma-4-e4b").expect("a preset");
    config.effective_num_layers = Some(5);
    let mut loader = random_weights(&config, DType::BF16, 1).expect("weights of a preset");
    let built = GemmaFlow::resident(&config).last_token_logits().build(&mut loader).expect("a graph");
    for tokens in [1, 16] {
        let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, 256).with(sym::RING, 640);
        let plan = lower(&built.graph, &binding, &target, &LowerOptions::default(), &Unplaced).expect("a plan");
        let gates = plan.dispatches.iter().filter(|dispatch| dispatch.label.ends_with(".ple_gate"));
        let kernels: Vec<String> = gates.map(|dispatch| Sizes::Uniform.key(&dispatch.kernel)).collect();
        assert_eq!((kernels.len(), kernels.iter().collect::<BTreeSet<_>>().len()), (5, 2), "{kernels:?}");
    }
}

/// Dispatches that choose a token of the plan's logits.
fn choosing(plan: &Plan, target: &Target) -> usize {
    let maxima = plan.output(&sampling::maxima_of("logits")).is_some();
    sampling::argmax(1, plan.output("logits").expect("logits").ty.len(), maxima, target).dispatches.len()
}

/// The head keeps the largest logits of a step and of a chunk, of which only the last row is computed, whether it lies
/// in one piece or in shards.
#[test]
fn a_greedy_token_is_chosen_by_one_dispatch() {
    let software = Target { software: true, ..gpu(Tier::Subgroup(8)) };
    let narrow = Target { int64: false, ..software.clone() };
    let cut = Target { max_binding: 64 << 20, ..gpu(Tier::Subgroup(32)) };
    for target in [gpu(Tier::Subgroup(32)), gpu(Tier::Portable), cut, software, narrow, Target::portable()] {
        for (name, tokens) in [("gemma-3-270m", 1), ("gemma-3-270m", 128), ("gemma-2-2b", 1), ("gemma-2b", 1)] {
            let plan = plan(name, &target, tokens, 1024);
            assert_eq!(choosing(&plan, &target), 1, "{name}, {tokens}, {target:?}");
            let zeroed = plan.slots.iter().filter(|slot| slot.kind == SlotKind::Zeroed).count();
            let without = plan_with(name, &target, tokens, 1024, &LowerOptions::default());
            assert_eq!((zeroed, plan.dispatches.len()), (1, without.dispatches.len()), "{name}, {tokens}, {target:?}");
            assert_eq!(choosing(&without, &target), 2, "{name}, {tokens}, {target:?}");
        }
    }
}

/// Where the head cannot keep them, two dispatches look at the logits.
#[test]
fn a_head_that_keeps_no_maxima_is_looked_through() {
    let asked = LowerOptions { chosen_from: Some("logits".into()), ..LowerOptions::default() };
    let alone = LowerOptions { unfused: vec!["unembed".into(), "linear".into()], ..asked.clone() };
    let few = Target { max_storage_buffers: 4, ..Target::portable() };
    let wide = Target { software: true, ..gpu(Tier::Subgroup(64)) };
    for (target, options) in [(few, &asked), (wide, &asked), (gpu(Tier::Subgroup(32)), &alone)] {
        let plan = head(&target, options);
        assert_eq!(choosing(&plan, &target), 2, "{target:?}\n{plan}");
    }
    assert_eq!(choosing(&head(&gpu(Tier::Subgroup(32)), &asked), &gpu(Tier::Subgroup(32))), 1);
}

/// A head of a product and a factor for each of its results.
fn head(target: &Target, options: &LowerOptions) -> Plan {
    let mut graph = Graph::new("head");
    let x = graph.input("x", Role::Caller, DType::F32, [1, 1, 64]).expect("an input");
    let factors = graph.input("factors", Role::Caller, DType::F32, [1, 1, 4096]).expect("an input");
    let weight = graph.weight("w", DType::BF16, &[4096, 64]).expect("a weight");
    let product = graph.linear(x, weight).expect("a product");
    let logits = graph.mul(product, factors).expect("a factor");
    graph.output("logits", logits);
    lower(&graph, &DimBinding::new(), target, options, &Unplaced).expect("a plan")
}
