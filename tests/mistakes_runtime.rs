//! Mistakes of contract §4 in how a model is run, built and loaded: by bytes, counters, errors and absence. Those in
//! what it computes are in `mistakes_model.rs`, that of reading a whole file into memory in `load_heap.rs`.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::{collections::BTreeSet, fs, path::Path};

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    error::WeightError,
    flow::{BuiltModel, FlowStage},
    gemma::{GemmaConfig, GemmaFlow, GemmaKvTapStage, MoeFfnStage, random_weights},
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts, sample_token_after},
    ir::{DType, DimBinding, Op, ops::Role},
    profile::{CompileProfile, GEMMA_PROFILE_FILE},
    runtime::{BucketedCompileCache, CompileOptions, CounterSnapshot, Device, Session},
};
use oracle::{GATE, Oracle, worst};
use safetensors::{SafeTensors, tensor::TensorView};

const GREEDY: SampleOpts = SampleOpts::greedy();
const MODEL: &str = "gemma3-text";

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))
}

fn generator(oracle: &Oracle, device: Device, chunk: usize) -> GemmaGenerator {
    let options = GeneratorOptions { prefill_chunk: Some(chunk), ..GeneratorOptions::default() };
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device, options).unwrap()
}

fn counters(generator: &GemmaGenerator) -> CounterSnapshot {
    generator.counters().expect("a GPU counts")
}

#[test]
fn mistake_09_a_decode_step_that_runs_the_prompt_again() {
    let oracle = Oracle::open(MODEL);
    let tokens = oracle.tokens("p70.input_ids");
    for device in [Device::Cpu, Device::Gpu] {
        let mut generator = generator(&oracle, device.clone(), 64);
        generator.prefill_get_last_logits(&tokens[..40]).unwrap();
        assert_eq!(generator.rows_computed(), 40, "{device}");
        for (past, token) in (40..).zip(&tokens[40..50]) {
            let logits = generator.decode_get_logits(*token).unwrap();
            assert_eq!(generator.rows_computed(), past + 1, "{device}: one row a step");
            let expected = &oracle.f32("p70.logits")[past as usize * logits.len()..][..logits.len()];
            assert!(worst(&logits, expected) < GATE, "{device} {past}");
        }
    }
}

/// 50 greedy steps of the demo model.
struct Steps {
    before: CounterSnapshot,
    after: CounterSnapshot,
    weight_bytes: u64,
}

impl Steps {
    fn run() -> Self {
        let mut generator = GemmaGenerator::from_path(GemmaConfig::from_file(demo()).unwrap(), demo(), Device::Gpu).unwrap();
        generator.prefill([2, 910, 262]).unwrap();
        (0..3).for_each(|_| _ = generator.step_cached(&GREEDY).unwrap());
        let before = counters(&generator);
        (0..50).for_each(|_| _ = generator.step_cached(&GREEDY).unwrap());
        Self { before, after: counters(&generator), weight_bytes: generator.stats().weight_bytes }
    }

    /// What each of them asked of the device.
    fn each(&self, of: fn(&CounterSnapshot) -> u64) -> u64 {
        (of(&self.after) - of(&self.before)) / 50
    }
}

#[test]
fn mistake_10_weights_that_travel_at_each_step() {
    let steps = Steps::run();
    assert!(steps.each(|c| c.bytes_uploaded) <= 4096 && 4096 < steps.weight_bytes / 1000);
    assert_eq!(steps.after.buffers_created, steps.before.buffers_created);
}

