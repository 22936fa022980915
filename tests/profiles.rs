//! Compile profiles: every key shows in the plan, none changes what a graph means, mistakes are refused.

mod common;

use std::collections::BTreeSet;

use common::{
    open,
    oracle::{GATE, Oracle, worst},
};
use gemmaflow::{
    Error,
    error::GraphError,
    gemma::GemmaFlow,
    internals::{
        ir::kernel::{CooperativeTile, Dispatch, Kernel, Target, Tier},
        lower::{Unplaced, lower},
        plan::Plan,
    },
    ir::{DType, DimBinding, Graph, ops::Role, sym},
    profile::CompileProfile,
    runtime::{CompileOptions, Device, GpuOptions, Session},
};

fn profile(text: &str) -> CompileProfile {
    CompileProfile::from_toml(text, true).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn resident(oracle: &Oracle) -> Graph {
    GemmaFlow::resident(&oracle.config).last_token_logits().build(oracle.loader().as_mut()).unwrap().graph
}

fn plan(graph: &Graph, target: &Target, backend: &str, text: &str) -> Result<Plan, Error> {
    plan_of(1, graph, target, backend, text)
}

fn plan_of(tokens: usize, graph: &Graph, target: &Target, backend: &str, text: &str) -> Result<Plan, Error> {
    let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, 256).with(sym::RING, 24);
    lower(graph, &binding, target, &profile(text).options(backend), &Unplaced)
}

/// What `inspect` prints of a plan.
fn shown(graph: &Graph, target: &Target, backend: &str, text: &str) -> String {
    let plan = plan(graph, target, backend, text).unwrap_or_else(|e| panic!("{text}: {e}"));
    format!("{}{plan}", plan.report)
}

fn dispatches_of(plan: &Plan, label: &str) -> usize {
    plan.dispatches.iter().filter(|dispatch| dispatch.label.ends_with(label)).count()
}

#[test]
fn every_key_of_lowering_shows_in_the_plan() {
    let graph = resident(&Oracle::open("gemma3-text"));
    let f16 = Target { f16: true, ..Target::portable() };
    let stock = shown(&graph, &f16, "vulkan", "");
    let texts = [
        "[fusion]\npolicy = 'direct'",
        "[fusion]\nskip = ['geglu']",
        "[fusion]\nskip = ['layer.1.post_ffw_norm']",
        "[fusion]\nskip = ['rms_norm']",
        "[passes]\ndce = false",
        "[passes]\nconstant_folding = false",
        "[passes]\nverbose = true",
        "[precision]\ncompute = 'f16'",
        "[precision]\ncompute = 'f16'\nmixed = 'none'",
        "[backend.vulkan]\nskip_fusion = true",
        "[backend.vulkan]\nunfuse_regions = ['post_attention_norm']",
    ];
    let shown: Vec<String> = texts.iter().map(|text| shown(&graph, &f16, "vulkan", text)).collect();
    for (text, shown_) in texts.iter().zip(&shown) {
        assert_ne!(*shown_, stock, "{text} shows nowhere");
        let same = texts.iter().zip(&shown).filter(|(_, other)| *other == shown_).count();
        // A backend's skip_fusion is the policy `direct` for it.
        let twins = if text.contains("direct") || text.contains("skip_fusion") { 2 } else { 1 };
        assert_eq!(same, twins, "{text} shows as another key does");
    }
    assert!(stock.contains("pass dce: ") && stock.contains("pass constant_folding: ") && stock.contains("pass fuse: "));
    let other = |text: &str| self::shown(&graph, &f16, "metal", text);
    assert_eq!(other("[backend.vulkan]\nskip_fusion = true\nunfuse_regions = ['geglu']"), stock);
}

#[test]
fn nothing_shares_a_dispatch_with_what_is_skipped() {
    let graph = resident(&Oracle::open("gemma3-text"));
    let portable = Target::portable();
    let lowered = |text: &str| plan(&graph, &portable, "vulkan", text).unwrap();
    let stock = lowered("");
    let skipped = lowered("[fusion]\nskip = ['geglu']");
    let layers = graph.nodes().iter().filter(|node| node.name.ends_with(".geglu")).count();
    assert!(layers > 0 && dispatches_of(&stock, ".geglu") == 0, "{stock}");
    assert_eq!(dispatches_of(&skipped, ".geglu"), layers);
    let one = lowered("[fusion]\nskip = ['layer.1.geglu']");
    assert_eq!((dispatches_of(&one, "layer.1.geglu"), dispatches_of(&one, ".geglu")), (1, 1));
    let direct = lowered("[fusion]\npolicy = 'direct'");
    assert!(direct.dispatches.len() > stock.dispatches.len() + 4 * layers);
    let identity = |hole: &str| hole.is_empty() || hole.contains("fn element") || hole.contains("{ return v; }");
    assert!(direct.dispatches.iter().all(|dispatch| identity(&dispatch.kernel.hole)), "{direct}");
    let note = lowered("[fusion]\nskip = ['gelgu']").report.notes;
    assert!(note.iter().any(|note| note.contains("'gelgu'")), "{note:?}");
}

