//! Adapters as people have them, against PEFT (tests/data/make_adapters.py): computed as it computes them, or refused
//! by name.

mod formats;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    gemma::{GemmaArch, GemmaConfig, GemmaFlow, LayerWeight, WeightPosition},
    generate::{GemmaGenerator, GeneratorOptions, TablePlacement},
    lora::Lora,
    runtime::Device,
    weights::Tensor,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::common::{
    gguf::Writer,
    oracle::{Oracle, data, worst},
};

/// The adapter and its checkpoint; expected values are PEFT's.
const ADAPTERS: [(&str, &str); 7] = [
    ("gemma3n-all", "gemma3n"),
    ("gemma4-e2b-all", "gemma4-e2b"),
    ("gemma4-moe-experts", "gemma4-moe"),
    ("gemma2-patterns", "gemma2"),
    ("gemma2-bias", "gemma2"),
    ("gemma3-dora", "gemma3-text"),
    ("gemma3-embeddings", "gemma3-text"),
];

/// Values of a file by name, widened.
fn values(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let widened = |view: &TensorView| match view.dtype() {
        Dtype::BF16 => {
            let bits = bytemuck::pod_collect_to_vec::<u8, u16>(view.data());
            bits.into_iter().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()
        }
        Dtype::I32 => bytemuck::pod_collect_to_vec::<u8, i32>(view.data()).into_iter().map(|x| x as f32).collect(),
        _ => bytemuck::pod_collect_to_vec(view.data()),
    };
    file.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), widened(&view)))).collect()
}

fn folder(name: &str) -> std::path::PathBuf {
    data("adapters").join(name)
}

/// Logits of the adapter's tokens: whole sequences, and steps with a cache.
fn logits(oracle: &Oracle, lora: Lora, name: &str, device: &Device, tables: TablePlacement) -> [Vec<f32>; 2] {
    let lora = Arc::new(lora);
    let options = GeneratorOptions { prefill_chunk: Some(16), per_layer_tables: tables, ..GeneratorOptions::default() };
    let options = options.with_flow(move |flow| lora.apply(flow));
    let mut loader = oracle.loader();
    let mut generator = GemmaGenerator::with_options(oracle.config.clone(), loader.as_mut(), device.clone(), options).unwrap();
    let tokens: Vec<u32> =
        values(&folder(name).join("expected.safetensors"))["input_ids"].1.iter().map(|id| *id as u32).collect();
    let whole = generator.recompute_all_logits(&tokens).unwrap();
    let mut steps = generator.all_logits(&tokens[..9]).unwrap();
    generator.prefill_get_last_logits(&tokens[..9]).unwrap();
    tokens[9..].iter().for_each(|token| steps.extend(generator.decode_get_logits(*token).unwrap()));
    [whole, steps]
}

fn check(oracle: &Oracle, lora: Lora, name: &str, device: &Device, tables: TablePlacement) {
    let expected = values(&folder(name).join("expected.safetensors"));
    assert!(worst(&expected["base"].1, &expected["logits"].1) > 1.0, "{name}: the adapter does something");
    let [whole, steps] = logits(oracle, lora, name, device, tables);
    let errors = [whole, steps].map(|found| worst(&found, &expected["logits"].1));
    assert!(errors.iter().all(|error| *error < 1e-3), "{name} on {device}: whole and steps are off by {errors:?}");
}

#[test]
fn adapters_are_what_peft_computes() {
    for (name, model) in ADAPTERS {
        let oracle = Oracle::open(model);
        let lora = Lora::open(folder(name), &oracle.config).unwrap();
        check(&oracle, lora, name, &Device::Cpu, TablePlacement::default());
    }
}

/// Of each sort of product one adapter.
#[test]
fn devices_compute_them_too() {
    for (name, model) in [ADAPTERS[1], ADAPTERS[2], ADAPTERS[5], ADAPTERS[6]] {
        let oracle = Oracle::open(model);
        let lora = Lora::open(folder(name), &oracle.config).unwrap();
        check(&oracle, lora, name, &Device::Gpu, TablePlacement::default());
    }
}

