//! Attention that rotates the first dimensions of a head alone, against transformers' classes with GPT-NeoX's rotation
//! (tests/data/make_partial_rotation.py).

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    flow::{FlowStage, SideOutputs},
    gemma::{GemmaConfig, GemmaFlow, GemmaKvTapStage, GemmaLayerCtx, LayerKind, RopeScaling, default_inv_freq},
    generate::{GemmaGenerator, GeneratorOptions},
    runtime::{CompileOptions, Device, GpuOptions, KernelTier, RunInput, Session},
};
use safetensors::SafeTensors;

use crate::common::oracle::{GATE, Oracle, data, worst};

const MODELS: [&str; 2] = ["gemma2", "gemma3-text"];

/// (n, whether the tables have the frequencies of n dimensions).
const ROTATIONS: [(usize, bool); 2] = [(12, true), (6, false)];

fn golden(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(data("partial_rotation.safetensors")).unwrap();
    bytemuck::pod_collect_to_vec(SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data())
}

fn key(model: &str, n: usize, own: bool, what: &str) -> String {
    format!("{model}.{n}.{}.{what}", if own { "own" } else { "stock" })
}

/// Rotates n dimensions in every layer, by tables of n dimensions where `own`.
fn rotating<'a>(flow: GemmaFlow<'a>, config: &GemmaConfig, n: usize, own: bool) -> GemmaFlow<'a> {
    let kinds = [(LayerKind::Full, &config.rope_full), (LayerKind::Sliding, &config.rope_sliding)];
    let tables = kinds.map(|(kind, rope)| {
        let factor = match rope.scaling {
            RopeScaling::Linear { factor } => factor,
            _ => 1.0,
        };
        let inv_freq: Vec<f32> = default_inv_freq(rope.theta, n).into_iter().map(|f| f / factor).collect();
        (format!("partial_{kind:?}"), inv_freq)
    });
    let declared = FlowStage::custom("tables", move |context, x| {
        for (name, inv_freq) in &tables {
            context.rope_table(name, inv_freq)?;
        }
        Ok(x)
    });
    flow.before_layers([declared]).layer(move |mut layer| {
        let table = format!("partial_{:?}", layer.kind());
        match &mut layer {
            GemmaLayerCtx::Prefill { attn, .. } => {
                attn.n_rot = n;
                attn.rope_table = if own { table } else { attn.rope_table.clone() };
            }
            GemmaLayerCtx::Decode { spec, .. } => {
                spec.n_rot = n;
                spec.rope_table = if own { table } else { spec.rope_table.clone() };
            }
            _ => unreachable!("there are two modes"),
        }
        layer.default_stage()
    })
}

