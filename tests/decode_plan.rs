//! What a decode step is made of: the dispatches of its plan, counted for every sort of device. No hardware.

use gemmaflow::{
    gemma::{GemmaConfig, GemmaFlow},
    ir::{
        DType, DimBinding, LowerOptions,
        kernel::{Operand, Target, Tier},
        sym,
    },
    lower::{Together, lower},
    plan::Plan,
    weights::random_weights,
};

fn gpu(tier: Tier) -> Target {
    Target { tier, max_binding: 1 << 30, f16: true, int64: true, max_storage_buffers: 16, ..Target::portable() }
}

/// The plan of `tokens` new tokens of the first two layers after `rows` cached rows.
fn plan(name: &str, target: &Target, tokens: usize, rows: usize) -> Plan {
    let mut config = GemmaConfig::preset(name).expect("a preset");
    config.effective_num_layers = Some(2);
    let mut loader = random_weights(&config, DType::BF16, 1).expect("weights of a preset");
    let built = GemmaFlow::resident(&config).last_token_logits().build(&mut loader).expect("a graph");
    let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, rows).with(sym::RING, 640);
    let together = Together::of(&built.graph);
    lower(&built.graph, &binding, target, &LowerOptions::default(), &together).expect("a plan")
}

/// What layer 1 dispatches: from the first that reads one of its weights or caches to the last before the head.
fn layer(plan: &Plan) -> Vec<&str> {
    let labels = plan.dispatches.iter().map(|dispatch| dispatch.label.as_str());
    labels.filter(|label| label.starts_with("layer.1.")).collect()
}

/// Gemma 2 and 3: the products of q, k and v; attention in parts and their combination, with norms, rotation and cache writes;
/// its output; norm, residual and next norm; gate and up; down; norm, residual and next norm. Gemma 1 has no norms after
/// attention and FFW, and its products norm their operand themselves.
#[test]
fn a_layer_of_a_step_is_few_dispatches_on_a_gpu() {
    for tier in [8, 32, 64].map(Tier::Subgroup).into_iter().chain([Tier::Portable]) {
        for (name, most) in [("gemma-2b", 6), ("gemma-2-2b", 8), ("gemma-3-270m", 8), ("gemma-3-1b", 8), ("gemma-3-4b", 8)] {
            for rows in [256, 8192] {
                let plan = plan(name, &gpu(tier), 1, rows);
                let labels = layer(&plan);
                assert!(labels.len() <= most, "{name}, {tier:?}, {rows} rows: {labels:?}");
            }
        }
    }
}

/// On a software driver products do not norm their operand; see `shaders/README.md`.
#[test]
fn a_layer_of_a_step_is_few_dispatches_on_a_software_driver() {
    let target = Target { software: true, ..gpu(Tier::Subgroup(8)) };
    for (name, most) in [("gemma-2b", 8), ("gemma-2-2b", 8), ("gemma-3-270m", 8), ("gemma-3-1b", 8)] {
        let plan = plan(name, &target, 1, 8192);
        assert!(layer(&plan).len() <= most, "{name}: {:?}", layer(&plan));
    }
}

/// What does not fit a device's bindings goes in steps: the plan of a device with WebGPU's 8 storage buffers is valid too.
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
    let joined = |(_, operand): &(u32, Operand)| matches!(operand, Operand::Joined(_));
    assert!(!plan.dispatches.iter().any(|dispatch| dispatch.bindings.iter().any(joined)));
    let new = ("NEW", "yes".to_string());
    assert!(!plan.dispatches.iter().any(|dispatch| dispatch.kernel.options.contains(&new)));
}
