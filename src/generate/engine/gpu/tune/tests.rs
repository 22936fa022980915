//! Kernels that are tried when a model is loaded: planted mistakes are noticed and replaced, the faster of two is kept.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    super::{GpuEngine, caches::Caches, chunk_sizer::ChunkSizer, model::GpuModel, submit_splitter::SubmitSplitter},
    Budget,
};
use crate::{
    Error,
    checkpoint::load_from_path,
    error::DeviceError,
    gemma::GemmaConfig,
    generate::{CancelToken, ModelGraphs, Outputs, PlanPolicy, Profiles},
    ir::{Alternatives, Fallback, KernelChoices},
    plan::Plan,
    runtime::{Device, GpuContext, GpuOptions, KernelTier, Opened, RunTokens, Tuning},
};

const CHUNK: usize = 64;

/// The product of one row with the FFW's last weight.
const DOWN: &str = "linear_vec, subgroup: 1 f32 weights of 48x76, 1 times 1 rows";

/// As much as it takes.
const AMPLE: Budget = Budget { test: Duration::from_secs(600), timing: Duration::from_secs(600) };

fn open(kernels: KernelTier) -> Arc<GpuContext> {
    let options = GpuOptions { kernels, tuning: Tuning::Off, ..GpuOptions::default() };
    match Device::Gpu.open(&options).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

fn load(name: &str, context: &Arc<GpuContext>) -> (GpuModel, usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints").join(name);
    let config = GemmaConfig::from_file(&folder).unwrap();
    let model = ModelGraphs::new(config, load_from_path(&folder).unwrap().as_mut(), None).unwrap();
    let ring = model.ring(CHUNK).unwrap();
    let profiles = Profiles::default();
    let made = GpuModel::new(context.clone(), model.into(), &profiles, (CHUNK, ring), false, None);
    let model = crate::platform::wait("a test", made).unwrap();
    (model, ring)
}

fn tune(model: &mut GpuModel, ring: usize, change: &dyn Fn(&mut Plan)) -> crate::Result<()> {
    model.tune_with(&Profiles::default(), [CHUNK, ring], true, (AMPLE, CancelToken::new()), change)
}

/// Doubles the factor of the scores of the kernels that `is_wrong` names.
fn plant(plan: &mut Plan, is_wrong: impl Fn(&str) -> bool) {
    for dispatch in plan.dispatches.iter_mut().filter(|d| is_wrong(&d.kernel.key())) {
        let scales = dispatch.kernel.overrides.iter_mut().filter(|(name, _)| *name == "SCALE");
        scales.for_each(|(_, scale)| *scale *= 2.0);
    }
}

#[test]
fn kernels_of_every_family_are_found_right() {
    let context = open(KernelTier::Subgroups);
    for name in ["gemma2", "gemma3-text", "gemma3n", "gemma4-e2b", "gemma4-moe"] {
        let (mut model, ring) = load(name, &context);
        tune(&mut model, ring, &|_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(model.target.choices.fallbacks().count(), 0, "{name}");
    }
    assert!(context.kernel_choices().tested() > 20, "{:?}", context.kernel_choices());
}

#[test]
fn a_wrong_kernel_is_replaced_and_the_logits_are_right() {
    let context = open(KernelTier::Subgroups);
    let (mut model, ring) = load("gemma3-text", &context);
    let wrong = |kernel: &str| kernel.starts_with("attention_") && kernel.contains("TIER=subgroups");
    tune(&mut model, ring, &|plan| plant(plan, wrong)).unwrap();
    let choices = context.kernel_choices();
    assert_eq!(choices.fallbacks().collect::<Vec<_>>(), [("attention", Fallback::Portable)]);
    // A second model finds them, and tries nothing again.
    let (mut second, ring) = load("gemma3-text", &context);
    // A kernel that is known to be right is not looked at.
    tune(&mut second, ring, &|plan| plant(plan, |kernel| kernel.starts_with("attention_"))).unwrap();
    assert_eq!(context.kernel_choices(), choices);
    let tokens: Vec<u32> = (2..40).collect();
    let logits = |model: GpuModel| {
        let elements = model.elements();
        let pace = ChunkSizer::new(CHUNK, elements, true, None);
        let policy = PlanPolicy::default();
        let slices = SubmitSplitter::new(None, true);
        let mut engine = GpuEngine::fresh(model.into(), Caches::new(ring), policy, Profiles::default(), pace, slices);
        let (given, last) = tokens.split_at(tokens.len() - 1);
        engine.logits(RunTokens::text(given, 0), true, Outputs::Nothing).unwrap();
        engine.logits(RunTokens::text(last, given.len()), true, Outputs::Last).unwrap()
    };
    let (untouched, _) = load("gemma3-text", &open(KernelTier::Subgroups));
    let found = logits(second);
    let expected = logits(untouched);
    let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 1e-4, "{error}");
}

/// The options of the product with the FFW's last weight, where a device knows that its second kernel is faster.
fn options_of_down(untimed: bool) -> String {
    let context = open(KernelTier::Subgroup);
    let mut known = KernelChoices::default();
    known.take(&Alternatives { work: DOWN.into(), count: 2 }, 1);
    context.learn_choices(known.clone());
    let (mut model, ring) = load("gemma3-text", &context);
    let seen = Mutex::default();
    let look = |plan: &mut Plan| {
        for kernel in plan.dispatches.iter().map(|dispatch| &dispatch.kernel) {
            if kernel.shader == "linear_vec" && kernel.key().contains(" T=1 IN=76 OUT=48 ") {
                *seen.lock().unwrap() = format!("{:?}", kernel.options);
            }
        }
    };
    let untried = Budget { timing: Duration::ZERO, ..AMPLE };
    model.tune_with(&Profiles::default(), [1, ring], untimed, (untried, CancelToken::new()), &look).unwrap();
    assert_eq!(context.kernel_choices().fastest().collect::<Vec<_>>(), [(DOWN, 1)], "what is known stays known");
    seen.into_inner().unwrap()
}

#[test]
fn a_model_without_timed_kernels_tests_those_that_it_runs() {
    assert_ne!(options_of_down(true), options_of_down(false));
}

#[test]
fn cancelling_ends_it_between_two_kernels() {
    let context = open(KernelTier::Subgroups);
    let (mut model, ring) = load("gemma3-text", &context);
    let cancel = CancelToken::new();
    cancel.cancel();
    let cancelled = model.tune_with(&Profiles::default(), [CHUNK, ring], true, (AMPLE, cancel), &|_| {});
    assert!(matches!(cancelled, Err(Error::Cancelled(_))), "{cancelled:?}");
}

#[test]
fn an_op_without_a_right_kernel_is_an_error_that_names_it() {
    let context = open(KernelTier::Subgroups);
    let (mut model, ring) = load("gemma3-text", &context);
    let error = tune(&mut model, ring, &|plan| plant(plan, |kernel| kernel.starts_with("attention"))).unwrap_err();
    let Error::Device(DeviceError::WrongKernel { kernel, device, .. }) = &error else { panic!("{error}") };
    assert!(kernel.contains("attention") && kernel.contains("layer.0.") && device.contains(&context.capabilities().adapter));
    assert!(error.to_string().contains("update the driver"), "{error}");
}

/// Of the products with the FFW's last weight the options of the kernel that was seen first.
#[derive(Default)]
struct First(Mutex<Option<String>>);

impl First {
    /// Repeats the dispatches of such products whose kernel is the first, or is not.
    fn slow(&self, plan: &mut Plan, slows_first: bool) {
        for dispatch in std::mem::take(&mut plan.dispatches) {
            let is_such = dispatch.kernel.shader == "linear_vec" && dispatch.kernel.key().contains(" IN=76 OUT=48 ");
            let options = format!("{:?}", dispatch.kernel.options);
            let is_first = || *self.0.lock().unwrap().get_or_insert_with(|| options.clone()) == options;
            let slowed = is_such && is_first() == slows_first;
            let times = if slowed { 30 } else { 1 };
            plan.dispatches.extend(std::iter::repeat_n(dispatch, times));
        }
    }
}

#[test]
fn of_two_kernels_the_one_that_is_slowed_on_purpose_is_not_kept() {
    let chosen = |slows_first: bool| {
        let context = open(KernelTier::Subgroup);
        let (mut model, ring) = load("gemma3-text", &context);
        let first = First::default();
        let change = |plan: &mut Plan| first.slow(plan, slows_first);
        // One token at a time has few kernels.
        model.tune_with(&Profiles::default(), [1, ring], false, (AMPLE, CancelToken::new()), &change).unwrap();
        let choices = context.kernel_choices();
        assert_eq!(model.target.choices.as_ref(), &choices);
        choices.fastest().find(|(found, _)| *found == DOWN).unwrap_or_else(|| panic!("{choices:?}")).1
    };
    assert_ne!(chosen(true), 0);
    assert_eq!(chosen(false), 0);
}
