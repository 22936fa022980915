//! The plan of a model's memory against what a generator then takes, on a real driver.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::{path::Path, sync::Arc};

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, MemoryPlan, SampleOpts},
    runtime::{Device, GpuContext, GpuOptions, Opened},
};
use oracle::{CHECKPOINTS, data};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

/// Four prefill runs of 128 tokens at most, in caches of two sizes.
const CONTEXT: usize = 512;

fn open(options: &GpuOptions) -> Arc<GpuContext> {
    match Device::Gpu.open(options).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

fn live(context: &GpuContext) -> u64 {
    context.counters().snapshot().bytes_live
}

fn generator(path: &Path, context: &Arc<GpuContext>, options: GeneratorOptions) -> gemmaflow::Result<GemmaGenerator> {
    let config = GemmaConfig::near_weights(path).unwrap();
    let device = Device::Context(context.clone());
    GemmaGenerator::with_options(config, load_from_path(path).unwrap().as_mut(), device, options)
}

/// Fills all but the last rows of the context, then draws: that takes all that greedy steps take, and a sampler more.
fn fill(generator: &mut GemmaGenerator, context: usize) {
    let vocab = generator.config().vocab_size as u32;
    let tokens: Vec<u32> = (0..context as u32 - 4).map(|i| (i * 7 + 5) % vocab).collect();
    generator.prefill(&tokens).unwrap();
    for _ in 0..3 {
        generator.step_cached(&SampleOpts::temperature(1.0, 7).with_top_k(40)).unwrap();
    }
}

fn models() -> Vec<std::path::PathBuf> {
    let checkpoints = CHECKPOINTS.iter().map(|name| data("checkpoints").join(name));
    let gguf = ["gemma1-k-q4_k_m", "gemma2-s-q4_0-pure", "gemma3-s-iq4_nl", "gemma4-e-s-q5_1"]
        .map(|name| data("gguf").join(name).join("model.gguf"));
    checkpoints.chain(gguf).chain([DEMO.into()]).collect()
}

#[test]
fn a_generator_takes_what_was_planned() {
    let context = open(&GpuOptions::default());
    for path in models() {
        let name = path.display();
        context.release_staging();
        let before = live(&context);
        let plan = MemoryPlan::for_model(&path, CONTEXT, Device::Context(context.clone())).unwrap();
        assert_eq!(live(&context), before, "{name}: planning allocates nothing");
        assert!(plan.fits() && plan.longest_context >= CONTEXT, "{name}: {plan}");
        let options = GeneratorOptions { context: Some(CONTEXT), ..GeneratorOptions::near_weights(&path).unwrap() };
        let mut generator = generator(&path, &context, options).unwrap();
        assert_eq!(live(&context) - before, plan.weights, "{name}: weights");
        fill(&mut generator, CONTEXT);
        assert_eq!(generator.stats().cache_bytes, plan.caches(), "{name}: caches");
        context.release_staging();
        let taken = live(&context) - before;
        println!("{name}: {taken} bytes, {} were planned", plan.running());
        assert_eq!(taken, plan.running(), "{name}: weights, caches and scratch; {plan:?}");
    }
}

#[test]
fn conversations_at_once_take_what_was_planned() {
    let context = open(&GpuOptions::default());
    let models = ["gemma2", "gemma3-text", "gemma4-e2b", "gemma4-moe"].map(|name| data("checkpoints").join(name));
    for (path, conversations) in models.into_iter().zip([2, 3, 5, 8]).chain([(DEMO.into(), 35)]) {
        let name = path.display();
        context.release_staging();
        let before = live(&context);
        let asked = GeneratorOptions { context: Some(CONTEXT), conversations: Some(conversations), ..Default::default() };
        let config = GemmaConfig::near_weights(&path).unwrap();
        let mut loader = load_from_path(&path).unwrap();
        let plan = MemoryPlan::for_options(config, loader.as_mut(), context.capabilities(), &asked).unwrap();
        assert_eq!(plan.conversations, conversations);
        assert!(plan.to_string().contains(&format!("for each of {conversations} conversations")), "{plan}");
        let first = generator(&path, &context, asked).unwrap();
        let mut all: Vec<GemmaGenerator> = (1..conversations).map(|_| first.share_weights().unwrap()).collect();
        all.push(first);
        all.iter_mut().for_each(|generator| fill(generator, CONTEXT));
        let opts = vec![SampleOpts::greedy(); conversations];
        let stepped = GemmaGenerator::decode_batch(&mut all.iter_mut().collect::<Vec<_>>(), &opts);
        stepped.into_iter().for_each(|token| _ = token.unwrap());
        context.release_staging();
        assert_eq!(live(&context) - before, plan.running(), "{name}: {plan:?}");
    }
}

#[test]
fn small_bindings_and_portable_kernels_are_planned_too() {
    let gpu = GpuOptions { max_binding: Some(1 << 20), max_buffer: Some(1 << 20), ..GpuOptions::default() };
    let kernels = gemmaflow::runtime::KernelTier::Portable;
    for options in [gpu, GpuOptions { kernels, ..GpuOptions::default() }] {
        let context = open(&options);
        let plan = MemoryPlan::for_model(DEMO, CONTEXT, Device::Context(context.clone())).unwrap();
        let options = GeneratorOptions { context: Some(CONTEXT), ..GeneratorOptions::default() };
        let mut generator = generator(Path::new(DEMO), &context, options).unwrap();
        fill(&mut generator, CONTEXT);
        context.release_staging();
        assert_eq!(live(&context), plan.running(), "{plan:?}");
        let (largest, what) = &plan.largest_binding;
        assert!(0 < *largest && *largest <= plan.max_binding, "{what} has {largest} bytes");
    }
}

/// The demo model with a context so long that its caches exceed what loading takes.
fn long(context: &Arc<GpuContext>, options: GeneratorOptions) -> gemmaflow::Result<GemmaGenerator> {
    let config = GemmaConfig { max_position_embeddings: 1 << 17, ..GemmaConfig::from_file(DEMO).unwrap() };
    GemmaGenerator::with_options(config, load_from_path(DEMO).unwrap().as_mut(), Device::Context(context.clone()), options)
}

#[test]
fn a_budget_refuses_or_shortens_before_anything_is_allocated() {
    let context = open(&GpuOptions::default());
    let config = GemmaConfig { max_position_embeddings: 1 << 17, ..GemmaConfig::from_file(DEMO).unwrap() };
    let mut loader = load_from_path(DEMO).unwrap();
    let whole = MemoryPlan::for_options(config, loader.as_mut(), context.capabilities(), &GeneratorOptions::default()).unwrap();
    assert!(whole.fits() && whole.context == 1 << 17, "{whole}");
    let budget = whole.peak() - whole.full_cache.bytes / 2;
    let options = |shorten_context| GeneratorOptions { memory_budget: Some(budget), shorten_context, ..Default::default() };
    let created = context.counters().snapshot().buffers_created;
    let refused = long(&context, options(false)).unwrap_err();
    assert_eq!(context.counters().snapshot().buffers_created, created, "nothing was allocated");
    let Error::DoesNotFit(plan) = &refused else { panic!("{refused}") };
    let text = refused.to_string();
    for figure in [plan.peak(), plan.weights, plan.full_cache.bytes, budget, plan.longest_context as u64] {
        assert!(text.contains(&figure.to_string()), "{figure} in {text}");
    }
    assert!((65_000..66_000).contains(&plan.longest_context), "half of the full layers' rows: {plan}");

    let mut shortened = long(&context, options(true)).unwrap();
    assert_eq!(shortened.max_context(), plan.longest_context);
    let reserved = shortened.stats().cache_bytes;
    fill(&mut shortened, 1000);
    assert_eq!(shortened.stats().cache_bytes, reserved, "the caches were made at once");
    context.release_staging();
    assert!(live(&context) <= budget, "{} of {budget}", live(&context));
    drop(shortened);
    // One token more is one too many.
    let longer = GeneratorOptions { context: Some(plan.longest_context + 1), ..options(false) };
    assert!(matches!(long(&context, longer), Err(Error::DoesNotFit(_))));

    let none = GeneratorOptions { memory_budget: Some(1 << 20), shorten_context: true, ..GeneratorOptions::default() };
    let text = long(&context, none).unwrap_err().to_string();
    assert!(text.contains("no context fits"), "{text}");
}

#[test]
fn a_context_whose_cache_exceeds_a_binding_is_refused() {
    // A row of K has 256 bytes here.
    let context = open(&GpuOptions { max_binding: Some(384 << 10), ..GpuOptions::default() });
    let plan = MemoryPlan::for_model(DEMO, 2048, Device::Context(context.clone())).unwrap();
    assert_eq!((plan.fits(), plan.longest_context), (false, (384 << 10) / 256 - 1), "{plan}");
    let with =
        |context: usize, shorten_context| GeneratorOptions { context: Some(context), shorten_context, ..Default::default() };
    assert!(matches!(generator(Path::new(DEMO), &context, with(2048, false)), Err(Error::DoesNotFit(_))));
    let shortened = generator(Path::new(DEMO), &context, with(2048, true)).unwrap();
    assert_eq!(shortened.max_context(), plan.longest_context);
    drop(shortened);
    let longest = generator(Path::new(DEMO), &context, with(plan.longest_context, false)).unwrap();
    let mut longest = longest.with_decode_cache(plan.longest_context).unwrap();
    longest.prefill_get_last_logits([2, 910, 262]).unwrap();
}

#[test]
fn the_reference_has_no_plan() {
    let error = MemoryPlan::for_model(DEMO, 64, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("reference"), "{error}");
}

#[test]
fn a_budget_for_several_conversations_leaves_each_a_shorter_context() {
    let context = open(&GpuOptions::default());
    let plan = |conversations, memory_budget| {
        let config = GemmaConfig { max_position_embeddings: 1 << 17, ..GemmaConfig::from_file(DEMO).unwrap() };
        let options = GeneratorOptions { conversations, memory_budget, ..Default::default() };
        MemoryPlan::for_options(config, load_from_path(DEMO).unwrap().as_mut(), context.capabilities(), &options)
    };
    let budget = Some(plan(None, None).unwrap().peak());
    let (one, four) = (plan(None, budget).unwrap(), plan(Some(4), budget).unwrap());
    assert!(one.fits() && !four.fits(), "{one} {four}");
    assert!(four.longest_context > 0 && four.longest_context < one.longest_context / 3, "{four}");
    assert!(matches!(plan(Some(0), None), Err(Error::Option { found: 0, .. })));
}