/// Parts for `k_proj` and `v_proj` of layers that attend to the keys of others are passed over, as PEFT never calls
/// those modules.
#[test]
fn keys_and_values_that_no_layer_multiplies_count_nothing() {
    for (name, model) in [ADAPTERS[0], ADAPTERS[1]] {
        let oracle = Oracle::open(model);
        let changed = Changed::of(name);
        let last = oracle.config.num_hidden_layers - 1;
        assert_ne!(oracle.config.kv_source_layer(last), Some(last));
        let rows = oracle.config.weight_shape(WeightPosition::Layer(last, LayerWeight::Key))[0];
        let module = format!("base_model.model.model.layers.{last}.self_attn.k_proj");
        let changed = changed
            .without(&module)
            .with(&format!("{module}.lora_A.weight"), &[2, oracle.config.hidden_size])
            .with(&format!("{module}.lora_B.weight"), &[rows, 2]);
        let lora = changed.open(&oracle.config).unwrap();
        assert!(lora.targets().all(|target| target != format!("layer.{last}.key")));
        check(&oracle, lora, name, &Device::Cpu, TablePlacement::default());
    }
}

/// A copy of an adapter whose files a test changes.
struct Changed {
    folder: tempfile::TempDir,
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    file: &'static str,
}

impl Changed {
    fn of(name: &str) -> Self {
        let config = serde_json::from_slice(&std::fs::read(folder(name).join("adapter_config.json")).unwrap()).unwrap();
        let tensors = values(&folder(name).join("adapter_model.safetensors"));
        Self { folder: tempfile::tempdir().unwrap(), config, tensors, file: "adapter_model.safetensors" }
    }

    fn field(mut self, name: &str, value: Value) -> Self {
        self.config[name] = value;
        self
    }

    fn with(mut self, key: &str, shape: &[usize]) -> Self {
        let numbers = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 * 0.1 - 0.3).collect();
        self.tensors.insert(key.into(), (shape.to_vec(), numbers));
        self
    }

    fn without(mut self, prefix: &str) -> Self {
        self.tensors.retain(|key, _| !key.starts_with(prefix));
        self
    }

    fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.tensors = self.tensors.into_iter().map(|(key, value)| (rename(&key), value)).collect();
        self
    }

    /// Rows and columns of matrices exchanged.
    fn transposed(mut self) -> Self {
        for (shape, values) in self.tensors.values_mut() {
            if let [rows, columns] = shape[..] {
                *values = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect();
                *shape = vec![columns, rows];
            }
        }
        self
    }

    fn write(&self) {
        let bytes: BTreeMap<&String, Vec<u8>> =
            self.tensors.iter().map(|(key, (_, values))| (key, bytemuck::cast_slice(values).to_vec())).collect();
        let views = self
            .tensors
            .iter()
            .map(|(key, (shape, _))| (key.clone(), TensorView::new(Dtype::F32, shape.clone(), &bytes[key]).unwrap()));
        let views: Vec<_> = views.collect();
        std::fs::write(self.folder.path().join(self.file), safetensors::serialize(views, None).unwrap()).unwrap();
        std::fs::write(self.folder.path().join("adapter_config.json"), self.config.to_string()).unwrap();
    }

    fn open(&self, config: &GemmaConfig) -> gemmaflow::Result<Lora> {
        self.write();
        Lora::open(self.folder.path(), config)
    }

    /// What refuses it; a typed error that names a file.
    fn refused(&self, config: &GemmaConfig) -> String {
        let Err(error) = self.open(config) else { panic!("not refused") };
        assert!(matches!(error, Error::Adapter { .. }), "{error:?}");
        error.to_string()
    }
}