#[test]
fn mistake_12_everything_widened_and_ids_as_floats() {
    let stored: u64 = load_from_path(demo()).map(|loader| stored_bytes(loader.as_ref())).unwrap();
    assert_eq!(Steps::run().weight_bytes, stored, "the demo model is stored as bf16 and lies so on the device");
    let config = GemmaConfig::from_file(demo()).unwrap();
    let built = GemmaFlow::for_prefill(&config, 1, 3).build(load_from_path(demo()).unwrap().as_mut()).unwrap();
    let session = Session::new(&Device::Cpu).unwrap();
    let options = CompileOptions::default().with_weights(&session.load(&built.params).unwrap());
    let mut graph = session.compile_with(&built.graph, &options).unwrap();
    let error = graph.run(&[("input_ids", &[2.0f32, 910.0, 262.0][..])]).unwrap_err().to_string();
    assert!(error.contains("expected u32[1, 3]"), "{error}");
    graph.run(&[("input_ids", &[2u32, 910, 262][..])]).unwrap();
}

#[test]
fn mistake_13_keys_and_values_that_move() {
    let steps = Steps::run();
    // The token crosses, and nothing else; no buffer is made into which a cache could be copied.
    assert_eq!((steps.each(|c| c.bytes_read_back), steps.each(|c| c.submits)), (4, 1));
    assert_eq!(steps.after.buffers_created, steps.before.buffers_created);
    let config = GemmaConfig::from_file(demo()).unwrap();
    let built = GemmaFlow::resident(&config).lm_head().build(load_from_path(demo()).unwrap().as_mut()).unwrap();
    let caches = built.graph.inputs().filter(|(_, input)| input.role == Role::Cache && input.ty.dtype != DType::I32);
    for (_, input) in caches {
        // K heads, not one for each of the N query heads.
        assert_eq!(input.ty.shape.0[2].fixed(), Some(config.num_key_value_heads), "{}", input.name);
    }
    assert!(!built.graph.nodes().iter().any(|node| matches!(node.op, Op::Concat(_))), "nothing is concatenated");
}

fn stored_bytes(loader: &dyn gemmaflow::weights::WeightLoader) -> u64 {
    let bytes = |key: &String| {
        let info = loader.peek(key).unwrap();
        (info.shape.iter().product::<usize>() * info.dtype.scalar_bytes().unwrap()) as u64
    };
    loader.remaining_keys().iter().map(bytes).sum()
}

#[test]
fn mistake_11_a_copy_of_the_weights_for_each_graph() {
    let oracle = Oracle::open(MODEL);
    let session = Session::new(&Device::Gpu).expect("a GPU adapter (lavapipe will do)");
    let live = || session.context().expect("a GPU").counters().snapshot().bytes_live;
    let built = GemmaFlow::for_prefill(&oracle.config, 1, 64).dynamic_seq().build(oracle.loader().as_mut()).unwrap();
    let weights = session.load(&built.params).unwrap();
    let options = CompileOptions::default().with_weights(&weights);
    let before = live();
    let sizes = [1, 2, 4];
    let graphs =
        sizes.map(|t| session.compile_with(&built.graph, &options.clone().with_dims(DimBinding::batch_seq(1, t))).unwrap());
    let own: u64 = graphs.iter().map(|graph| graph.bytes()).sum();
    let all: u64 = built.params.values().map(|t| t.byte_len() as u64).sum();
    assert!(live() - before <= own + own / 8 + 4096 && live() - before < all, "{} for {own} bytes of their own", live() - before);
}

#[test]
fn mistake_14_a_dynamic_graph_that_compiles_for_each_length() {
    let oracle = Oracle::open(MODEL);
    let tokens = oracle.tokens("p70.input_ids");
    let mut generator = generator(&oracle, Device::Gpu, 64).with_dynamic_prefill_cache(64).unwrap();
    generator.prefill_get_last_logits(&tokens[..9]).unwrap();
    let warm = counters(&generator);
    for len in 10..40 {
        generator.prefill(&tokens[40..41]).unwrap();
        generator.prefill_get_last_logits(&tokens[..len]).unwrap();
    }
    let after = counters(&generator);
    assert_eq!((after.pipelines_created, after.bind_groups_created), (warm.pipelines_created, warm.bind_groups_created));
    let stats = generator.prefill_cache_stats();
    assert!(stats.compiles <= 1 && stats.hits >= 30, "{stats:?}");
}

