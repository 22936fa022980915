//! The public blocks put together by hand make the graph that `GemmaFlow` makes; graphs take their weights one by one.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use gemmaflow::{
    Error,
    error::WeightError,
    flow::{HirModule, ModelFlow, SideOutputs},
    gemma::{
        DecodeRopeParamsStage, EmbedScaleStage, GemmaConfig, GemmaFlow, GemmaRmsNormStage, LayerKind, LmHeadStage,
        LogitSoftcapStage, RopeTablesStage, SelfAttnPrefillSpec, WeightPosition, gemma_attn_spec, gemma_prefill_layer_composed,
        gemma_strided_layer_mask, gemma2_layer_mask,
    },
    generate::{GemmaGenerator, SampleOpts, sample_token},
    ir::{DType, Dim, MaskKind, Shape, sym},
    runtime::{CompileOptions, Device, RunInput, Session},
    weights::Tensor,
};
use oracle::{GATE, Oracle, worst};

fn embedding(config: &GemmaConfig) -> (String, String, [usize; 2]) {
    let key = WeightPosition::Embed.hugging_face(config.arch).expect("every family has one");
    (WeightPosition::Embed.to_string(), key, [config.vocab_size, config.hidden_size])
}

/// Layers, final norm, head and softcap after the embedding.
fn finish(flow: ModelFlow, config: &GemmaConfig, export: bool, last: bool) -> ModelFlow {
    let outputs = SideOutputs::new();
    let layer = |i| gemma_prefill_layer_composed(config, &SelfAttnPrefillSpec::of(config, i), export.then_some(&outputs));
    let flow = flow.repeat_layers(config.active_num_layers(), layer);
    let flow = if last { flow.gather_last_token_dynamic(true) } else { flow };
    let flow = flow.stage(GemmaRmsNormStage::final_norm(config)).stage(LmHeadStage::tied(config));
    let flow = match config.final_logit_softcapping {
        Some(cap) => flow.stage(LogitSoftcapStage::new(cap)),
        None => flow,
    };
    flow.output("logits")
}

fn prefill(oracle: &Oracle) -> HirModule {
    let config = &oracle.config;
    let (name, key, shape) = embedding(config);
    let flow = ModelFlow::new("gemma", 1, sym::SEQ)
        .input("input_ids", DType::U32, Shape(vec![1.into(), sym::SEQ.into()]))
        .limit(sym::SEQ, 64)
        .token_embed(&name, &key, shape)
        .stage(EmbedScaleStage)
        .stage(RopeTablesStage::new(config).unwrap());
    finish(flow, config, true, true).build(oracle.loader().as_mut()).unwrap().into_parts().0
}

fn decode(oracle: &Oracle) -> HirModule {
    let config = &oracle.config;
    let (name, key, shape) = embedding(config);
    let flow = ModelFlow::new("gemma_decode", 2, 1)
        .input("input_ids", DType::U32, [2, 1])
        .limit(sym::PAST_SEQ, 64)
        .bind_decode_inputs(sym::PAST_SEQ, true)
        .token_embed(&name, &key, shape)
        .stage(EmbedScaleStage)
        .stage(DecodeRopeParamsStage::new(config).unwrap());
    finish(flow, config, true, false).build(oracle.loader().as_mut()).unwrap().into_parts().0
}

#[test]
fn the_blocks_make_the_graphs_of_the_builder() {
    for name in ["gemma1-mha", "gemma2", "gemma3-text"] {
        let oracle = Oracle::open(name);
        let stock = GemmaFlow::for_prefill(&oracle.config, 1, 64).dynamic_seq().last_token_logits().export_kv();
        let stock = stock.build(oracle.loader().as_mut()).unwrap().graph;
        assert!(prefill(&oracle).to_string() == stock.to_string(), "{name}, prefill");
        let stock = GemmaFlow::for_decode(&oracle.config, 2, 64).dynamic_past().custom_mask();
        let stock = stock.build(oracle.loader().as_mut()).unwrap().graph;
        assert!(decode(&oracle).to_string() == stock.to_string(), "{name}, decode");
    }
}

#[test]
fn tables_may_be_declared_by_hand_and_outputs_chosen() {
    let oracle = Oracle::open("gemma2");
    let config = &oracle.config;
    let (name, key, shape) = embedding(config);
    let tables = RopeTablesStage::new(config).unwrap().tables().to_vec();
    let flow = |tables: Vec<(String, Vec<f32>)>| {
        let flow = ModelFlow::new("gemma", 1, 7).input("input_ids", DType::U32, [1, 7]);
        finish(flow.token_embed(&name, &key, shape).stage(EmbedScaleStage).rope_tables(tables), config, true, false)
    };
    let built = flow(tables.clone()).outputs(["v_3", "logits"]).build(oracle.loader().as_mut()).unwrap();
    assert_eq!(built.output_names(), ["v_3", "logits"]);
    let (graph, params) = built.into_graph_parts().unwrap();
    let session = Session::new(&Device::Cpu).unwrap();
    let options = CompileOptions::default().with_weights(&session.load(&params).unwrap());
    let outputs =
        session.compile_with(&graph, &options).unwrap().run(&[("input_ids", &oracle.tokens("p7.input_ids")[..])]).unwrap();
    assert!(worst(&outputs[1].1.to_f32().unwrap(), &oracle.f32("p7.logits")) < GATE);
    let text = |flow: ModelFlow| flow.build(oracle.loader().as_mut()).unwrap_err().to_string();
    assert!(text(flow(tables).outputs(["v_9"])).contains("no stage gives the output 'v_9'"));
    assert!(text(flow(Vec::new())).contains("rotary table 'rope'"));
    assert!(text(ModelFlow::new("empty", 1, Dim::from(1))).contains("no input"));
}