#[test]
fn a_field_that_changes_the_numbers_is_refused_by_name() {
    let oracle = Oracle::open("gemma2");
    for (field, value) in [
        ("alora_invocation_tokens", json!([5, 6])),
        ("arrow_config", json!({"top_k": 3})),
        ("bias", json!("some")),
        ("exclude_modules", json!(["v_proj"])),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("OLoRA")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("another")),
        ("kasa_config", json!({"beta": 1e-4})),
        ("layer_replication", json!([[0, 2], [1, 4]])),
        ("layers_to_transform", json!([1])),
        ("lora_alpha", json!("3")),
        ("lora_bias", json!(true)),
        ("megatron_config", json!({"a": 1})),
        ("modules_to_save", json!(["lm_head"])),
        ("monteclora_config", json!({"num_samples": 2})),
        ("peft_type", json!("LOHA")),
        ("peft_type", json!("IA3")),
        ("r", json!(2.5)),
        ("rank_pattern", json!({"(": 1})),
        ("target_modules", json!(["o_proj"])),
        ("task_type", json!("SEQ_CLS")),
        ("trainable_token_indices", json!([3])),
        ("use_bdlora", json!({"nblocks": 2})),
        ("use_dora", json!(true)),
        ("use_qalora", json!(true)),
        ("a_field_of_tomorrow", json!(false)),
    ] {
        let text = Changed::of("gemma2-patterns").field(field, value.clone()).refused(&oracle.config);
        assert!(text.contains("adapter_config.json") && text.contains(field), "{field} = {value}: {text}");
    }
}

#[test]
fn a_field_that_changes_no_number_is_taken() {
    let oracle = Oracle::open("gemma2");
    for (field, value) in [
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("orthogonal")),
        ("init_lora_weights", json!(false)),
        ("eva_config", json!({"rho": 2.0})),
        ("lora_dropout", json!(0.3)),
        ("inference_mode", json!(false)),
        ("fan_in_fan_out", json!(true)),
        ("bias", json!("lora_only")),
        ("task_type", json!(null)),
        ("revision", json!("main")),
        ("alora_invocation_tokens", json!([])),
        ("target_modules", json!(".*(?<!vision)\\.(q_proj|v_proj|up_proj)")),
        ("a_field_of_tomorrow", json!(null)),
    ] {
        let lora = Changed::of("gemma2-patterns").field(field, value.clone()).open(&oracle.config);
        assert_eq!(lora.map(|lora| lora.targets().len()).unwrap(), 12, "{field} = {value}");
    }
    let changed = Changed::of("gemma2-patterns").field("init_lora_weights", json!("eva"));
    check(&oracle, changed.open(&oracle.config).unwrap(), "gemma2-patterns", &Device::Cpu, TablePlacement::default());
}

/// What wrappers and other savers leave in names changes nothing.
#[test]
fn names_in_other_spellings_are_the_same_adapter() {
    let oracle = Oracle::open("gemma2");
    type Rename = fn(&str) -> String;
    let spellings: [Rename; 5] = [
        |key| key.replace(".weight", ".default.weight"),
        |key| key.replace("base_model.model.", ""),
        |key| key.replace("base_model.model.", "base_model.model._orig_mod."),
        |key| format!("module.{}", key.replace("base_model.model.", "")),
        |key| key.replace("base_model.model.model.", "base_model.model.model.language_model."),
    ];
    for (i, rename) in spellings.into_iter().enumerate() {
        // Patterns go by the path of the model that was adapted.
        let changed = Changed::of("gemma2-patterns").renamed(rename);
        let changed = match i {
            4 => changed.field(
                "alpha_pattern",
                json!({"layers.0.mlp.up_proj": 99, r"model\.language_model\.layers\.[02]\..*": 7, "up_proj": 5}),
            ),
            _ => changed,
        };
        let lora = changed.open(&oracle.config).unwrap();
        check(&oracle, lora, "gemma2-patterns", &Device::Cpu, TablePlacement::default());
    }
}