#[test]
fn mistake_15_a_compile_for_each_token_past_the_top_bucket() {
    let oracle = Oracle::open(MODEL);
    let tokens = oracle.tokens("p70.input_ids");
    let mut generator = generator(&oracle, Device::Gpu, 16).with_decode_cache(24).unwrap();
    generator.prefill(&tokens[..20]).unwrap();
    assert_eq!(generator.generate_cached(20, &GREEDY).unwrap().len(), 4);
    let error = generator.generate_cached(20, &GREEDY).unwrap_err();
    assert!(matches!(error, Error::ContextFull { needed: 25, capacity: 24 }), "{error}");
    let before = counters(&generator);
    (0..10).for_each(|_| assert!(generator.step_cached(&GREEDY).is_err()));
    assert_eq!(counters(&generator), before, "an error costs the device nothing");
    let session = Session::new(&Device::Cpu).unwrap();
    let ladder = BucketedCompileCache::power_of_two_ladder(&session, 1, 24).unwrap();
    assert_eq!((ladder.bucket_for(24), ladder.bucket_for(25)), (Some(24), None));
}

#[test]
fn mistake_16_a_mixture_of_experts_built_dense() {
    let json = fs::read_to_string(oracle::data("checkpoints/gemma3-text/config.json")).unwrap();
    let with = |key: &str| json.replacen('{', &format!("{{\"{key}\": 8,"), 1);
    for key in ["num_experts", "num_local_experts"] {
        let error = GemmaConfig::from_json(&with(key)).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    let config = GemmaConfig::tiny_test();
    assert!(!config.is_moe() && config.expert_ffn_dim().is_none());
    let mut loader = random_weights(&config, DType::F32, 1).unwrap();
    let flow = GemmaFlow::new(&config).layer(|_| FlowStage::block(MoeFfnStage::hf("layers.0.moe", 8, 2, 64, 128)));
    let error = flow.build(&mut loader).unwrap_err();
    assert!(
        matches!(error, Error::Weight(WeightError::Missing { .. })) && error.to_string().contains("layers.0.moe.router"),
        "{error}"
    );
    // A model with experts has them in every layer, or is not built.
    let mixture = oracle::Oracle::open("gemma4-moe");
    let experts = |model: &BuiltModel| {
        let chosen = model.graph.nodes().iter().filter(|node| matches!(node.op, Op::ExpertLinear(_)));
        chosen.count()
    };
    let built = GemmaFlow::new(&mixture.config).build(mixture.loader().as_mut()).unwrap();
    assert_eq!((mixture.config.is_moe(), mixture.config.expert_ffn_dim(), experts(&built)), (true, Some(20), 2 * 6));
    let mut gone = mixture.loader();
    gone.take("layers.3.experts.down_proj").unwrap();
    let error = GemmaFlow::new(&mixture.config).build(gone.as_mut()).unwrap_err().to_string();
    assert!(error.contains("layers.3.experts.down_proj"), "{error}");
}

#[test]
fn mistake_19_patch_flow_at_different_points() {
    let config = GemmaConfig::tiny_test();
    let place = |flow: GemmaFlow| {
        let mut loader = random_weights(&config, DType::F32, 1).unwrap();
        let flow = flow.patch_flow(|flow| {
            flow.custom("mark", |context, x| {
                let y = context.graph.scale(x, 1.0)?;
                Ok(context.graph.label(y, "mark"))
            })
        });
        let graph = flow.build(&mut loader).unwrap().graph;
        let names: Vec<&str> = graph.nodes().iter().map(|node| node.name.as_str()).filter(|name| !name.is_empty()).collect();
        let at = names.iter().position(|name| *name == "mark").expect("the patch is in the graph");
        (names[at - 1].to_string(), names[at + 1].to_string())
    };
    let expected = ("layer.1.output".to_string(), "final_norm".to_string());
    assert_eq!(place(GemmaFlow::for_prefill(&config, 1, 4).lm_head()), expected);
    assert_eq!(place(GemmaFlow::for_decode(&config, 1, 4)), expected);
    assert_eq!(place(GemmaFlow::resident(&config).lm_head()), expected);
}

#[test]
fn mistake_21_options_that_are_silently_ignored() {
    let config = GemmaConfig::tiny_test();
    let refused = |flow: GemmaFlow, option: &str| {
        let error = flow.build(&mut random_weights(&config, DType::F32, 1).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Builder(_)) && error.to_string().contains(option), "{option}: {error}");
    };
    let decode = || GemmaFlow::for_decode(&config, 1, 4);
    for (flow, option) in [
        (decode().seq(3), "seq"),
        (decode().dynamic_seq(), "dynamic_seq"),
        (decode().last_token_logits(), "last_token_logits"),
        (decode().export_kv(), "export_kv"),
        (GemmaFlow::new(&config).past(3), "past"),
        (GemmaFlow::new(&config).dynamic_past(), "dynamic_past"),
        (GemmaFlow::new(&config).custom_mask(), "custom_mask"),
        (GemmaFlow::new(&config).decode(), "past"),
    ] {
        refused(flow, option);
    }
}

