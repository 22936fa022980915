//! What the doctor finds, as `report.json` has it.

use std::collections::BTreeMap;

use serde::Serialize;

/// The version of the report's form: another number where a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// All of it. A section that is not there was not reached.
#[derive(Serialize, Default)]
pub struct Report {
    pub report: u32,
    pub gemmaflow: &'static str,
    pub system: System,
    pub quick: bool,
    /// Seconds that the parts were allowed to take together.
    pub budget_s: f64,
    /// What is under way; where a process has died this is where.
    pub running: Option<String>,
    pub parts: Vec<Part>,
    /// Kernels whose result was wrong, that did not compile or did not run.
    pub wrong: usize,
    pub adapter: Option<Adapter>,
    pub first_start: Option<FirstStart>,
    pub kernels: Vec<Tier>,
    pub models: Vec<SmallModel>,
    /// Trials of small models that there was no time for.
    pub models_not_reached: usize,
    pub rates: Option<Rates>,
    pub speed: Vec<Speed>,
    pub tuning: Option<Tuned>,
}

/// What the program was built for, and the threads of the processor.
#[derive(Serialize, Default)]
pub struct System {
    pub os: &'static str,
    pub processor: &'static str,
    pub threads: usize,
}

/// How a part of the examination ended.
#[derive(Serialize, Clone)]
pub struct Part {
    pub name: &'static str,
    pub seconds: f64,
    /// What kept it from its end; nothing where it came to it.
    pub problem: Option<String>,
}

#[derive(Serialize, Clone)]
pub struct Adapter {
    pub name: String,
    pub kind: &'static str,
    pub backend: String,
    pub driver: String,
    /// Computes on the CPU: its figures say little.
    pub software: bool,
    pub features: BTreeMap<&'static str, String>,
    pub limits: BTreeMap<&'static str, u64>,
    pub matrices: Vec<String>,
    pub tier: String,
    pub tier_why: String,
    pub matrices_why: String,
    /// All adapters of the machine.
    pub adapters: Vec<String>,
}

/// The first token of a short prompt of a model that nothing is known of, and again with the pipelines of the first
/// time.
#[derive(Serialize, Clone, Default)]
pub struct FirstStart {
    pub model: String,
    pub cold: Vec<Step>,
    pub warm: Vec<Step>,
    /// What became of the kept pipelines.
    pub kept: String,
    pub kept_bytes: usize,
}

#[derive(Serialize, Clone)]
pub struct Step {
    pub what: &'static str,
    pub ms: f64,
    pub pipelines: u64,
}

/// The kernels of one tier against the reference.
#[derive(Serialize, Clone, Default)]
pub struct Tier {
    pub name: &'static str,
    /// Cases of all ops, in f32 and, where the device has it, in f16.
    pub cases: usize,
    pub right: usize,
    /// Those whose kernels ran before, mostly in another tier.
    pub same: usize,
    pub wrong: Vec<Wrong>,
    pub not_reached: usize,
    /// The largest error of a right one, as a share of what is allowed, and whose it is.
    pub worst: f64,
    pub worst_case: String,
    pub pipelines: u64,
    pub seconds: f64,
}

/// One case whose kernels are wrong.
#[derive(Serialize, Clone, Default)]
pub struct Wrong {
    pub op: String,
    pub case: String,
    pub tier: &'static str,
    pub numbers: &'static str,
    /// Each dispatch's shader with its options and sizes.
    pub kernels: Vec<String>,
    pub problem: String,
    /// The largest error, how large it may be, and their quotient.
    pub error: Option<f64>,
    pub allowed: Option<f64>,
    pub share: Option<f64>,
}

/// A small model on the device against the reference: kernels that are fused and caches that are written.
#[derive(Serialize, Clone, Default)]
pub struct SmallModel {
    pub model: String,
    pub tier: &'static str,
    pub numbers: &'static str,
    /// The largest difference of a logit, and the root mean square of all, both over that of the logits.
    pub largest: f64,
    pub rms: f64,
    pub allowed: f64,
    pub right: bool,
    pub problem: Option<String>,
}

/// What the device reaches where nothing else holds it up.
#[derive(Serialize, Clone, Copy, Default)]
pub struct Rates {
    pub read_gb_s: f64,
    pub f32_gflop_s: f64,
    pub f16_gflop_s: Option<f64>,
    pub matrices_gflop_s: Option<f64>,
    pub dependent_dispatch_us: Option<f64>,
}

/// Speed of a released model's shape.
#[derive(Serialize, Clone, Default)]
pub struct Speed {
    pub shape: &'static str,
    pub weights: &'static str,
    /// Why there are no figures.
    pub problem: Option<String>,
    /// Whether the reason is a kernel that is wrong.
    pub wrong: bool,
    pub weight_bytes: u64,
    /// With what the library tries of kernels meanwhile.
    pub load_s: f64,
    pub prompt: usize,
    pub dispatches_per_token: usize,
    pub prefill: Option<Rate>,
    pub decode: Option<Rate>,
}

/// Tokens a second, and what the roofline allows.
#[derive(Serialize, Clone, Copy)]
pub struct Rate {
    pub tokens_per_s: f64,
    pub roofline_tokens_per_s: Option<f64>,
    pub share: Option<f64>,
}

/// What the library found out as it loaded the measured shapes.
#[derive(Serialize, Clone, Default)]
pub struct Tuned {
    /// Kernels that were compared with the reference and found right.
    pub tested: usize,
    pub replaced: Vec<Replaced>,
    pub chosen: Vec<Chosen>,
}

/// An op of which a kernel was wrong.
#[derive(Serialize, Clone)]
pub struct Replaced {
    pub op: String,
    pub by: &'static str,
}

/// The fastest of kernels that compute the same; number 0 is the one that an estimate prefers.
#[derive(Serialize, Clone)]
pub struct Chosen {
    pub work: String,
    pub number: usize,
}

impl Report {
    /// One that has found nothing yet.
    pub fn new(quick: bool, budget_s: f64) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let system = System { os: std::env::consts::OS, processor: std::env::consts::ARCH, threads };
        Self { report: VERSION, gemmaflow: env!("CARGO_PKG_VERSION"), system, quick, budget_s, ..Self::default() }
    }

    /// Whether any kernel was held against the reference.
    pub fn examined(&self) -> bool {
        self.kernels.iter().any(|tier| tier.right > 0 || !tier.wrong.is_empty())
    }

    /// Counts what is wrong.
    pub fn count(&mut self) {
        let cases: usize = self.kernels.iter().map(|tier| tier.wrong.len()).sum();
        let models = self.models.iter().filter(|model| !model.right).count();
        let speed = self.speed.iter().filter(|speed| speed.wrong).count();
        let replaced = self.tuning.as_ref().map_or(0, |tuned| tuned.replaced.len());
        self.wrong = cases + models + speed + replaced;
    }

    /// 1 where a kernel is wrong, 2 where none was examined, else 0.
    pub fn exit_code(&self) -> u8 {
        match (self.wrong, self.examined()) {
            (1.., _) => 1,
            (0, false) => 2,
            (0, true) => 0,
        }
    }
}

/// A message without what it may say of the user: folders of this machine.
pub fn without_folders(message: &str) -> String {
    let folders = [std::env::current_dir().ok(), std::env::home_dir(), Some(std::env::temp_dir())];
    let mut text = message.to_owned();
    for folder in folders.into_iter().flatten() {
        let name = folder.to_string_lossy();
        if name.len() > 1 {
            text = text.replace(&*name, "~");
        }
    }
    text
}
