//! The examples' hooks: early exit, a LoRA adapter and a probe, against transformers' hidden states and against merged
//! weights, on the reference and on the GPU; and what a hook costs the layers that it leaves alone.

#![allow(clippy::duplicate_mod)] // Each example has what the examples share.

#[path = "../examples/early_exit.rs"]
#[allow(dead_code)]
mod early_exit;
#[path = "../examples/lora.rs"]
#[allow(dead_code)]
mod lora;
#[path = "common/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "../examples/probe.rs"]
#[allow(dead_code)]
mod probe;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use early_exit::exit_after;
use gemmaflow::{
    Error,
    error::CallbackError,
    flow::{BuiltModel, FlowStage},
    gemma::{GemmaConfig, GemmaFlow, GemmaLayerCtx, WeightPosition, default_inv_freq},
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    internals::{
        ir::{Case, LowerOptions},
        lower::{Unplaced, lower},
        plan::Plan,
    },
    ir::{DimBinding, MaskKind, Value},
    runtime::{CompileOptions, Device, GpuOptions, KernelTier, Session},
    weights::{Tensor, WeightMap},
};
use lora::Lora;
use oracle::{GATE, Oracle, worst};
use probe::probe;

const MODELS: [&str; 3] = ["gemma1-mha", "gemma2", "gemma3-text"];
const DEVICES: [Device; 2] = [Device::Cpu, Device::Gpu];

/// The checkpoint's weights by Hugging Face's names.
fn weights(oracle: &Oracle) -> BTreeMap<String, Tensor> {
    let mut loader = oracle.loader();
    loader.remaining_keys().into_iter().map(|key| (key.clone(), loader.take(&key).unwrap())).collect()
}

fn map(weights: &BTreeMap<String, Tensor>) -> WeightMap {
    WeightMap::from_tensors(weights.values().cloned().collect())
}

/// Runs a prefill graph by name.
fn run(session: &Session, built: &BuiltModel, tokens: &[u32]) -> BTreeMap<String, Value> {
    let weights = session.load(built.params()).unwrap();
    let mut graph = session.compile_with(&built.graph, &CompileOptions::default().with_weights(&weights)).unwrap();
    graph.run(&[("input_ids", tokens)]).unwrap().into_iter().collect()
}

fn f32s(value: &Value) -> Vec<f32> {
    value.to_f32().unwrap().into_owned()
}

/// Final norm, tied head and softcap by hand, in f64: `[rows, D]` to `[rows, V]`.
fn head(oracle: &Oracle, hidden: &[f32], softcap: bool) -> Vec<f32> {
    let (config, all) = (&oracle.config, weights(oracle));
    let (gain, embed) = (all["norm.weight"].to_f32().unwrap(), all["embed_tokens.weight"].to_f32().unwrap());
    let cap = config.final_logit_softcapping.filter(|_| softcap).map(f64::from);
    let row = |x: &[f32]| -> Vec<f32> {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(config.rms_norm_eps)).sqrt();
        let normed: Vec<f64> = x.iter().zip(&gain).map(|(x, w)| f64::from(*x) * factor * (1.0 + f64::from(*w))).collect();
        let dot = |w: &[f32]| normed.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum::<f64>();
        let logits = embed.chunks(config.hidden_size).map(dot);
        logits.map(|y| cap.map_or(y, |cap| cap * (y / cap).tanh()) as f32).collect()
    };
    hidden.chunks(config.hidden_size).flat_map(row).collect()
}

#[test]
fn the_head_by_hand_is_transformers_head() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        let last = oracle.config.num_hidden_layers - 1;
        let logits = head(&oracle, &oracle.f32(&format!("p7.layer_out.{last}")), true);
        assert!(worst(&logits, &oracle.f32("p7.logits")) < GATE, "{name}");
    }
}