#[test]
fn mistake_22_a_malformed_profile_replaced_by_the_preset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(GEMMA_PROFILE_FILE);
    assert_eq!(CompileProfile::near_weights(folder.path(), true).unwrap(), CompileProfile::gemma_decode());
    let config = GemmaConfig::tiny_test();
    for (text, place) in
        [("[fusion]\npolicy = \"fast\"", (2, 10)), ("[fusion\n", (1, 8)), ("[precision]\ncomputer = \"f16\"\n", (2, 1))]
    {
        fs::write(&path, text).unwrap();
        let flow = GemmaFlow::new(&config).profile_near(folder.path());
        let error = flow.build(&mut random_weights(&config, DType::F32, 1).unwrap()).unwrap_err();
        assert!(matches!(&error, Error::Profile { line, column, .. } if (*line, *column) == place), "{text}: {error}");
    }
}

#[test]
fn mistake_23_one_draw_for_every_step() {
    let oracle = Oracle::open(MODEL);
    let opts = SampleOpts::temperature(8.0, 5);
    let row = vec![0.0f32; 150];
    let history: Vec<u32> = (0..40).collect();
    let draws: BTreeSet<u32> = (1..40).map(|n| sample_token_after(&row, &opts, &history[..n]).unwrap()).collect();
    assert!(draws.len() > 20, "a flat row gives {} tokens in 39 draws", draws.len());
    let mut generator = generator(&oracle, Device::Cpu, 16);
    let mut text = || {
        generator.prefill(oracle.tokens("p7.input_ids")).unwrap();
        generator.generate_cached(12, &opts).unwrap()
    };
    assert_eq!(text(), text(), "a seed gives one text");
}

#[test]
fn mistake_24_no_end_no_limit_no_chunks_no_padding() {
    let oracle = Oracle::open(MODEL);
    let expected = oracle.tokens("p7.gen_tokens");
    let mut ends = generator(&oracle, Device::Gpu, 4).with_stop_tokens(&expected[2..3]);
    ends.prefill(oracle.tokens("p7.input_ids")).unwrap();
    let text = ends.generate_cached(20, &GREEDY).unwrap();
    assert_eq!(text.last(), Some(&expected[2]));
    assert!(ends.is_stop(oracle.config.eos_token_ids[0]));
    let long = vec![3; oracle.config.max_position_embeddings + 1];
    assert!(matches!(ends.prefill(&long), Err(Error::ContextFull { .. })));
    // 70 tokens in chunks of 4.
    let submits = counters(&ends).submits;
    let logits = ends.prefill_get_last_logits(oracle.tokens("p70.input_ids")).unwrap();
    assert!(counters(&ends).submits - submits >= 16);
    assert!(worst(&logits, &oracle.f32("p70.logits")[69 * logits.len()..]) < GATE);
    let built = GemmaFlow::for_prefill(&oracle.config, 2, 5).build(oracle.loader().as_mut()).unwrap();
    assert!(built.graph.inputs().any(|(_, input)| input.name == "attention_mask" && input.role == Role::Optional));
}

