//! What a flow or a run says twice, differently or not at all is an error, never silently the first, the last or the
//! default.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use gemmaflow::{
    Error,
    error::WeightError,
    flow::{FlowStage, LayerStack, ModelParams},
    gemma::{GemmaConfig, GemmaFlow, random_weights},
    generate::{GemmaGenerator, GeneratorOptions},
    ir::{DType, DimBinding, Op, Shape, Value, ops::Role, sym},
    profile::CompileProfile,
    runtime::{CompileCache, CompileOptions, Device, DynamicDimCompileCache, RunInput, Session},
    weights::{Tensor, WeightLoader, WeightMap},
};
use oracle::Oracle;

fn loader(config: &GemmaConfig, dtype: DType) -> WeightMap {
    random_weights(config, dtype, 1).unwrap()
}

fn sessions() -> [Session; 2] {
    [Device::Cpu, Device::Gpu].map(|device| Session::new(&device).expect("a device"))
}

#[test]
fn one_name_is_one_weight() {
    let config = GemmaConfig::tiny_test();
    let width = config.hidden_size;
    let build = |name: &'static str, out: usize| {
        let mut weights = loader(&config, DType::F32);
        let mut tensors: Vec<Tensor> = weights.remaining_keys().iter().map(|key| weights.take(key).unwrap()).collect();
        for i in 0..2 {
            tensors.push(Tensor::from_f32(format!("extra.{i}"), vec![width, width], &vec![0.01; width * width]));
        }
        let extra = move |i: usize| LayerStack::named("own").linear(name, format!("extra.{i}"), out).build();
        let flow = GemmaFlow::new(&config).layer(move |layer| layer.default_stage().then(extra(layer.index())));
        flow.build(&mut WeightMap::from_tensors(tensors))
    };
    let error = build("proj", width).unwrap_err();
    assert!(matches!(&error, Error::Builder(text) if text.contains("own.proj") && text.contains("extra.1")), "{error}");
    assert!(matches!(build("proj", width + 1).unwrap_err(), Error::Weight(WeightError::Shape { .. })));
}

#[test]
fn a_table_of_a_name_that_is_taken() {
    let config = GemmaConfig::tiny_test();
    let build = |stage: FlowStage| GemmaFlow::new(&config).before_layers([stage]).build(&mut loader(&config, DType::F32));
    let other = FlowStage::custom("other table", |context, x| {
        context.rope_table("rope_sliding", &[0.5; 8])?;
        Ok(x)
    });
    let error = format!("{:#}", build(other).unwrap_err());
    assert!(error.contains("'rope_sliding' is there already"), "{error}");
    let taken = FlowStage::custom("positions", |context, x| {
        context.share("positions", x);
        Ok(x)
    });
    assert!(build(taken).unwrap_err().to_string().contains("'positions' is there already"));
}

#[test]
fn an_optional_input_that_is_read_must_be_given() {
    let config = GemmaConfig::tiny_test();
    let shape = Shape::from([1, 3, config.hidden_size]);
    let bias = FlowStage::custom("bias", move |context, x| {
        let bias = context.optional_input("bias", shape.clone())?;
        Ok(context.graph.add(x, bias)?)
    });
    let built = GemmaFlow::for_prefill(&config, 1, 3).before_layers([bias]).build(&mut loader(&config, DType::F32)).unwrap();
    for session in sessions() {
        let options = CompileOptions::default().with_weights(&session.load(&built.params).unwrap());
        let mut graph = session.compile_with(&built.graph, &options).unwrap();
        let values = vec![1.0f32; 3 * config.hidden_size];
        graph.run(&[("input_ids", RunInput::U32(&[1, 2, 3])), ("bias", RunInput::F32(&values))]).unwrap();
        let error = graph.run(&[("input_ids", RunInput::U32(&[1, 2, 3]))]).unwrap_err().to_string();
        assert!(error.contains("'bias'") && error.contains("missing"), "{error}");
    }
}