#[test]
fn an_early_exit_is_the_head_after_that_layer() {
    for device in DEVICES {
        // A software driver compiles for seconds.
        let models = if device == Device::Cpu { &MODELS[..] } else { &MODELS[1..2] };
        for name in models {
            let oracle = Oracle::open(name);
            let (layers, tokens) = (oracle.config.num_hidden_layers, oracle.tokens("p7.input_ids"));
            let exits: Vec<usize> = if device == Device::Cpu { (1..=layers).collect() } else { vec![2] };
            for exit in exits {
                let expected = head(&oracle, &oracle.f32(&format!("p7.layer_out.{}", exit - 1)), true);
                // What is left out needs no weights in the checkpoint either.
                let mut kept = weights(&oracle);
                kept.retain(|key, _| match WeightPosition::from_hugging_face(oracle.config.arch, key) {
                    Some(WeightPosition::Layer(layer, _)) => layer < exit,
                    _ => true,
                });
                let bytes: usize = kept.values().map(Tensor::byte_len).sum();
                let options = GeneratorOptions { prefill_chunk: Some(4), ..GeneratorOptions::default() };
                let options = options.with_flow(move |flow| exit_after(flow, exit));
                let config = oracle.config.clone();
                let mut generator = GemmaGenerator::with_options(config, &mut map(&kept), device.clone(), options).unwrap();
                let by_chunks = generator.all_logits(&tokens).unwrap();
                let whole = generator.recompute_all_logits(&tokens).unwrap();
                let mut last = generator.prefill_get_last_logits(&tokens[..3]).unwrap();
                for token in &tokens[3..] {
                    last = generator.decode_get_logits(*token).unwrap();
                }
                let steps = worst(&last, &expected[expected.len() - oracle.config.vocab_size..]);
                for (path, error) in
                    [("chunks", worst(&by_chunks, &expected)), ("whole", worst(&whole, &expected)), ("steps", steps)]
                {
                    assert!(error < GATE, "{device} {name} after {exit}, {path}: {error}");
                }
                if device == Device::Gpu {
                    let stats = generator.stats();
                    assert_eq!(stats.weight_bytes as usize, bytes, "{name}: weights of {exit} layers");
                }
            }
        }
    }
}

/// Layers that are left out have no cache: half the layers of one kind take half the bytes.
#[test]
fn layers_that_are_left_out_have_no_cache() {
    let oracle = Oracle::open("gemma1-mha");
    let config = &oracle.config;
    let cache = |exit: usize| {
        let options = GeneratorOptions::default().with_flow(move |flow| exit_after(flow, exit));
        let generator = GemmaGenerator::with_options(config.clone(), oracle.loader().as_mut(), Device::Gpu, options).unwrap();
        generator.with_decode_cache(256).unwrap().stats().cache_bytes
    };
    // K and V of 256 rows and 16 bytes more each; the positions are shared.
    let layer = 2 * (256 * config.kv_proj_dim() as u64 * 4 + 16);
    assert_eq!(cache(2) - cache(1), layer);
    assert_eq!(cache(1), layer + 256 * 4 + 16);
}

/// Gemma 3's first layers slide: none of what is left has a cache that grows. A step then prepares nothing either,
/// however far the sequence goes past the first bucket.
#[test]
fn without_a_full_layer_nothing_is_made_for_a_step() {
    let oracle = Oracle::open("gemma3-text");
    let config = oracle.config.clone();
    let options =
        GeneratorOptions { prefill_chunk: Some(64), ..GeneratorOptions::default() }.with_flow(|flow| exit_after(flow, 2));
    let mut generator = GemmaGenerator::with_options(config, oracle.loader().as_mut(), Device::Gpu, options).unwrap();
    let tokens: Vec<u32> = (0..254).map(|i| 3 + i % 140).collect();
    generator.prefill_get_last_logits(&tokens).unwrap();
    // The bucket after the first begins with row 257.
    (3..7).for_each(|token| drop(generator.decode_get_logits(token).unwrap()));
    let before = generator.counters().unwrap();
    (7..11).for_each(|token| drop(generator.decode_get_logits(token).unwrap()));
    let after = generator.counters().unwrap();
    assert_eq!(before.buffers_created, after.buffers_created);
    assert_eq!(before.bind_groups_created, after.bind_groups_created);
    assert_eq!(before.pipelines_created, after.pipelines_created);
}