#[test]
fn masks_and_specs_by_formula() {
    let kinds = |config: &GemmaConfig, mask: &dyn Fn(usize) -> MaskKind| {
        for (i, kind) in config.layer_types.iter().enumerate() {
            assert_eq!(mask(i) == MaskKind::Causal, *kind == LayerKind::Full, "layer {i}");
            assert_eq!(mask(i), config.layer_attn_options(i).mask, "layer {i}");
        }
    };
    let gemma2 = GemmaConfig::preset("gemma-2-2b").unwrap();
    kinds(&gemma2, &|i| gemma2_layer_mask(i, gemma2.sliding_window.unwrap()));
    let gemma3 = GemmaConfig::preset("gemma-3-1b").unwrap();
    kinds(&gemma3, &|i| gemma_strided_layer_mask(i, gemma3.sliding_window.unwrap(), 6));
    let gemma1 = Oracle::open("gemma1-mha").config;
    let (scale, heads) = (gemma1.attn_score_scale(), gemma1.num_attention_heads);
    let spec =
        gemma_attn_spec(1, heads, gemma1.head_dim, gemma1.num_key_value_heads, gemma1.head_dim, MaskKind::Causal, scale, None);
    let of = SelfAttnPrefillSpec::of(&gemma1, 1);
    assert_eq!(SelfAttnPrefillSpec { eps: of.eps, ..spec }, of);
    assert_eq!((scale, gemma1.kv_group_size()), (0.25, 1));
}

#[test]
fn weights_one_by_one() {
    let oracle = Oracle::open("gemma2");
    let built = GemmaFlow::for_prefill(&oracle.config, 1, 7).lm_head().build(oracle.loader().as_mut()).unwrap();
    let tokens = oracle.tokens("p7.input_ids");
    let inputs = [("input_ids", RunInput::U32(&tokens))];
    for device in [Device::Cpu, Device::Gpu] {
        let mut graph = Session::new(&device).unwrap().compile(&built.graph).unwrap();
        assert!(matches!(graph.run(&inputs), Err(Error::Weight(WeightError::NotGiven { .. }))), "{device}");
        for (name, tensor) in &built.params {
            graph.set_param(name, tensor.clone()).unwrap();
        }
        let logits = graph.run(&inputs).unwrap().remove(0).1;
        assert!(worst(&logits.to_f32().unwrap(), &oracle.f32("p7.logits")) < GATE, "{device}");
        // Final norms whose gains are 0.1 and 0.2: the logits before the softcap double.
        let width = oracle.config.hidden_size;
        let mut with_gain = |gain: f32| {
            graph.set_param("final_norm", Tensor::from_f32("ones", vec![width], &vec![gain; width])).unwrap();
            let cap = oracle.config.final_logit_softcapping.unwrap();
            let logits = graph.run(&inputs).unwrap().remove(0).1.to_f32().unwrap().into_owned();
            logits.iter().map(|l| (l / cap).atanh() * cap).collect::<Vec<f32>>()
        };
        let (one, two) = (with_gain(-0.9), with_gain(-0.8));
        let twice: Vec<f32> = one.iter().map(|l| 2.0 * l).collect();
        assert!(worst(&two, &twice) < 1e-3, "{device}");
        let mut wrong = |name: &str, shape: Vec<usize>| {
            let tensor = Tensor::from_f32(name, shape.clone(), &vec![0.0; shape.iter().product()]);
            graph.set_param(name, tensor).unwrap_err()
        };
        assert!(matches!(wrong("final_norm", vec![width + 1]), Error::Weight(WeightError::Shape { .. })));
        let Error::Weight(WeightError::NotInGraph { nearest: Some(nearest), .. }) = wrong("final_nrom", vec![width]) else {
            panic!("a name is near")
        };
        assert_eq!(nearest.len(), "final_norm".len());
        let half = Tensor::from_bytes("final_norm", DType::BF16, vec![width], vec![0; width * 2]).unwrap();
        assert!(matches!(graph.set_param("final_norm", half), Err(Error::Weight(WeightError::Type { .. }))));
    }
}

#[test]
fn a_loader_with_its_path_and_a_row_of_logits() {
    let oracle = Oracle::open("gemma2");
    let mut generator =
        GemmaGenerator::from_loader_at(oracle.config.clone(), oracle.loader().as_mut(), Device::Cpu, &oracle.folder).unwrap();
    let row = generator.prefill_get_last_logits(oracle.tokens("p7.input_ids")).unwrap();
    assert_eq!(sample_token(&row, &SampleOpts::greedy()).unwrap(), oracle.tokens("p7.gen_tokens")[0]);
}