#[test]
fn weights_of_another_model() {
    let config = GemmaConfig::tiny_test();
    let build = |dtype, config: &GemmaConfig| GemmaFlow::for_prefill(config, 1, 3).build(&mut loader(config, dtype)).unwrap();
    let built = build(DType::F32, &config);
    let wider = GemmaConfig { intermediate_size: config.intermediate_size * 2, ..config.clone() };
    for session in sessions() {
        let compile = |params: &ModelParams| {
            session.compile_with(&built.graph, &CompileOptions::default().with_weights(&session.load(params).unwrap()))
        };
        assert!(matches!(compile(&build(DType::BF16, &config).params), Err(Error::Weight(WeightError::Type { .. }))));
        assert!(matches!(compile(&build(DType::F32, &wider).params), Err(Error::Weight(WeightError::Shape { .. }))));
        compile(&built.params).unwrap();
    }
}

#[test]
fn a_profile_reaches_the_caches_and_not_through_a_hook() {
    let config = GemmaConfig::tiny_test();
    let clean = CompileProfile::from_toml("[fusion]\npolicy = 'direct'", false).unwrap();
    let flow = GemmaFlow::for_prefill(&config, 1, 8).dynamic_seq().profile(clean.clone());
    let built = flow.build(&mut loader(&config, DType::F32)).unwrap();
    let session = Session::new(&Device::Gpu).expect("a GPU adapter (lavapipe will do)");
    let weights = session.load(&built.params).unwrap();
    let dispatches = |profile: &CompileProfile| {
        let options = CompileOptions::default().with_weights(&weights).with_profile(profile);
        let mut exact = CompileCache::new(&session, &built.graph, &options, 2).unwrap();
        DynamicDimCompileCache::new(&session, &built.graph, &options).unwrap();
        exact.get(&DimBinding::new().with(sym::SEQ, 4)).unwrap().plan().expect("a GPU has a plan").dispatches.len()
    };
    assert!(dispatches(&built.profile) > dispatches(&CompileProfile::default()));
    let options = GeneratorOptions::default().with_flow(move |flow| flow.profile(clean.clone()));
    let error = GemmaGenerator::with_options(config.clone(), &mut loader(&config, DType::F32), Device::Cpu, options).unwrap_err();
    assert!(matches!(&error, Error::Builder(text) if text.contains("prefill_profile")), "{error}");
}

/// A resident graph run by name: caches are given as inputs, on the reference and on a device alike.
#[test]
fn a_resident_graph_by_name() {
    let oracle = Oracle::open("gemma3-text");
    let built = GemmaFlow::resident(&oracle.config).lm_head().build(oracle.loader().as_mut()).unwrap();
    let dims = DimBinding::new().with(sym::SEQ, 7).with(sym::CACHE, 16).with(sym::RING, 16);
    let tokens = oracle.tokens("p7.input_ids");
    for session in sessions() {
        let options = CompileOptions::default().with_dims(dims.clone()).with_weights(&session.load(&built.params).unwrap());
        let mut graph = session.compile_with(&built.graph, &options).unwrap();
        let caches = built.graph.nodes().iter().filter_map(|node| match &node.op {
            Op::Input(input) if input.role == Role::Cache => Some(input),
            _ => None,
        });
        let empty = |shape: Vec<usize>, dtype| {
            let len = shape.iter().product();
            if dtype == DType::I32 { Value::i32(shape, vec![i32::MAX; len]) } else { Value::f32(shape, vec![0.0; len]) }
        };
        let caches: Vec<(&str, Value)> =
            caches.map(|input| (input.name.as_str(), empty(input.ty.shape.bind(&dims).unwrap(), input.ty.dtype))).collect();
        let mut inputs = vec![("input_ids", RunInput::U32(&tokens))];
        inputs.extend(caches.iter().map(|(name, value)| (*name, RunInput::Value(value))));
        let outputs = graph.run(&inputs).unwrap();
        let error = oracle::worst(&outputs[0].1.to_f32().unwrap(), &oracle.f32("p7.logits"));
        assert!(error < oracle::GATE, "{error}");
    }
}