/// A layer that a hook gives a wider window than any of the model's: its ring is as large as that wants, and a rewind
/// knows it.
#[test]
fn a_window_of_a_hooks_own_has_its_ring() {
    let oracle = Oracle::open("gemma2");
    let mut stock = oracle.config.clone();
    stock.sliding_window = Some(20);
    let tokens: Vec<u32> = (0..90).map(|i| 3 + (i * 37) % 130).collect();
    let generator = |config: &GemmaConfig, options: GeneratorOptions| {
        let options = GeneratorOptions { prefill_chunk: Some(4), ..options };
        GemmaGenerator::with_options(config.clone(), oracle.loader().as_mut(), Device::Cpu, options).unwrap()
    };
    let expected = generator(&stock, GeneratorOptions::default()).recompute_all_logits(&tokens).unwrap();
    let wider = GeneratorOptions::default().with_flow(|flow| {
        flow.layer(|mut layer| {
            if let GemmaLayerCtx::Prefill { attn, .. } = &mut layer
                && attn.mask == MaskKind::SlidingWindow(8)
            {
                attn.mask = MaskKind::SlidingWindow(20);
            }
            layer.default_stage()
        })
    });
    let mut generator = generator(&oracle.config, wider);
    let error = worst(&generator.all_logits(&tokens).unwrap(), &expected);
    assert!(error < GATE, "{error}");
    // Back to a position that the ring no longer serves, and to one that it does.
    for back in [40, 88] {
        let logits = generator.prefill_get_last_logits(&tokens[..back]).unwrap();
        let error = worst(&logits, &expected[(back - 1) * stock.vocab_size..][..stock.vocab_size]);
        assert!(error < GATE, "back to {back}: {error}");
        generator.prefill_get_last_logits(&tokens).unwrap();
    }
}

#[test]
fn a_rotary_table_of_a_hooks_own_and_an_input_that_no_generator_can_give() {
    let oracle = Oracle::open("gemma2");
    let tokens = oracle.tokens("p7.input_ids");
    // The stock table under another name.
    for device in DEVICES {
        let options = GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() }.with_flow(with_own_table);
        let generator = GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options);
        let error = worst(&generator.unwrap().all_logits(&tokens).unwrap(), &oracle.f32("p7.logits"));
        assert!(error < GATE, "{device}: {error}");
    }
    let options = GeneratorOptions::default().with_flow(|flow| {
        flow.before_layers([FlowStage::custom("shift", |context, x| {
            let shift = context.optional_input("shift", [48].into())?;
            Ok(context.graph.add(x, shift)?)
        })])
    });
    let refused = GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Cpu, options);
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("'shift'") && text.contains("own_weight"), "{text}");
}

