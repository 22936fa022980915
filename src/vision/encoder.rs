//! The tower and its runs.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::Patches;
use crate::{
    Error, Result,
    checkpoint::load_towers_from_path,
    error::{GraphError, PromptError},
    flow::BuiltModel,
    gemma::{
        GemmaConfig, MediaTokens, VisionConfig,
        vision::{ROPE_COLUMNS, ROPE_ROWS, SOFT_TOKENS},
    },
    ir::{Value, ops::rope_row},
    profile::CompileProfile,
    prompt::{Modality, SoftTokens},
    runtime::{CompileOptions, CompiledGraph, GpuContext, Lru, RunInput, Session, SessionWeights},
    weights::{WeightLoader, WeightMap},
};

/// Compiled towers that are kept, one for each budget of soft tokens.
const KEPT: usize = 5;

/// How to load a tower.
#[derive(Debug, Clone, Default)]
pub struct VisionOptions {
    /// How the tower is compiled; its products are f32 unless it says otherwise. Default: the preset.
    pub profile: CompileProfile,
}

/// Makes soft tokens of pictures, on the device of the generator that they are for.
///
/// `Send + Sync`, and a clone shares the weights. Where a model has none of its own device, it runs on the reference.
#[derive(Clone)]
pub struct VisionEncoder(Arc<Tower>);

struct Tower {
    text: GemmaConfig,
    vision: VisionConfig,
    ids: MediaTokens,
    profile: CompileProfile,
    session: Session,
    /// Handles, from which graphs for other budgets are built.
    loader: WeightMap,
    weights: SessionWeights,
    compiled: Mutex<Lru<usize, CompiledGraph>>,
}

const _: () = {
    const fn shareable<T: Send + Sync + 'static>() {}
    shareable::<VisionEncoder>();
};

impl VisionEncoder {
    /// The tower of the checkpoint at `path`, on `gpu`, or on the reference without one
    /// ([`GemmaGenerator::gpu`](crate::GemmaGenerator::gpu)).
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader), and what is wrong with the files.
    pub fn from_path(config: &GemmaConfig, path: impl AsRef<Path>, gpu: Option<Arc<GpuContext>>) -> Result<Self> {
        let mut loader = load_towers_from_path(path)?;
        Self::from_loader(config, loader.as_mut(), gpu, VisionOptions::default())
    }

    /// As [`from_path`](Self::from_path), with the weights of a loader, by their names in a checkpoint.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without a tower, or with one that is not computed; a weight that is missing or
    /// misshapen, and what the device says.
    pub fn from_loader(
        config: &GemmaConfig,
        loader: &mut dyn WeightLoader,
        gpu: Option<Arc<GpuContext>>,
        options: VisionOptions,
    ) -> Result<Self> {
        let missing = || Error::Unsupported("pictures with a model whose configuration has no vision_config".into());
        let vision = config.multimodal.vision.clone().ok_or_else(missing)?;
        let no_ids = || Error::Config("the configuration has a vision_config, but not the ids of a picture's tokens".into());
        let ids = config.multimodal.image.ok_or_else(no_ids)?;
        let session = gpu.map_or_else(Session::reference, |gpu| Session::on(&gpu));
        let loader = WeightMap::take_all(loader)?;
        let built = build(&vision, config, &loader, vision.max_soft_tokens())?;
        let weights = session.load(&built.params)?;
        let profile = options.profile;
        let compiled = Mutex::new(Lru::new(KEPT));
        Ok(Self(Arc::new(Tower { text: config.clone(), vision, ids, profile, session, loader, weights, compiled })))
    }

    /// Most soft tokens of a picture, unless another budget is asked for.
    pub fn max_soft_tokens(&self) -> usize {
        self.0.vision.max_soft_tokens()
    }

    /// The soft tokens of a picture's patches, of which it may have at most `budget`.
    ///
    /// # Errors
    /// [`PromptError::SoftTokens`] for patches that are not of this tower; what the device says.
    pub fn encode_patches(&self, patches: &Patches, budget: usize) -> Result<SoftTokens> {
        let outputs = self.run(patches, budget, &[])?;
        let tower = &*self.0;
        let grid = tower.vision.grid(budget)?;
        let tokens = match &tower.vision {
            VisionConfig::Siglip(config) => config.mm_tokens_per_image,
            _ => patches.rows * patches.columns / (grid.pooled * grid.pooled),
        };
        let soft = outputs.into_iter().find(|(name, _)| name == SOFT_TOKENS).ok_or_else(no_output)?.1;
        let mut values = soft.to_f32()?.into_owned();
        values.truncate(tokens * tower.text.hidden_size);
        SoftTokens::new(Modality::Image, tower.ids.soft, tower.text.hidden_size, values)
    }

    /// Runs the tower: its soft tokens, and the values of nodes by their labels, such as `vision.layer.3.output`, with
    /// the padding of the budget.
    ///
    /// # Errors
    /// As [`encode_patches`](Self::encode_patches); [`Error::Builder`] for a label that no node has.
    pub fn run(&self, patches: &Patches, budget: usize, labels: &[&str]) -> Result<Vec<(String, Value)>> {
        let tower = &*self.0;
        let grid = tower.vision.grid(budget)?;
        if let Some(problem) = patches.problem(grid, tower.vision.places()) {
            return Err(Error::Prompt(PromptError::SoftTokens(problem)));
        }
        let inputs = tower.inputs(patches, grid.most);
        let given: Vec<(&str, RunInput)> = inputs.iter().map(|(name, value)| (*name, RunInput::Value(value))).collect();
        if !labels.is_empty() {
            let built = tower.build(budget)?.with_extra_hir_outputs(labels.iter().copied())?;
            return tower.compile(&built)?.run(&given);
        }
        let mut compiled = tower.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.get_or_try_insert(&budget, || tower.compile(&tower.build(budget)?))?.run(&given)
    }
}