#[test]
fn a_tensor_without_a_place_is_refused_with_the_true_reason() {
    let oracle = Oracle::open("gemma2");
    let at = "base_model.model.model.";
    for (key, shape, word) in [
        ("embed_tokens.weight", [150, 48], "a whole weight"),
        ("embed_tokens.lora_A.weight", [2, 48], "rows are looked up"),
        ("layers.0.input_layernorm.lora_A.weight", [2, 48], "a gain or a factor"),
        ("layers.0.experts.lora_A.weight", [2, 48], "the model has none"),
        ("layers.0.per_layer_input_gate.lora_A.weight", [2, 48], "no product of that name"),
        ("layers.9.self_attn.q_proj.lora_A.weight", [2, 48], "adapts layer 9, the model has 4"),
        ("layers.0.self_attn.q_proj.base_layer.lora_A.weight", [2, 48], "another adapter had adapted"),
        ("layers.0.self_attn.o_proj.lora_A.other.weight", [2, 48], "several adapters"),
        ("layers.0.self_attn.q_proj.bias", [2, 48], "a bias"),
        ("layers.0.self_attn.q_proj.lora_A.weight", [3, 48], "rank 1"),
        ("layers.0.self_attn.q_proj.lora_A.weight", [0, 48], "ZeRO-3"),
    ] {
        let changed =
            Changed::of("gemma2-patterns").field("target_modules", json!("all-linear")).with(&format!("{at}{key}"), &shape);
        let text = changed.refused(&oracle.config);
        assert!(text.contains(word), "{key}: {text}");
    }
    let without = Changed::of("gemma2-patterns").without("base_model");
    assert!(without.refused(&oracle.config).contains("no lora_A"));
    let tower = Changed::of("gemma2-patterns").renamed(|key| key.replace("model.layers", "model.vision_tower.layers"));
    assert!(tower.refused(&oracle.config).contains("no part in this model"));
    let lone = Changed::of("gemma2-patterns").without("base_model.model.model.layers.0.mlp.up_proj.lora_B");
    assert!(lone.refused(&oracle.config).contains("layer.0.ffw_up has no lora_B"));
}

/// A file by itself says nothing of its factor, and other formats say what they are.
#[test]
fn an_adapter_that_is_not_whole_is_refused() {
    let oracle = Oracle::open("gemma2");
    let changed = Changed::of("gemma2-patterns");
    changed.write();
    std::fs::remove_file(changed.folder.path().join("adapter_config.json")).unwrap();
    let text = Lora::open(changed.folder.path(), &oracle.config).unwrap_err().to_string();
    assert!(text.contains("no adapter_config.json"), "{text}");
    let pickle = tempfile::tempdir().unwrap();
    std::fs::write(pickle.path().join("adapter_model.bin"), b"PK").unwrap();
    let text = Lora::open(pickle.path(), &oracle.config).unwrap_err().to_string();
    assert!(text.contains("safe_serialization"), "{text}");
}

/// PEFT saves the embedding that it adapts; another embedding than the model's is not this model's adapter.
#[test]
fn an_adapter_of_another_embedding_is_refused() {
    let oracle = Oracle::open("gemma3-text");
    let mut changed = Changed::of("gemma3-embeddings");
    let key = "base_model.model.model.embed_tokens.base_layer.weight";
    changed.tensors.get_mut(key).expect("PEFT saved it").1[5] += 0.5;
    let lora = Arc::new(changed.open(&oracle.config).unwrap());
    let flow = lora.apply(GemmaFlow::for_prefill(&oracle.config, 1, 3).lm_head());
    let error = flow.build(oracle.loader().as_mut()).unwrap_err().to_string();
    assert!(error.contains("embed came with the adapter"), "{error}");
}

/// Of the table of each layer's inputs a generator reads rows on the host.
#[test]
fn a_table_on_the_host_is_adapted() {
    let oracle = Oracle::open("gemma4-e2b");
    let config = &oracle.config;
    let key = "base_model.model.model.embed_tokens_per_layer.lora_embedding_";
    let ple = config.per_layer_input.unwrap();
    let width = config.num_hidden_layers * ple.hidden_size;
    let changed = Changed::of("gemma4-e2b-all").field("target_modules", json!(null));
    let changed = changed.with(&format!("{key}A"), &[2, ple.vocab_size.unwrap()]).with(&format!("{key}B"), &[width, 2]);
    let found = [TablePlacement::Device, TablePlacement::Host].map(|tables| {
        let lora = changed.open(config).unwrap();
        assert!(lora.part("ple_embed").is_some());
        logits(&oracle, lora, "gemma4-e2b-all", &Device::Gpu, tables)
    });
    let reference = logits(&oracle, changed.open(config).unwrap(), "gemma4-e2b-all", &Device::Cpu, TablePlacement::default());
    let plain = &values(&folder("gemma4-e2b-all").join("expected.safetensors"))["logits"].1;
    assert!(worst(plain, &reference[0]) > 0.1, "the table matters");
    for [whole, steps] in found {
        assert!(worst(&whole, &reference[0]) < 1e-3 && worst(&steps, &reference[1]) < 1e-3);
    }
}