fn with_own_table(flow: GemmaFlow<'_>) -> GemmaFlow<'_> {
    let table = FlowStage::custom("table", |context, x| {
        context.rope_table("mine", &default_inv_freq(10_000.0, 20))?;
        Ok(x)
    });
    flow.before_layers([table]).layer(|mut layer| {
        if let GemmaLayerCtx::Prefill { attn, .. } = &mut layer {
            attn.rope_table = "mine".into();
        }
        layer.default_stage()
    })
}

/// A file as PEFT writes it, and A and B with the positions that they adapt.
struct Adapter {
    folder: tempfile::TempDir,
    parts: Vec<(String, [Tensor; 2])>,
    scale: f32,
}

/// Rank 3, alpha 6: `scale` 2.
fn adapter(config: &GemmaConfig, targets: &[&str]) -> Adapter {
    let (hidden, ffw) = (config.hidden_size, config.intermediate_size);
    let size = |name: &str| match name.rsplit('.').next().unwrap() {
        "q_proj" => [config.q_proj_dim(), hidden],
        "k_proj" | "v_proj" => [config.kv_proj_dim(), hidden],
        "o_proj" => [hidden, config.q_proj_dim()],
        "down_proj" => [hidden, ffw],
        _ => [ffw, hidden],
    };
    let tensor = |shape: [usize; 2], seed| Tensor::from_f32("", shape.to_vec(), &Case::numbers(shape[0] * shape[1], seed, 0.3));
    let part = |(i, name): (usize, &&str)| {
        let ([out, inner], seed) = (size(name), 10 + 2 * i as u64);
        (name.to_string(), [tensor([3, inner], seed), tensor([out, 3], seed + 1)])
    };
    let parts: Vec<_> = targets.iter().enumerate().map(part).collect();
    let folder = tempfile::tempdir().unwrap();
    let named = parts.iter().flat_map(|(name, [a, b])| {
        let key = |part| format!("base_model.model.model.{name}.{part}.weight");
        [(key("lora_A"), a), (key("lora_B"), b)]
    });
    write(folder.path(), named.collect());
    std::fs::write(
        folder.path().join("adapter_config.json"),
        r#"{"peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none"}"#,
    )
    .unwrap();
    Adapter { folder, parts, scale: 2.0 }
}

fn write(folder: &Path, tensors: Vec<(String, &Tensor)>) {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, t)| bytemuck::cast_slice(&t.to_f32().unwrap()).to_vec()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        (name.clone(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, tensor.shape().to_vec(), bytes).unwrap())
    });
    let views: Vec<_> = views.collect();
    std::fs::write(folder.join("adapter_model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

const TARGETS: [&str; 9] = [
    "layers.0.self_attn.q_proj",
    "layers.0.self_attn.k_proj",
    "layers.0.mlp.gate_proj",
    "layers.1.self_attn.v_proj",
    "layers.1.self_attn.o_proj",
    "layers.1.mlp.up_proj",
    "layers.1.mlp.down_proj",
    "layers.2.mlp.gate_proj",
    "layers.2.mlp.up_proj",
];

/// `W + scale · B·A` in f64.
fn merged(oracle: &Oracle, adapter: &Adapter) -> BTreeMap<String, Tensor> {
    let mut all = weights(oracle);
    for (name, [a, b]) in &adapter.parts {
        let key = format!("{name}.weight");
        let a = a.to_f32().unwrap();
        let b = b.to_f32().unwrap();
        let mut w = all[&key].to_f32().unwrap();
        let inner = a.len() / 3;
        for (i, w) in w.iter_mut().enumerate() {
            let (row, column) = (i / inner, i % inner);
            let product: f64 = (0..3).map(|r| f64::from(b[row * 3 + r]) * f64::from(a[r * inner + column])).sum();
            *w = (f64::from(*w) + f64::from(adapter.scale) * product) as f32;
        }
        let tensor = Tensor::from_f32(key.clone(), all[&key].shape().to_vec(), &w);
        all.insert(key, tensor);
    }
    all
}

#[test]
fn an_adapter_is_its_weights_merged() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        let adapter = adapter(&oracle.config, &TARGETS);
        let lora = Arc::new(Lora::open(adapter.folder.path(), &oracle.config).unwrap());
        let tokens = oracle.tokens("p33.input_ids");
        let of = |device: &Device, mut weights: WeightMap, options| {
            let options = GeneratorOptions { prefill_chunk: Some(64), ..options };
            GemmaGenerator::with_options(oracle.config.clone(), &mut weights, device.clone(), options).unwrap()
        };
        let run = |mut generator: GemmaGenerator| {
            let all = generator.all_logits(&tokens).unwrap();
            generator.prefill(&tokens).unwrap();
            let text = generator.generate_cached(12, &SampleOpts::greedy()).unwrap();
            let steps: Vec<f32> = [5, 6, 7].into_iter().flat_map(|token| generator.decode_get_logits(token).unwrap()).collect();
            (all, text, steps, generator)
        };
        let (expected, text, steps, _) = run(of(&Device::Cpu, map(&merged(&oracle, &adapter)), GeneratorOptions::default()));
        assert!(worst(&expected, &oracle.f32("p33.logits")) > 0.05, "{name}: the adapter does something");
        // A software driver compiles for seconds.
        for device in if name == "gemma2" { &DEVICES[..] } else { &DEVICES[..1] } {
            let own = lora.clone();
            let options = GeneratorOptions::default().with_flow(move |flow| own.apply(flow));
            let (found, own_text, own_steps, mut generator) = run(of(device, map(&weights(&oracle)), options));
            let error = worst(&found, &expected).max(worst(&own_steps, &steps));
            assert!(error < GATE, "{device} {name}: {error}");
            assert_eq!(own_text, text, "{device} {name}");
            let whole = worst(&generator.recompute_all_logits(&tokens).unwrap(), &expected);
            assert!(whole < GATE, "{device} {name}: {whole}");
        }
    }
}