#[test]
fn mistake_25_keys_and_values_projected_twice_for_the_tap() {
    let oracle = Oracle::open(MODEL);
    let products = |flow: GemmaFlow| {
        let built = flow.build(oracle.loader().as_mut()).unwrap();
        let linear = built.graph.nodes().iter().filter(|node| matches!(node.op, Op::Linear(_))).count();
        (linear, built.output_names().len())
    };
    let stock = products(GemmaFlow::new(&oracle.config));
    let tapped = products(GemmaFlow::new(&oracle.config).layer(|layer| {
        let tap = GemmaKvTapStage::layer(layer.index());
        layer.default_stage().then(FlowStage::block(tap))
    }));
    assert_eq!(tapped, (stock.0, stock.1 + 2 * oracle.config.num_hidden_layers));
    assert_eq!(products(GemmaFlow::new(&oracle.config).export_kv()), tapped);
}

#[test]
fn mistake_27_panics_on_the_way() {
    let mut files = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut read = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        // An assertion in the product of matrices is what its unsafe call rests on; sizes are checked before.
        if name.ends_with("tests.rs") || name.ends_with("ir/ops/matmul.rs") {
            continue;
        }
        read += 1;
        for (number, line) in text.split("#[cfg(test)]").next().unwrap().lines().enumerate() {
            let code = line.trim_start();
            let calls = [".unwrap()", ".expect(", "panic!(", "unreachable!(", " assert!(", " assert_eq!("]
                .iter()
                .any(|call| code.contains(call));
            assert!(!calls || code.starts_with("//"), "{name}:{}: {line}", number + 1);
        }
    }
    assert!(read > 80, "{read} files were read");
}

#[test]
fn mistake_28_a_cache_that_is_called_lru_and_is_a_queue() {
    let oracle = Oracle::open(MODEL);
    let tokens = oracle.tokens("p70.input_ids");
    let mut generator = generator(&oracle, Device::Gpu, 64).with_prefill_cache(2).unwrap();
    let mut compiles = |len: usize| {
        generator.prefill(&tokens[60..61]).unwrap();
        let before = generator.prefill_cache_stats().compiles;
        generator.prefill_get_last_logits(&tokens[..len]).unwrap();
        generator.prefill_cache_stats().compiles - before
    };
    // 5, 6, 5 again, then 7: 6 goes, though 5 came first.
    assert_eq!([5, 6, 5, 7, 5, 6].map(&mut compiles), [1, 1, 0, 1, 0, 1]);
}

#[test]
fn mistake_29_one_file_and_one_prefix_only() {
    // Shards and all three prefixes are in the oracle's checkpoints or made of them.
    let oracle = Oracle::open(MODEL);
    let bytes = fs::read(oracle.folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let found: BTreeSet<String> = oracle.loader().remaining_keys().into_iter().collect();
    let bare = |name: &str| name.trim_start_matches("model.").to_string();
    for prefix in ["model.", "language_model.model.", "model.language_model.", ""] {
        let folder = tempfile::tempdir().unwrap();
        let tensors: Vec<(String, TensorView)> =
            file.tensors().into_iter().map(|(name, view)| (format!("{prefix}{}", bare(&name)), view)).collect();
        fs::write(folder.path().join("model.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
        let keys: BTreeSet<String> = load_from_path(folder.path()).unwrap().remaining_keys().into_iter().collect();
        assert_eq!(keys, found, "prefix '{prefix}'");
    }
    let sharded = Oracle::open("gemma1-mqa-bf16-sharded");
    assert!(fs::read_dir(&sharded.folder).unwrap().filter(|e| e.as_ref().unwrap().path().ends_with("safetensors")).count() != 1);
    GemmaFlow::new(&sharded.config).build(sharded.loader().as_mut()).unwrap();
}
