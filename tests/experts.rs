//! Mixtures of experts: grouped products are the products one by one, a step reads the experts that it takes and no
//! other, and a mistake in a layer is noticed.

mod common;

use common::{
    oracle::{Oracle, worst},
    plan, run, tiers, title,
};
use gemmaflow::{
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow, random_weights},
    generate::{GemmaGenerator, GeneratorOptions},
    internals::{
        ir::{
            Case, LowerOptions,
            kernel::{Dispatch, Target, Tier},
        },
        lower::{Unplaced, lower},
        plan::{Live, Plan, cost},
        reference::{compare, expected},
        runtime::PipelineCache,
    },
    ir::{
        DType, DimBinding, Graph, NodeId, Op, Value,
        ops::{ExpertLinear, Route, Slice},
        sym,
    },
    runtime::{CompileOptions, Device, RunInput, Session},
    weights::Tensor,
};

/// What a planted mistake must cost at least: far above the gate of 1e-3.
const RED: f32 = 0.05;

/// Many rows, grouped by expert, and each row on its own: the same numbers to within rounding, and those of the
/// reference, in every tier.
#[test]
fn grouped_rows_are_the_rows_one_by_one() {
    let rows = 37;
    let experts = 6;
    let top = 2;
    let inner = 48;
    let out = 70;
    // Most rows want expert 4, one expert nobody.
    let ids: Vec<f32> = (0..rows).flat_map(|t| [4.0, [0.0, 1.0, 2.0, 5.0][t * t % 4]]).collect();
    let route = |from: usize, count: usize| {
        let of = |t: usize| ids[2 * t..2 * t + 2].iter().copied().chain([0.5; 2]);
        Value::f32([1, count, 2, top], (from..from + count).flat_map(of).collect())
    };
    for dtype in [DType::F32, DType::BF16] {
        let weight = Case::weight(&[experts * out, inner], 2, 1.0, dtype);
        let x = Case::numbers(rows * top * inner, 1, 1.0);
        let part = |from: usize, count: usize| {
            let own = Value::f32([1, count, top, inner], x[from * top * inner..][..count * top * inner].to_vec());
            Case::new(format!("{count} rows {dtype}"), ExpertLinear { experts }, vec![own, weight.clone(), route(from, count)])
        };
        for (tier, context) in tiers() {
            let (pipelines, target) = (PipelineCache::new(&context), context.capabilities().target());
            let shaders = |plan: &Plan| plan.dispatches.iter().map(|dispatch| dispatch.kernel.shader).collect::<Vec<_>>();
            let all = part(0, rows);
            let grouped = plan(&all, &target).unwrap();
            assert_eq!(shaders(&grouped)[0], "expert_tiles", "{tier}");
            let found = run(&pipelines, &grouped, &all).unwrap();
            compare(&all, &expected(&all).unwrap(), &found).unwrap_or_else(|e| panic!("{tier}, {}: {e}", title(&all)));
            let found = found.to_f32().unwrap().into_owned();
            for t in [0, 1, 17, rows - 1] {
                let one = part(t, 1);
                let single = plan(&one, &target).unwrap();
                assert_eq!(shaders(&single).len(), 1, "{tier}");
                let alone = run(&pipelines, &single, &one).unwrap();
                let error = worst(&alone.to_f32().unwrap(), &found[t * top * out..][..top * out]);
                assert!(error < 1e-4, "{tier} {dtype}, row {t}: {error}");
            }
        }
    }
}

/// The plan of `tokens` new tokens of two layers of the released shape.
fn released(target: &Target, tokens: usize) -> Plan {
    let mut config = GemmaConfig::preset("gemma-4-26b-a4b").expect("a preset");
    config.effective_num_layers = Some(2);
    let mut loader = random_weights(&config, DType::BF16, 1).expect("weights of a preset");
    let built = GemmaFlow::resident(&config).last_token_logits().build(&mut loader).expect("a graph");
    let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, 256).with(sym::RING, 1536);
    lower(&built.graph, &binding, target, &LowerOptions::default(), &Unplaced).expect("a plan")
}

/// Bytes of a matrix of an expert, gate and up together or down.
const MATRIX: [(&str, u64); 2] = [("expert_gate_up", 2 * 2 * 704 * 2816), ("expert_down", 2 * 704 * 2816)];