#[test]
fn an_adapter_without_a_place_is_refused_by_its_key() {
    let oracle = Oracle::open("gemma2");
    let config = &oracle.config;
    let a = Tensor::from_f32("", vec![3, config.hidden_size], &vec![0.5; 3 * config.hidden_size]);
    let file = |keys: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), keys.iter().map(|key| (format!("base_model.model.model.{key}.weight"), &a)).collect());
        std::fs::write(folder.path().join("adapter_config.json"), r#"{"peft_type": "LORA", "r": 3, "lora_alpha": 6}"#).unwrap();
        Lora::open(folder.path(), config).err().map(|e| format!("{e:#}")).unwrap_or_default()
    };
    for (keys, word) in [
        (&["layers.0.self_attn.qkv_proj.lora_A"][..], "layers.0.self_attn.qkv_proj.lora_A"),
        (&["layers.4.self_attn.q_proj.lora_A"], "adapts layer 4, the model has 4"),
        (&["layers.0.input_layernorm.lora_A"], "layers.0.input_layernorm.lora_A"),
        (&["layers.0.self_attn.q_proj.lora_magnitude_vector"], "layer.0.query has no lora_A"),
        (&["layers.0.self_attn.q_proj.lora_A"], "layer.0.query has no lora_B"),
        (&["embed_tokens.lora_A"], "embed_tokens.lora_A"),
        (&[], "no lora_A"),
    ] {
        let text = file(keys);
        assert!(text.contains(word), "'{word}' in '{text}'");
    }
    let one = adapter(config, &TARGETS[..1]);
    let lora = Arc::new(Lora::open(one.folder.path(), config).unwrap());
    let refused = |flow: GemmaFlow| match flow.build(oracle.loader().as_mut()) {
        Err(Error::Callback(CallbackError::Stage { stage, source })) => format!("{stage}: {source}"),
        other => panic!("{other:?}"),
    };
    // A hook that leaves the layer out, and an adapter of another model.
    let text = refused(lora.apply(GemmaFlow::new(config)).layer(|layer| match layer.index() {
        0 => FlowStage::identity(),
        _ => layer.default_stage(),
    }));
    assert!(text.contains("lora: the adapter's target layer.0.query is in no layer"), "{text}");
    let wide = GemmaConfig { hidden_size: 80, ..config.clone() };
    let wide = adapter(&wide, &TARGETS[..1]);
    let text = refused(Arc::new(Lora::open(wide.folder.path(), config).unwrap()).apply(GemmaFlow::new(config)));
    assert!(text.contains("adapter of layer.0.query") && text.contains("[3, 80]"), "{text}");
    std::fs::write(one.folder.path().join("adapter_config.json"), r#"{"r": 3, "lora_alpha": 6, "use_dora": true}"#).unwrap();
    let text = Lora::open(one.folder.path(), config).err().unwrap().to_string();
    assert!(text.contains("adapter_config.json") && text.contains("use_dora"), "{text}");
}