#[test]
fn dead_nodes_are_computed_only_without_dce() {
    let mut graph = Graph::new("dead");
    let x = graph.input("x", Role::Caller, DType::F32, [4, 4]).unwrap();
    let weight = graph.weight("w", DType::F32, &[4, 4]).unwrap();
    let dead = graph.linear(x, weight).unwrap();
    graph.gelu(dead).unwrap();
    let y = graph.scale(x, 2.0).unwrap();
    graph.output("y", y);
    let dispatches = |text: &str| plan(&graph, &Target::portable(), "vulkan", text).unwrap().dispatches.len();
    assert_eq!((dispatches(""), dispatches("[passes]\ndce = false")), (1, 2));
}

#[test]
fn assert_clean_names_the_regions_that_are_left() {
    for name in ["gemma1-mha", "gemma2", "gemma3-text"] {
        let graph = resident(&Oracle::open(name));
        let target = Target::portable();
        plan(&graph, &target, "vulkan", "[fusion]\nassert_clean = true").unwrap_or_else(|e| panic!("{name}: {e}"));
        match plan(&graph, &target, "vulkan", "[fusion]\nassert_clean = true\nskip = ['geglu']") {
            Err(Error::Graph(GraphError::Unfused { regions, .. })) => {
                assert!(regions.contains(&"layer.0.geglu".to_string()), "{regions:?}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_device_without_f16_is_an_error_or_a_note() {
    let graph = resident(&Oracle::open("gemma3-text"));
    let portable = Target::portable();
    let refused = plan(&graph, &portable, "vulkan", "[precision]\ncompute = 'f16'\nmixed = 'none'").unwrap_err();
    assert!(matches!(refused, Error::Unsupported(_)) && refused.to_string().contains("mixed"), "{refused}");
    let fallback = plan(&graph, &portable, "vulkan", "[precision]\ncompute = 'f16'").unwrap();
    assert!(fallback.report.notes.iter().any(|note| note.contains("f16")));
    assert_eq!(fallback.dispatches, plan(&graph, &portable, "vulkan", "").unwrap().dispatches);
}

/// What goes through cooperative matrices is what `mixed` leaves to f16, and nothing else of the plan changes.
#[test]
fn the_default_takes_cooperative_matrices_and_is_else_exact() {
    let graph = resident(&Oracle::open("gemma3-text"));
    let tile = CooperativeTile { m: 16, n: 16, k: 16, lanes: 128, memory: 32 << 10 };
    let with = Target { f16: true, tier: Tier::Subgroup(32), cooperative: Some(tile), ..Target::portable() };
    let [default, exact] = ["", "[precision]\ncompute = 'f32'"].map(|text| plan_of(64, &graph, &with, "vulkan", text).unwrap());
    let through = |dispatch: &&Dispatch| dispatch.kernel.shader == "half_rows" || dispatch.kernel.uses_matrices();
    assert!(default.dispatches.iter().filter(through).count() > 0, "{default}");
    let others = default.dispatches.iter().filter(|dispatch| !through(dispatch));
    let kept: Vec<&Kernel> = others.map(|dispatch| &dispatch.kernel).collect();
    assert!(kept.iter().all(|kernel| exact.dispatches.iter().any(|dispatch| dispatch.kernel == **kernel)), "{default}");
    let down = |dispatch: &&Dispatch| dispatch.label.ends_with("ffw_down");
    assert!(!default.dispatches.iter().filter(down).any(|dispatch| through(&dispatch)), "{default}");
    let short = ["", "[precision]\ncompute = 'f32'"].map(|text| plan_of(16, &graph, &with, "vulkan", text).unwrap().dispatches);
    assert_eq!(short[0], short[1], "runs of a deterministic generator");
    let without = Target { cooperative: None, ..with };
    let found = plan_of(64, &graph, &without, "vulkan", "").unwrap();
    assert_eq!(
        found.dispatches.iter().map(|d| &d.kernel).collect::<Vec<_>>(),
        exact.dispatches.iter().map(|d| &d.kernel).collect::<Vec<_>>()
    );
}

/// A score that is off can choose another expert.
#[test]
fn attention_of_a_model_with_experts_stays_exact() {
    let tile = CooperativeTile { m: 16, n: 16, k: 16, lanes: 128, memory: 32 << 10 };
    let target = Target { f16: true, tier: Tier::Subgroup(32), cooperative: Some(tile), ..Target::portable() };
    let shaders = |name: &str, text: &str| -> BTreeSet<&str> {
        let plan = plan_of(64, &resident(&Oracle::open(name)), &target, "vulkan", text).unwrap();
        plan.dispatches.iter().map(|dispatch| dispatch.kernel.shader).collect()
    };
    let with_experts = shaders("gemma4-moe", "");
    assert!(with_experts.contains("linear_coop") && !with_experts.contains("attention_coop"), "{with_experts:?}");
    assert!(shaders("gemma4-moe", "[precision]\nmixed = 'none'").contains("attention_coop"));
    assert!(shaders("gemma4-dense", "").contains("attention_coop"));
}

#[test]
fn mixed_precision_keeps_what_it_says_in_f32() {
    for name in ["gemma2", "gemma3-untied-native"] {
        let graph = resident(&Oracle::open(name));
        let target = Target { f16: true, ..Target::portable() };
        let plan = plan(&graph, &target, "vulkan", "[precision]\ncompute = 'f16'").unwrap();
        let products = plan.dispatches.iter().filter(|d| d.kernel.shader.starts_with("linear"));
        let (mut wide, mut narrow) = (0, 0);
        for dispatch in products {
            let weights: Vec<String> = dispatch.bindings.iter().map(|(_, operand)| format!("{operand:?}")).collect();
            let kept = weights.iter().any(|w| w.contains("ffw_down") || w.contains("embed"));
            let half = dispatch.kernel.options.contains(&("COMPUTE", "f16".into()));
            assert_eq!(half, !kept, "{name}: {}", dispatch.label);
            *if half { &mut narrow } else { &mut wide } += 1;
        }
        assert!(wide > 1 && narrow > wide, "{name}: {wide} products in f32, {narrow} in f16");
    }
}

/// Logits of the oracle's prompt with a profile; `[backend.<own>]` in it stands for the session's backend.
fn logits(session: &Session, oracle: &Oracle, text: &str) -> Vec<f32> {
    let tokens = oracle.tokens("p33.input_ids");
    let built = GemmaFlow::for_prefill(&oracle.config, 1, tokens.len()).lm_head().build(oracle.loader().as_mut()).unwrap();
    let backend = session.context().map_or("cpu", |context| context.capabilities().backend.as_str()).to_string();
    let profile = profile(&text.replace("<own>", &backend));
    let options = CompileOptions::default().with_weights(&session.load(built.params()).unwrap()).with_profile(&profile);
    let mut compiled = session.compile_with(&built.graph, &options).unwrap_or_else(|e| panic!("{text}: {e}"));
    compiled.run(&[("input_ids", tokens.as_slice())]).unwrap().swap_remove(0).1.to_f32().unwrap().into_owned()
}

#[test]
fn logits_do_not_depend_on_fusion_and_passes() {
    let session = Session::on(&open(&GpuOptions::default()));
    for name in ["gemma1-mha", "gemma2", "gemma3-text"] {
        let oracle = Oracle::open(name);
        for text in [
            "",
            "[fusion]\npolicy = 'direct'",
            "[fusion]\nskip = ['geglu', 'post_ffw_norm', 'linear']",
            "[backend.<own>]\nskip_fusion = true",
            "[backend.<own>]\nunfuse_regions = ['rms_norm', 'layer.0.geglu']",
            "[passes]\ndce = false\nconstant_folding = false",
        ] {
            let error = worst(&logits(&session, &oracle, text), &oracle.f32("p33.logits"));
            println!("{name:16} {error:.1e}  {}", text.replace('\n', " "));
            assert!(error <= GATE, "{name} {text}: {error}");
        }
    }
}

#[test]
fn the_reference_agrees_through_definitions_too() {
    let session = Session::new(&Device::Cpu).unwrap();
    for name in ["gemma2", "gemma3-text"] {
        let oracle = Oracle::open(name);
        for text in ["[backend.cpu]\nskip_fusion = true", "[backend.cpu]\nunfuse_regions = ['ffw_down', 'attention']"] {
            let error = worst(&logits(&session, &oracle, text), &oracle.f32("p33.logits"));
            println!("reference {name:16} {error:.1e}  {}", text.replace('\n', " "));
            assert!(error <= GATE, "{name} {text}: {error}");
        }
    }
}
