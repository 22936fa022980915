//! What customising a flow promises, part by part: stages with ops and weights of their own, changed layers, taps,
//! stacks, built models, the plain-struct options, and what is refused.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::collections::BTreeMap;

use gemmaflow::{
    Error,
    error::{CallbackError, WeightError},
    flow::{BuiltModel, FlowStage, LayerStack, ModelFlow, SideOutputs},
    gemma::{
        GeGluStage, GemmaConfig, GemmaDecodeOpts, GemmaFlow, GemmaKvTapStage, GemmaLayerCtx, GemmaPrefillOpts, GemmaRmsNormStage,
        LayerKind, LayerWeight, MoeFfnStage, build_gemma_decode_built, build_gemma_decode_flow, build_gemma_decode_graph,
        build_gemma_prefill_built, build_gemma_prefill_flow, gemma_moe_decode_layer_composed, gemma_moe_prefill_layer_composed,
    },
    internals::ir::decompose,
    ir::{DType, Graph, MaskKind, Op},
    runtime::{CompileOptions, Device, Session},
    weights::{Tensor, WeightMap},
};
use oracle::{GATE, Oracle, worst};

fn build(oracle: &Oracle, flow: GemmaFlow) -> gemmaflow::Result<BuiltModel> {
    flow.build(oracle.loader().as_mut())
}

/// Every output of a prefill of the oracle's prompt of 7.
fn run(oracle: &Oracle, graph: &Graph, built: &BuiltModel) -> BTreeMap<String, Vec<f32>> {
    let session = Session::new(&Device::Cpu).unwrap();
    let weights = session.load(built.params()).unwrap();
    let mut graph = session.compile_with(graph, &CompileOptions::default().with_weights(&weights)).unwrap();
    let outputs = graph.run(&[("input_ids", &oracle.tokens("p7.input_ids")[..])]).unwrap();
    outputs.into_iter().map(|(name, value)| (name, value.to_f32().unwrap().into_owned())).collect()
}

fn prefill(config: &GemmaConfig) -> GemmaFlow<'_> {
    GemmaFlow::for_prefill(config, 1, 7).lm_head()
}

fn linears(graph: &Graph) -> usize {
    graph.nodes().iter().filter(|node| matches!(node.op, Op::Linear(_))).count()
}