#[test]
fn a_probe_sees_what_transformers_hooks_see() {
    for device in DEVICES {
        let session = Session::new(&device).unwrap();
        let models = if device == Device::Cpu { &MODELS[..] } else { &MODELS[1..2] };
        for name in models {
            let oracle = Oracle::open(name);
            let layers: Vec<usize> = (0..oracle.config.num_hidden_layers).collect();
            let flow = probe(GemmaFlow::for_prefill(&oracle.config, 1, 7).lm_head(), &layers);
            let built = flow.build(oracle.loader().as_mut()).unwrap();
            let names: Vec<String> = layers.iter().flat_map(|i| [format!("hidden_{i}"), format!("lens_{i}")]).collect();
            assert_eq!(built.output_names()[1..], names, "side outputs follow the model's own");
            let outputs = run(&session, &built, &oracle.tokens("p7.input_ids"));
            assert!(worst(&f32s(&outputs["logits"]), &oracle.f32("p7.logits")) < GATE, "{device} {name}");
            for layer in layers {
                let golden = oracle.f32(&format!("p7.layer_out.{layer}"));
                let hidden = worst(&f32s(&outputs[&format!("hidden_{layer}")]), &golden);
                let lens = head(&oracle, &golden[6 * oracle.config.hidden_size..], false);
                let lens = worst(&f32s(&outputs[&format!("lens_{layer}")]), &lens);
                assert!(hidden < GATE && lens < GATE, "{device} {name} layer {layer}: {hidden}, {lens}");
            }
        }
    }
}

/// The dispatches of `hooked` that `stock` has not, by label; every dispatch of `stock` must be there, in order and
/// unchanged.
fn added(stock: &Plan, hooked: &Plan) -> Vec<String> {
    let mut expected = stock.dispatches.iter().peekable();
    let mut own = Vec::new();
    for dispatch in &hooked.dispatches {
        let same = |d: &&gemmaflow::internals::ir::kernel::Dispatch| {
            (&d.label, &d.kernel, d.workgroups) == (&dispatch.label, &dispatch.kernel, dispatch.workgroups)
        };
        if expected.next_if(|d| same(d)).is_none() {
            own.push(dispatch.label.clone());
        }
    }
    assert_eq!(expected.next().map(|d| &d.label), None, "{hooked}");
    own
}

#[test]
fn a_hook_costs_its_own_dispatches_and_no_fusion() {
    for kernels in [KernelTier::Auto, KernelTier::Subgroup, KernelTier::Portable] {
        let options = GpuOptions { kernels, ..GpuOptions::default() };
        let session = Session::with_options(&Device::Gpu, &options).unwrap();
        let target = session.context().unwrap().capabilities().target();
        for name in MODELS {
            let oracle = Oracle::open(name);
            let plan = |flow: GemmaFlow| {
                let built = flow.build(oracle.loader().as_mut()).unwrap();
                lower(&built.graph, &DimBinding::new(), &target, &LowerOptions::default(), &Unplaced).unwrap()
            };
            for tokens in [1, 9] {
                let flow = GemmaFlow::for_prefill(&oracle.config, 1, tokens).lm_head();
                let stock = plan(flow.clone());
                assert_eq!(added(&stock, &plan(flow.clone().layer(|layer| layer.default_stage()))), [""; 0]);
                let one = adapter(&oracle.config, &TARGETS[..1]);
                let lora = Arc::new(Lora::open(one.folder.path(), &oracle.config).unwrap());
                assert_eq!(added(&stock, &plan(lora.apply(flow.clone()))), ["layer.0.lora_a", "layer.0.lora_b"]);
                let own = added(&stock, &plan(probe(flow.clone(), &[1])));
                // One token is its own last row. Where a norm follows layer 1's, the probe's may be the second result
                // in its place; on GPUs the product of one row norms it.
                let lens = ["probe.1.last_token", "probe.1.final_norm", "probe.1.unembed"];
                let known = |label: &String| lens.contains(&label.as_str()) || label == "layer.2.pre_attention_norm";
                assert!(own.iter().all(known) && own.contains(&lens[2].to_string()), "{own:?}");
                assert!(own.len() <= lens.len() - usize::from(tokens == 1), "{own:?}");
            }
        }
    }
}