impl std::fmt::Debug for VisionEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VisionEncoder").field("vision", &self.0.vision).finish_non_exhaustive()
    }
}

fn build(vision: &VisionConfig, text: &GemmaConfig, loader: &WeightMap, budget: usize) -> Result<BuiltModel> {
    vision.flow(text, budget)?.build(&mut loader.clone())
}

fn no_output() -> Error {
    Error::Graph(GraphError::Malformed { graph: "vision".into(), problem: format!("it has no output '{SOFT_TOKENS}'") })
}

impl Tower {
    fn build(&self, budget: usize) -> Result<BuiltModel> {
        build(&self.vision, &self.text, &self.loader, budget)
    }

    fn compile(&self, built: &BuiltModel) -> Result<CompiledGraph> {
        let options = CompileOptions::default().with_weights(&self.weights).with_profile(&self.profile);
        self.session.compile_with(&built.graph, &options)
    }

    /// The inputs of the graph for `most` patches.
    fn inputs(&self, patches: &Patches, most: usize) -> Vec<(&'static str, Value)> {
        let width = patches.values.len() / (patches.rows * patches.columns).max(1);
        let mut values = vec![0.0; most * width];
        let side = match &self.vision {
            VisionConfig::Siglip(_) => {
                values[..patches.values.len()].copy_from_slice(&patches.values);
                return vec![("patches", Value::f32([1, most, width], values))];
            }
            VisionConfig::Gemma4(config) => config.pooling_kernel_size,
            _ => 1,
        };
        let order = patches.by_square(side);
        let mut columns = vec![0; most];
        let mut rows = vec![0; most];
        for (at, [column, row]) in order.iter().enumerate() {
            let from = (row * patches.columns + column) * width;
            values[at * width..(at + 1) * width].copy_from_slice(&patches.values[from..from + width]);
            [columns[at], rows[at]] = self.vision.place(*column, *row);
        }
        let places = |ids| Value::u32([1, most], ids);
        let mut inputs =
            vec![("patches", Value::f32([1, most, width], values)), ("columns", places(columns)), ("rows", places(rows))];
        if let VisionConfig::Gemma4(config) = &self.vision {
            let mut live = vec![1.0; order.len()];
            live.resize(most, 0.0);
            inputs.push(("attention_mask", Value::f32([1, most], live)));
            // Each half of a head turns by one of the two, with frequencies of half a head.
            let half = config.head_dim / 2;
            let frequency = |pair: usize| (f64::from(config.rope_theta)).powf(-2.0 * pair as f64 / half as f64) as f32;
            let frequencies: Vec<f32> = (0..half / 2).map(frequency).collect();
            for (axis, name) in [ROPE_COLUMNS, ROPE_ROWS].into_iter().enumerate() {
                let mut table: Vec<f32> = order.iter().flat_map(|place| rope_row(&frequencies, place[axis])).collect();
                table.resize(most * half, 0.0);
                inputs.push((name, Value::f32([1, most, half], table)));
            }
        }
        inputs
    }
}