/// What a builder's error says.
fn refused<T: std::fmt::Debug>(result: gemmaflow::Result<T>) -> String {
    match result {
        Err(Error::Builder(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn debug_shows_hooks_as_counts() {
    let config = GemmaConfig::tiny_test();
    let flow = GemmaFlow::new(&config)
        .before_layers([FlowStage::identity(), FlowStage::identity()])
        .after_layers([FlowStage::identity()])
        .layer(|layer| layer.default_stage());
    let text = format!("{flow:?}");
    for part in ["before_layers: 2", "after_layers: 1", "layer hooks: 1", "patch hooks: 0"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let stage = FlowStage::identity().then(FlowStage::custom("mine", |_, x| Ok(x))).named("layer.0").adapted(|_, p| Ok(p.output));
    assert_eq!(format!("{stage:?}"), "adapted(layer.0: [[], custom(mine)])");
}

#[test]
fn plain_options_build_the_builders_graphs() {
    let oracle = Oracle::open("gemma3-text");
    let config = &oracle.config;
    let (loader, same) = (|| oracle.loader(), |flow| build(&oracle, flow).unwrap().graph.to_string());
    for bits in 0..16 {
        let bit = |i: usize| bits >> i & 1 == 1;
        let opts = GemmaPrefillOpts {
            dynamic_seq: bit(0),
            with_kv_outputs: bit(1),
            with_lm_head: bit(2),
            last_logits_only: bit(3),
            ..GemmaPrefillOpts::static_prefill(2, 9)
        };
        let built = build_gemma_prefill_built(config, &opts, loader().as_mut());
        if opts.last_logits_only && !opts.with_lm_head {
            assert!(refused(built).contains("last_logits_only"));
            continue;
        }
        let flow = GemmaFlow::for_prefill(config, 2, 9);
        let flow = if bit(0) { flow.dynamic_seq() } else { flow };
        let flow = if bit(1) { flow.export_kv() } else { flow };
        let flow = if bit(2) { flow.lm_head() } else { flow };
        let flow = if bit(3) { flow.last_token_logits() } else { flow };
        assert_eq!(built.unwrap().graph.to_string(), same(flow), "{opts:?}");
        let (graph, params) = build_gemma_prefill_flow(config, &opts, loader().as_mut()).unwrap();
        assert!(graph.name == "gemma" && params.contains_key("embed"));
    }
    for bits in 0..4 {
        let bit = |i: usize| bits >> i & 1 == 1;
        let opts = GemmaDecodeOpts { batch: 2, past_seq: 9, dynamic_past: bit(0), use_custom_mask: bit(1), ..Default::default() };
        let flow = GemmaFlow::for_decode(config, 2, 9);
        let flow = if bit(0) { flow.dynamic_past() } else { flow };
        let flow = if bit(1) { flow.custom_mask() } else { flow };
        let expected = build(&oracle, flow).unwrap();
        let built = build_gemma_decode_built(config, &opts, loader().as_mut()).unwrap();
        assert_eq!(built.graph.to_string(), expected.graph.to_string(), "{opts:?}");
        let (graph, params) = build_gemma_decode_flow(config, &opts, loader().as_mut()).unwrap();
        assert_eq!((graph.to_string(), params.len()), (expected.graph.to_string(), expected.params.len()));
        let (lowered, _) = build_gemma_decode_graph(config, &opts, loader().as_mut()).unwrap();
        assert_eq!(lowered.to_string(), decompose(&expected.graph).unwrap().to_string());
    }
}

/// Mistake 25: the tap gives what attention computed, not a second projection.
#[test]
fn a_tap_projects_nothing_again() {
    for name in ["gemma1-mha", "gemma2", "gemma3-text"] {
        let oracle = Oracle::open(name);
        let config = &oracle.config;
        let stock = build(&oracle, prefill(config)).unwrap();
        let exported = build(&oracle, prefill(config).export_kv()).unwrap();
        let flow = prefill(config).layer(|layer| {
            let tap = GemmaKvTapStage::layer(layer.index()).with_outputs(SideOutputs::with_prefix("my_"));
            layer.default_stage().then(FlowStage::block(tap))
        });
        let tapped = build(&oracle, flow).unwrap();
        assert_eq!([linears(&exported.graph), linears(&tapped.graph)], [linears(&stock.graph); 2]);
        let (expected, found) = (run(&oracle, &exported.graph, &exported), run(&oracle, &tapped.graph, &tapped));
        for layer in 0..config.num_hidden_layers {
            for what in ["k", "v"] {
                let name = format!("{what}_{layer}");
                assert_eq!(found[&format!("my_{name}")], expected[&name], "{name}");
            }
        }
    }
}

#[test]
fn a_tap_in_the_wrong_place_is_refused() {
    let oracle = Oracle::open("gemma3-text");
    let config = &oracle.config;
    let after = |tap: GemmaKvTapStage| build(&oracle, prefill(config).after_layers([FlowStage::block(tap)]));
    assert_eq!(
        after(GemmaKvTapStage::layer(2).with_n_rot(20).with_rope_table("rope_sliding")).unwrap().output_names()[1..],
        ["k_2", "v_2"]
    );
    assert!(refused(after(GemmaKvTapStage::layer(2).with_n_rot(10))).contains("10 rotated dimensions, layer 2 rotates 20"));
    assert!(refused(after(GemmaKvTapStage::layer(2).with_rope_table("rope_full"))).contains("'rope_full', layer 2"));
    assert!(refused(after(GemmaKvTapStage::layer(7))).contains("layer 7"));
    let before = prefill(config).before_layers([FlowStage::block(GemmaKvTapStage::layer(0))]);
    assert!(refused(build(&oracle, before)).contains("layer 0"));
    assert!(refused(after(GemmaKvTapStage::layer(2).with_k_eq_v(true))).contains("layer 2 projects its own"));
    let shared = Oracle::open("gemma4-e2b");
    let tap = |layer: usize| prefill(&shared.config).after_layers([FlowStage::block(GemmaKvTapStage::layer(layer))]);
    assert_eq!(build(&shared, tap(4)).unwrap().output_names()[1..], ["k_4", "v_4"]);
    assert!(refused(build(&shared, tap(5))).contains("no keys of its own"));
    let dense = Oracle::open("gemma4-dense");
    let tap = FlowStage::block(GemmaKvTapStage::layer(5).with_k_eq_v(true).with_rope_table("rope_full"));
    assert_eq!(build(&dense, prefill(&dense.config).after_layers([tap])).unwrap().output_names()[1..], ["k_5", "v_5"]);
}

#[test]
fn a_built_model_hands_out_its_parts() {
    let oracle = Oracle::open("gemma2");
    let config = &oracle.config;
    let built = build(&oracle, prefill(config)).unwrap();
    assert_eq!(built.output_names(), ["logits"]);
    assert_eq!(built.params().len(), 2 + 4 * 11, "tied embedding, final norm, eleven weights a layer");
    assert_eq!(built.params()["layer.1.key"].shape(), [config.kv_proj_dim(), config.hidden_size]);
    let more = built.clone().with_extra_hir_outputs(["layer.0.output", "final_norm", "layer.3.output"]).unwrap();
    assert_eq!(more.output_names(), ["logits", "layer.0.output", "final_norm", "layer.3.output"]);
    let outputs = run(&oracle, &more.graph, &more);
    for (name, golden) in [
        ("layer.0.output", "p7.layer_out.0"),
        ("final_norm", "p7.hidden"),
        ("layer.3.output", "p7.layer_out.3"),
        ("logits", "p7.logits"),
    ] {
        assert!(worst(&outputs[name], &oracle.f32(golden)) < GATE, "{name}");
    }
    assert!(refused(built.clone().with_extra_hir_outputs(["layer.9.output"])).contains("'layer.9.output'"));
    assert!(refused(more.with_extra_hir_outputs(["final_norm"])).contains("'final_norm'"));
    let (lowered, params) = built.clone().into_graph_parts().unwrap();
    lowered.verify().unwrap();
    assert_eq!(params.len(), built.params().len());
    assert!(worst(&run(&oracle, &lowered, &built)["logits"], &oracle.f32("p7.logits")) < GATE);
    let (hir, _) = built.clone().into_parts();
    assert_eq!(hir.to_string(), built.graph.to_string());
}

#[test]
fn a_stack_that_does_not_add_up_is_refused() {
    let oracle = Oracle::open("gemma2");
    let config = &oracle.config;
    let with = |stack: LayerStack| build(&oracle, prefill(config).after_layers([stack.build()]));
    assert!(refused(with(LayerStack::named("mine").residual_add())).contains("mine: residual_add without a residual_save"));
    assert!(refused(with(LayerStack::named("mine").residual_save())).contains("mine: a residual_save has no residual_add"));
    // Saved streams come back in the reverse order.
    let twice = LayerStack::named("mine").residual_save().residual_save().residual_add().residual_add();
    let built = with(twice).unwrap().with_extra_hir_outputs(["mine.output"]).unwrap();
    let expected: Vec<f32> = oracle.f32("p7.layer_out.3").iter().map(|x| 3.0 * x).collect();
    assert!(worst(&run(&oracle, &built.graph, &built)["mine.output"], &expected) < GATE);
}

/// The layer as the docs compose it, from stages, is the stock layer.
#[test]
fn a_layer_of_stages_is_the_stock_layer() {
    let oracle = Oracle::open("gemma2");
    let config = oracle.config.clone();
    let flow = prefill(&oracle.config).layer(move |layer| {
        let GemmaLayerCtx::Prefill { index, attn, .. } = &layer else { return layer.default_stage() };
        let norm = |weight| GemmaRmsNormStage::hf_layer(&config, *index, weight);
        LayerStack::named(format!("layer.{index}"))
            .residual_save()
            .stage(norm(LayerWeight::PreAttentionNorm))
            .self_attn_prefill(attn.clone())
            .stage(norm(LayerWeight::PostAttentionNorm))
            .residual_add()
            .residual_save()
            .stage(norm(LayerWeight::PreFfwNorm))
            .stage(GeGluStage::hf_mlp(&config, *index))
            .stage(norm(LayerWeight::PostFfwNorm))
            .residual_add()
            .build()
    });
    let expected = build(&oracle, prefill(&oracle.config)).unwrap();
    assert_eq!(build(&oracle, flow).unwrap().graph.to_string(), expected.graph.to_string());
}

/// `x + W·x` with W = 2·1 is 3·x, to which the final norm is blind: what the stage gives is seen, and the logits are
/// the oracle's.
#[test]
fn a_stage_with_ops_and_weights_of_its_own() {
    let oracle = Oracle::open("gemma1-mha");
    let width = oracle.config.hidden_size;
    let twice: Vec<f32> = (0..width * width).map(|i| if i / width == i % width { 2.0 } else { 0.0 }).collect();
    let twice = Tensor::from_f32("twice", vec![width, width], &twice);
    let stage = FlowStage::custom("triple", move |context, x| {
        let weight = context.own_weight("triple.twice", twice.clone())?;
        let y = context.graph.linear(x, weight)?;
        let y = context.graph.add(x, y)?;
        context.side_output("tripled", y);
        Ok(y)
    });
    let built = build(&oracle, prefill(&oracle.config).after_layers([stage.clone()])).unwrap();
    assert!(built.params().contains_key("triple.twice"));
    let outputs = run(&oracle, &built.graph, &built);
    let expected: Vec<f32> = oracle.f32("p7.layer_out.2").iter().map(|x| 3.0 * x).collect();
    assert!(worst(&outputs["tripled"], &expected) < GATE);
    assert!(worst(&outputs["logits"], &oracle.f32("p7.logits")) < GATE);
    // Twice the same name, and a name of the model's own, before and after it is used.
    for (taken, flow) in [
        ("triple.twice", prefill(&oracle.config).after_layers([stage.clone(), stage])),
        ("final_norm", prefill(&oracle.config).before_layers([named("final_norm")])),
        ("layer.0.query", prefill(&oracle.config).after_layers([named("layer.0.query")])),
    ] {
        let text = build(&oracle, flow).unwrap_err().to_string();
        assert!(text.contains(taken), "{taken}: {text}");
    }
    let fails = FlowStage::custom("mine", |_, _| anyhow::bail!("not today"));
    match build(&oracle, prefill(&oracle.config).before_layers([fails])) {
        Err(Error::Callback(CallbackError::Stage { stage, source })) => {
            assert_eq!((stage.as_str(), source.to_string().as_str()), ("mine", "not today"))
        }
        other => panic!("{other:?}"),
    }
}

fn named(name: &'static str) -> FlowStage {
    FlowStage::custom("taken", move |context, x| {
        context.own_weight(name, Tensor::from_f32("mine", vec![48, 48], &[0.0; 48 * 48]))?;
        Ok(x)
    })
}

/// A changed field of a layer's context gives the graph that a changed configuration gives, and another one than the
/// stock model's.
#[test]
fn changed_fields_of_a_layer_have_their_effect() {
    let oracle = Oracle::open("gemma2");
    let stock = oracle.config.clone();
    type Change = (&'static str, fn(&mut gemmaflow::gemma::SelfAttnPrefillSpec), fn(&mut GemmaConfig));
    let changes: [Change; 3] = [
        (
            "mask",
            |attn| {
                if attn.layer == 2 {
                    attn.mask = MaskKind::Causal
                }
            },
            |config| config.layer_types[2] = LayerKind::Full,
        ),
        ("scale", |attn| attn.score_scale = 1.0 / 6.0, |config| config.query_pre_attn_scalar = Some(36.0)),
        ("softcap", |attn| attn.softcap = None, |config| config.attn_logit_softcapping = None),
    ];
    for (what, change, configure) in changes {
        let mut config = stock.clone();
        configure(&mut config);
        for decode in [false, true] {
            let flow = |config| if decode { GemmaFlow::for_decode(config, 1, 9) } else { GemmaFlow::for_prefill(config, 1, 9) };
            let text = |flow| build(&oracle, flow).unwrap().graph.to_string();
            let hooked = text(flow(&stock).layer(move |mut layer| {
                match &mut layer {
                    GemmaLayerCtx::Prefill { attn, .. } => change(attn),
                    GemmaLayerCtx::Decode { index, spec, .. } => {
                        let mut attn = spec.attention(*index);
                        change(&mut attn);
                        (spec.mask, spec.score_scale, spec.attn_logit_softcap) = (attn.mask, attn.score_scale, attn.softcap);
                    }
                    _ => unreachable!("there are two modes"),
                }
                layer.default_stage()
            }));
            assert_eq!(hooked, text(flow(&config)), "{what}, decode {decode}");
            assert_ne!(hooked, text(flow(&stock)), "{what}, decode {decode}");
        }
    }
    let one = prefill(&stock).layer(|mut layer| {
        let second = layer.index() == 1;
        if let GemmaLayerCtx::Prefill { export_kv, .. } = &mut layer {
            *export_kv = second;
        }
        layer.default_stage()
    });
    assert_eq!(build(&oracle, one).unwrap().output_names(), ["logits", "k_1", "v_1"]);
}

#[test]
fn what_no_layer_can_compute_is_refused() {
    let oracle = Oracle::open("gemma3-text");
    let attn = |change: fn(&mut gemmaflow::gemma::SelfAttnPrefillSpec)| {
        prefill(&oracle.config).layer(move |mut layer| {
            if let GemmaLayerCtx::Prefill { attn, .. } = &mut layer {
                change(attn);
            }
            layer.default_stage()
        })
    };
    let text = refused(build(&oracle, attn(|attn| attn.n_rot = 7)));
    assert!(text.contains("n_rot is 7, expected an even number from 2 to the head's 20"), "{text}");
    let values = build(&oracle, attn(|attn| attn.k_eq_v = true)).unwrap();
    assert!(values.params().keys().all(|name| !name.ends_with(".value")), "values that are keys have no projection");
    let text = refused(build(&oracle, attn(|attn| attn.kv_source = Some(6))));
    assert!(text.contains("layer 0 attends to the keys of layer 6"), "{text}");
    let text = refused(build(&oracle, attn(|attn| attn.rope_table = "zork".into())));
    assert!(text.contains("'zork'"), "{text}");
}

/// A hook that composes the layers with experts itself makes the stock graph, in both modes; with fewer experts a token
/// another one.
#[test]
fn layers_with_experts_are_composed_by_hand() {
    let oracle = Oracle::open("gemma4-moe");
    let experts = |layer: usize, top| MoeFfnStage::hf(format!("layers.{layer}"), 8, top, 40, 20).with_eps(1e-6);
    let hook = move |top| {
        move |layer: GemmaLayerCtx| match &layer {
            GemmaLayerCtx::Prefill { index, attn, config, kv_sink, export_kv, .. } => {
                gemma_moe_prefill_layer_composed(config, attn, experts(*index, top), export_kv.then_some(kv_sink))
            }
            GemmaLayerCtx::Decode { index, spec, config, kv_out, .. } => {
                gemma_moe_decode_layer_composed(config, *index, spec, experts(*index, top), Some(kv_out))
            }
            _ => FlowStage::identity(),
        }
    };
    let text = |flow: GemmaFlow| build(&oracle, flow).unwrap().graph.to_string();
    for decode in [false, true] {
        let flow = || if decode { GemmaFlow::for_decode(&oracle.config, 1, 4) } else { prefill(&oracle.config).export_kv() };
        let stock = text(flow());
        assert_eq!(text(flow().layer(hook(3))), stock);
        assert_ne!(text(flow().layer(hook(2))), stock);
    }
    let elsewhere = MoeFfnStage::hf("layers.0.moe", 8, 3, 40, 20);
    let flow = prefill(&oracle.config).layer(move |_| FlowStage::block(elsewhere.clone()));
    let error = build(&oracle, flow).unwrap_err();
    assert!(
        matches!(error, Error::Weight(WeightError::Missing { .. })) && error.to_string().contains("layers.0.moe.router.scale"),
        "{error}"
    );
}

/// A model that is none of Gemma's, from the same parts: two rows of a table, projected.
#[test]
fn a_flow_of_ones_own() {
    let table: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let tensors = || vec![Tensor::from_f32("table", vec![4, 3], &table), Tensor::from_f32("sum", vec![1, 3], &[1.0, 1.0, 1.0])];
    let flow = ModelFlow::new("sums", 1, 2)
        .input("ids", DType::U32, [1, 2])
        .token_embed("table", "table", [4, 3])
        .output("rows")
        .repeat_layers(2, |i| FlowStage::custom(format!("double {i}"), |context, x| Ok(context.graph.scale(x, 2.0)?)))
        .raw_stage(LayerStack::named("sum").linear("weight", "sum", 1).build())
        .gather_last_token_at(1)
        .output("sum");
    let build = |flow: &ModelFlow| flow.build(&mut WeightMap::from_tensors(tensors()));
    let built = build(&flow).unwrap();
    assert_eq!((built.output_names(), flow.len(), flow.is_empty()), (vec!["rows", "sum"], 7, false));
    let session = Session::new(&Device::Cpu).unwrap();
    let weights = session.load(built.params()).unwrap();
    let mut graph = session.compile_with(&built.graph, &CompileOptions::default().with_weights(&weights)).unwrap();
    let outputs = graph.run(&[("ids", &[3u32, 1][..])]).unwrap();
    assert_eq!(outputs[0].1.to_f32().unwrap()[..], [9.0, 10.0, 11.0, 3.0, 4.0, 5.0]);
    assert_eq!(outputs[1].1.to_f32().unwrap()[..], [4.0 * (3.0 + 4.0 + 5.0)]);
    assert_eq!(build(&flow.clone().outputs(["sum"])).unwrap().output_names(), ["sum"]);
    assert!(refused(build(&flow.clone().outputs(["summ"]))).contains("'summ'; there are: rows, sum"));
    assert!(refused(build(&flow.output("sum"))).contains("two outputs are called 'sum'"));
    assert!(refused(build(&ModelFlow::new("empty", 1, 2))).contains("'empty' has no input"));
}