/// A generator whose layers rotate n dimensions.
fn generator(oracle: &Oracle, device: &Device, gpu: GpuOptions, n: usize, own: bool) -> GemmaGenerator {
    let config = oracle.config.clone();
    let options = GeneratorOptions { prefill_chunk: Some(16), gpu, ..GeneratorOptions::default() };
    let options = options.with_flow(move |flow| rotating(flow, &config, n, own));
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

/// Chunks, a whole sequence and cached steps.
fn check(generator: &mut GemmaGenerator, oracle: &Oracle, expected: &[f32], what: &str) {
    let (tokens, vocab) = (oracle.tokens("p33.input_ids"), oracle.config.vocab_size);
    let chunks = worst(&generator.all_logits(&tokens).unwrap(), expected);
    let whole = worst(&generator.recompute_all_logits(&tokens).unwrap(), expected);
    generator.prefill_get_last_logits(&tokens[..20]).unwrap();
    let steps: Vec<f32> = tokens[20..].iter().flat_map(|token| generator.decode_get_logits(*token).unwrap()).collect();
    let steps = worst(&steps, &expected[20 * vocab..]);
    assert!(chunks.max(whole).max(steps) < GATE, "{what}: chunks {chunks}, whole {whole}, steps {steps}");
}

#[test]
fn the_reference_rotates_the_first_dimensions() {
    for model in MODELS {
        let oracle = Oracle::open(model);
        for (n, own) in ROTATIONS {
            let expected = golden(&key(model, n, own, "logits"));
            assert!(worst(&expected, &oracle.f32("p33.logits")) > 1.0, "{model}: it matters how much rotates");
            let mut generator = generator(&oracle, &Device::Cpu, GpuOptions::default(), n, own);
            check(&mut generator, &oracle, &expected, &format!("{model} {n}"));
        }
    }
}

/// Gemma 3 norms queries and keys, Gemma 2 does not: both forms of the step that rotates within attention. The steps of
/// the other tiers are tests/step_kernels.rs; a software driver compiles all kernels of a generator for minutes.
#[test]
fn every_tier_of_kernels_rotates_the_first_dimensions() {
    for (model, (n, own)) in MODELS.into_iter().zip(ROTATIONS) {
        let oracle = Oracle::open(model);
        let mut generator = generator(&oracle, &Device::Gpu, GpuOptions::default(), n, own);
        check(&mut generator, &oracle, &golden(&key(model, n, own, "logits")), &format!("{model} {n}"));
    }
    let (model, (n, own)) = (MODELS[0], ROTATIONS[1]);
    let oracle = Oracle::open(model);
    for kernels in [KernelTier::Subgroup, KernelTier::Portable] {
        let gpu = GpuOptions { kernels, ..GpuOptions::default() };
        let mut generator = generator(&oracle, &Device::Gpu, gpu, n, own);
        let found = generator.recompute_all_logits(oracle.tokens("p33.input_ids")).unwrap();
        let error = worst(&found, &golden(&key(model, n, own, "logits")));
        assert!(error < GATE, "{model} {n} {kernels:?}: {error}");
    }
}

#[test]
fn the_tap_and_exported_keys_are_those_that_attention_sees() {
    for (model, (n, own)) in MODELS.into_iter().flat_map(|model| ROTATIONS.map(|rotation| (model, rotation))) {
        let oracle = Oracle::open(model);
        let tap =
            |n: usize| FlowStage::block(GemmaKvTapStage::layer(1).with_n_rot(n).with_outputs(SideOutputs::with_prefix("my_")));
        let flow = GemmaFlow::for_prefill(&oracle.config, 1, 7).lm_head().export_kv();
        let flow = rotating(flow, &oracle.config, n, own);
        let built = flow.clone().after_layers([tap(n)]).build(oracle.loader().as_mut()).unwrap();
        let session = Session::new(&Device::Cpu).unwrap();
        let weights = session.load(built.params()).unwrap();
        let mut graph = session.compile_with(&built.graph, &CompileOptions::default().with_weights(&weights)).unwrap();
        let tokens = oracle.tokens("p33.input_ids");
        let outputs = graph.run(&[("input_ids", &tokens[..7])]).unwrap();
        let keys: Vec<f32> = golden(&key(model, n, own, "k.1"));
        for name in ["k_1", "my_k_1"] {
            let (_, value) = outputs.iter().find(|(found, _)| found == name).unwrap();
            let error = worst(&value.to_f32().unwrap(), &keys);
            assert!(error < GATE, "{model} {n} {name}: {error}");
        }
        let error = flow.after_layers([tap(20)]).build(oracle.loader().as_mut()).unwrap_err().to_string();
        assert!(error.contains(&format!("20 rotated dimensions, layer 1 rotates {n}")), "{error}");
    }
}

/// The stateless decode graph with a cache that the caller holds, from the keys that prefill exports.
#[test]
fn a_decode_graph_rotates_as_prefill_does() {
    let (n, own) = ROTATIONS[0];
    let oracle = Oracle::open("gemma3-text");
    let tokens = oracle.tokens("p33.input_ids");
    let session = Session::new(&Device::Cpu).unwrap();
    let run = |flow: GemmaFlow, given: &[(String, Vec<f32>)], ids: &[u32]| {
        let built = rotating(flow, &oracle.config, n, own).build(oracle.loader().as_mut()).unwrap();
        let weights = session.load(built.params()).unwrap();
        let mut graph = session.compile_with(&built.graph, &CompileOptions::default().with_weights(&weights)).unwrap();
        let mut inputs = vec![("input_ids", RunInput::from(&ids))];
        inputs.extend(given.iter().map(|(name, values)| (name.as_str(), values.into())));
        graph.run(&inputs).unwrap()
    };
    let prefill = run(GemmaFlow::for_prefill(&oracle.config, 1, 32).export_kv(), &[], &tokens[..32]);
    let past: Vec<(String, Vec<f32>)> =
        prefill[1..].iter().map(|(name, value)| (format!("past_{name}"), value.to_f32().unwrap().into_owned())).collect();
    let step = run(GemmaFlow::for_decode(&oracle.config, 1, 32), &past, &tokens[32..]);
    let expected = golden(&key("gemma3-text", n, own, "logits"));
    let error = worst(&step[0].1.to_f32().unwrap(), &expected[32 * oracle.config.vocab_size..]);
    assert!(error < GATE, "{error}");
}

#[test]
fn a_number_that_no_head_has_is_refused() {
    let oracle = Oracle::open("gemma2");
    for (n, expected) in [(0, "expected an even number from 2 to the head's 20"), (7, "n_rot is 7"), (22, "n_rot is 22")] {
        let flow = rotating(GemmaFlow::for_prefill(&oracle.config, 1, 3), &oracle.config, 6, false);
        let flow = flow.layer(move |mut layer| {
            if let GemmaLayerCtx::Prefill { attn, .. } = &mut layer {
                attn.n_rot = n;
            }
            layer.default_stage()
        });
        let error = flow.build(load_from_path(&oracle.folder).unwrap().as_mut()).unwrap_err();
        assert!(matches!(error, Error::Builder(_)) && error.to_string().contains(expected), "{error}");
    }
    // A table of fewer pairs than rotate.
    let flow = rotating(GemmaFlow::for_prefill(&oracle.config, 1, 3), &oracle.config, 6, true).layer(|mut layer| {
        if let GemmaLayerCtx::Prefill { attn, .. } = &mut layer {
            attn.n_rot = 12;
            attn.rope_table = "partial_Full".into();
        }
        layer.default_stage()
    });
    let error = flow.build(load_from_path(&oracle.folder).unwrap().as_mut()).unwrap_err().to_string();
    assert!(error.contains("'partial_Full' has 3 frequencies, expected at least 6"), "{error}");
}