/// Bytes of weights that the experts' products read, by what the plan's dispatches cost.
fn read(plan: &Plan, tokens: usize, name: &str, matrix: u64) -> u64 {
    let linear = |dispatch: &&Dispatch| dispatch.label.ends_with(name) && dispatch.kernel.shader.starts_with("linear_");
    let products = plan.dispatches.iter().filter(linear);
    let live = Live { tokens, start: 0 };
    let all = products.map(|dispatch| {
        let size = |name: &str| dispatch.kernel.overrides.iter().find(|(n, _)| *n == name).expect("a size").1 as u64;
        let (bound, out) = (size("BOUND"), size("OUT"));
        let with = cost(plan, dispatch, live, &|_, _| matrix * bound / out).bytes;
        with - cost(plan, dispatch, live, &|_, _| 0).bytes
    });
    all.sum()
}

/// A token reads 8 of 128 experts, whether their weights lie in one binding or in shards; a chunk of many tokens all of
/// them, once.
#[test]
fn a_step_reads_the_experts_that_it_takes() {
    let gpu = Target { tier: Tier::Subgroup(32), max_binding: 4 << 30, f16: true, max_storage_buffers: 16, ..Target::portable() };
    let software = Target { software: true, int64: true, tier: Tier::Subgroup(8), ..gpu.clone() };
    for target in [gpu, software, Target::portable()] {
        for (name, matrix) in MATRIX {
            let layers = 2;
            let step = read(&released(&target, 1), 1, name, matrix);
            assert!(step.abs_diff(layers * 8 * matrix) < 64, "{name}: {step} of {}", layers * 8 * matrix);
            let chunk = read(&released(&target, 64), 64, name, matrix);
            assert!(chunk.abs_diff(layers * 128 * matrix) < 64, "{name}: {chunk}");
        }
    }
}

#[test]
fn a_generator_counts_the_experts_that_a_token_takes() {
    let oracle = Oracle::open("gemma4-moe");
    let config = &oracle.config;
    let options = GeneratorOptions { context: Some(64), ..GeneratorOptions::default() };
    let generator = GemmaGenerator::with_options(config.clone(), oracle.loader().as_mut(), Device::Gpu, options).unwrap();
    let stats = generator.stats();
    let moe = config.moe.unwrap();
    let experts = 6 * 4 * (3 * moe.intermediate_size * config.hidden_size * moe.num_experts) as u64;
    assert_eq!(stats.weight_bytes - stats.bytes_per_token, experts / 8 * (8 - 3));
}

/// A prefill of `p33` with logits everywhere, on the reference.
fn error(oracle: &Oracle, model: &BuiltModel, graph: &Graph) -> f32 {
    let session = Session::new(&Device::Cpu).unwrap();
    let weights = session.load(&model.params).unwrap();
    let tokens = oracle.tokens("p33.input_ids");
    let mut compiled = session.compile_with(graph, &CompileOptions::default().with_weights(&weights)).unwrap();
    let outputs = compiled.run(&[("input_ids", RunInput::U32(&tokens))]).unwrap();
    worst(&outputs[0].1.to_f32().unwrap(), &oracle.f32("p33.logits"))
}

fn labelled(graph: &Graph, ending: &str) -> Vec<NodeId> {
    let found: Vec<NodeId> = graph.ids().filter(|id| graph.node(*id).name.ends_with(ending)).collect();
    assert!(!found.is_empty(), "there is no {ending}");
    found
}

/// Whoever reads a node with this label reads its first operand instead.
fn bypass(graph: &mut Graph, ending: &str) {
    for node in labelled(graph, ending) {
        let before = graph.node(node).inputs[0];
        for user in graph.ids().collect::<Vec<_>>() {
            for index in 0..graph.node(user).inputs.len() {
                if graph.node(user).inputs[index] == node {
                    graph.replace_input(user, index, before);
                }
            }
        }
    }
}

/// The experts read up projections as gates, and gates as up projections.
fn swap_halves(graph: &mut Graph) {
    for node in graph.ids().collect::<Vec<_>>() {
        let Op::Slice(slice) = graph.node(node).op.clone() else { continue };
        if graph.node(graph.node(node).inputs[0]).name.ends_with(".expert_gate_up") {
            let start = slice.len.fixed().unwrap() - slice.start;
            graph.replace_op(node, Slice { start, ..slice });
        }
    }
}

/// Each token takes its experts' products in another order than their shares.
fn turn_shares(graph: &mut Graph, top: usize) {
    for node in graph.ids().collect::<Vec<_>>() {
        let Op::Slice(slice) = graph.node(node).op.clone() else { continue };
        let from = graph.node(node).inputs[0];
        if matches!(graph.node(from).op, Op::Slice(_)) && slice.axis == 3 {
            graph.replace_op(node, Slice { start: (slice.start + 1) % top, ..slice });
        }
    }
}

#[test]
fn mistakes_of_a_layer_with_experts_are_noticed() {
    for name in ["gemma4-moe", "gemma4-moe-mm-bf16"] {
        let oracle = Oracle::open(name);
        let model = GemmaFlow::for_prefill(&oracle.config, 1, 33).lm_head().build(oracle.loader().as_mut()).unwrap();
        let right = error(&oracle, &model, &model.graph);
        assert!(right < oracle.gate(), "{name}: {right}");
        let top = oracle.config.moe.unwrap().top_k_experts;
        let planted = |what: &str, plant: &dyn Fn(&mut Graph)| {
            let mut graph = model.graph.clone();
            plant(&mut graph);
            let error = error(&oracle, &model, &graph);
            println!("{what:40} {name:20} {error:.3}");
            assert!(error > RED, "{what}, {name}: only {error}");
        };
        planted("gate and up swapped", &swap_halves);
        planted("shares of other experts", &|graph| turn_shares(graph, top));
        planted("no norm before the experts", &|graph| bypass(graph, ".pre_expert_norm"));
        planted("no norm after the dense block", &|graph| bypass(graph, ".post_dense_norm"));
        planted("no norm after the experts", &|graph| bypass(graph, ".post_expert_norm"));
        planted("a router that sees no norm", &|graph| bypass(graph, ".router_scale"));
        // The factor of each expert, left out.
        let ones = |params: &mut gemmaflow::flow::ModelParams| {
            for (name, tensor) in params.iter_mut().filter(|(name, _)| name.ends_with(".expert_scale")) {
                *tensor = Tensor::from_f32(name.clone(), tensor.shape().to_vec(), &vec![1.0; tensor.len()]);
            }
        };
        let mut without = GemmaFlow::for_prefill(&oracle.config, 1, 33).lm_head().build(oracle.loader().as_mut()).unwrap();
        ones(&mut without.params);
        // A graph says of which type a weight is.
        let mut graph = without.graph.clone();
        for node in graph.ids().collect::<Vec<_>>() {
            let Op::Weight(mut weight) = graph.node(node).op.clone() else { continue };
            if weight.name.ends_with(".expert_scale") {
                weight.ty.dtype = DType::F32;
                graph.replace_op(node, weight);
            }
        }
        let error = error(&oracle, &without, &graph);
        println!("{:40} {name:20} {error:.3}", "no factor of each expert");
        assert!(error > RED, "{name}: only {error}");
    }
}

/// A router that gives no numbers chooses experts that there are: the device answers, and neither reads past its
/// weights.
#[test]
fn a_router_without_numbers_stays_within_the_experts() {
    for (tier, context) in tiers() {
        let (pipelines, target) = (PipelineCache::new(&context), context.capabilities().target());
        for rows in [2, 40] {
            let logits = Value::f32([rows, 5], vec![f32::NAN; rows * 5]);
            let scales = Case::weight(&[5], 1, 1.0, DType::F32);
            let case = Case::new("NaN", Route { k: 3 }, vec![logits, scales]);
            let found = run(&pipelines, &plan(&case, &target).unwrap(), &case).unwrap();
            let found = found.to_f32().unwrap();
            assert!(found.chunks(6).all(|row| row[..3] == [0.0, 1.0, 2.0]), "{tier}: {:?}", &found[..6]);
            let lost = vec![f32::NAN; rows * 6];
            let x = Case::values(&[1, rows, 1, 16], 2, 1.0);
            let weight = Case::weight(&[5 * 8, 16], 3, 1.0, DType::BF16);
            let case = Case::new("NaN", ExpertLinear { experts: 5 }, vec![x, weight, Value::f32([1, rows, 2, 3], lost)]);
            let found = run(&pipelines, &plan(&case, &target).unwrap(), &case).unwrap();
            assert!(found.to_f32().unwrap().iter().all(|y| y.is_finite()), "{tier}, {rows} rows");
        }
    }
}
