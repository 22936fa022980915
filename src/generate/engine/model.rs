//! The graphs of a model, built when a run first needs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use super::{FINAL_NORM, Outputs};
use crate::{
    Error, Result,
    error::WeightError,
    flow::BuiltModel,
    gemma::{BidirectionalPictures, GemmaConfig, GemmaFlow, WeightPosition},
    ir::{
        DType, Graph, MaskKind, Node, Op,
        ops::{Input, Role},
    },
    profile::{CompileProfile, Precision},
    weights::{Tensor, WeightLoader, WeightMap},
};

/// Changes the flow of every graph of a model, such as with a [`layer`](GemmaFlow::layer) hook.
pub type FlowHook = Arc<dyn for<'a> Fn(GemmaFlow<'a>) -> GemmaFlow<'a> + Send + Sync>;

/// Which graph of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GraphKey {
    /// With resident caches.
    pub(crate) resident: bool,
    /// The wanted outputs.
    pub(crate) want: Outputs,
    /// The type of keys and values.
    pub(crate) kv: DType,
    /// With what a drafter goes on from ([`FINAL_NORM`]) as a second output.
    pub(crate) hidden: bool,
    /// With soft tokens among the tokens.
    pub(crate) soft: bool,
}

impl GraphKey {
    /// A graph for `want` over text, with caches of `kv` or without.
    pub(crate) fn new(resident: bool, want: Outputs, kv: DType) -> Self {
        Self { resident, want, kv, hidden: false, soft: false }
    }

    /// The key under which the graph is kept.
    fn settled(self) -> Self {
        let want = if self.want == Outputs::Each { Outputs::All } else { self.want };
        Self { want, hidden: self.hidden && self.resident && want != Outputs::Nothing, ..self }
    }
}

/// The graphs of a model, built when they are first needed.
pub(crate) struct ModelGraphs {
    pub(crate) config: GemmaConfig,
    pub(crate) weights: WeightMap,
    flow: Option<FlowHook>,
    /// True if the tables that each layer has of its own stay on the host.
    pub(crate) host_tables: bool,
    /// Most tokens of a picture whose tokens see each other.
    longest_picture: usize,
    built: Mutex<BTreeMap<GraphKey, Arc<BuiltModel>>>,
}

impl ModelGraphs {
    /// Takes all that is left in the loader. The weights decide if the head is the embedding.
    pub(crate) fn new(mut config: GemmaConfig, loader: &mut dyn WeightLoader, flow: Option<FlowHook>) -> Result<Self> {
        config.validate()?;
        config.settle_head(loader)?;
        let weights = WeightMap::take_all(loader)?.kept();
        Ok(Self { config, weights, flow, host_tables: false, longest_picture: 0, built: Mutex::default() })
    }

    /// The same model with the tables that each layer has of its own on the host.
    pub(crate) fn with_host_tables(self) -> Self {
        let host_tables = self.config.per_layer_input.is_some();
        Self { host_tables, built: Mutex::default(), ..self }
    }

    /// The same model for pictures of at most so many tokens.
    pub(crate) fn with_longest_picture(self, tokens: usize) -> Self {
        Self { longest_picture: tokens, ..self }
    }

    /// Most tokens of a picture; `None` where its tokens do not see each other, so that any number goes.
    pub(crate) fn longest_picture(&self) -> Option<usize> {
        (self.config.bidirectional_pictures != BidirectionalPictures::Never).then_some(self.longest_picture)
    }

    /// Most tokens of a run where runs of text have at most `chunk`: a picture is run whole.
    pub(crate) fn longest_run(&self, chunk: usize) -> usize {
        self.longest_picture().map_or(chunk, |tokens| chunk.max(tokens))
    }

    /// Warns of weights that the model does not use and that are not known to be of no use.
    ///
    /// # Errors
    /// As [`built`](Self::built).
    pub(crate) fn tell_unused(&self) -> Result<()> {
        let built = self.built(true, Outputs::All, DType::F32)?;
        let used: BTreeSet<&str> = built.params.values().map(Tensor::name).collect();
        self.config.tell_unused(self.weights.remaining_keys().into_iter().filter(|key| !used.contains(key.as_str())));
        Ok(())
    }

    /// A weight by its position.
    pub(crate) fn weight(&self, position: WeightPosition) -> Result<Tensor> {
        let found = self.built(true, Outputs::All, DType::F32)?.params.get(&position.to_string()).cloned();
        found.ok_or_else(|| Error::Weight(WeightError::Missing { name: position.to_string(), nearest: None }))
    }

    /// The graph for `want` over text, with caches of `kv` or without.
    pub(crate) fn built(&self, resident: bool, want: Outputs, kv: DType) -> Result<Arc<BuiltModel>> {
        self.built_for(GraphKey::new(resident, want, kv))
    }

    /// The graph of `key`.
    pub(crate) fn built_for(&self, key: GraphKey) -> Result<Arc<BuiltModel>> {
        let key = key.settled();
        let GraphKey { resident, want, kv, hidden, soft } = key;
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = built.get(&key) {
            return Ok(found.clone());
        }
        let flow = if resident { GemmaFlow::resident(&self.config) } else { GemmaFlow::new(&self.config).dynamic_seq() };
        let flow = match &self.flow {
            Some(change) => guarded(|| Ok(change(flow)))?,
            None => flow,
        };
        let flow = flow.host_tables(self.host_tables).soft_tokens(soft);
        if flow.has_profile() {
            let advice = "give it to the generator: GeneratorOptions::prefill_profile and decode_profile";
            return Err(Error::Builder(format!("a profile has no effect in with_flow; {advice}")));
        }
        let precision = Precision { kv, ..Precision::default() };
        let flow = flow.profile(CompileProfile { precision, ..CompileProfile::default() });
        let flow = match want {
            Outputs::Nothing => flow.hidden_only(),
            Outputs::Last => flow.last_token_logits(),
            Outputs::All | Outputs::Each => flow.lm_head(),
        };
        let made = guarded(|| flow.emit(&mut self.weights.clone()))?;
        let made = Arc::new(if hidden { made.with_extra_hir_outputs([FINAL_NORM])? } else { made });
        check_inputs(&made.graph)?;
        built.insert(key, made.clone());
        Ok(made)
    }

    /// The id by which the tables' rows of soft tokens are looked up.
    pub(crate) fn pad(&self) -> u32 {
        self.config.pad_token_id.unwrap_or(0)
    }

    /// Rows of a sliding layer's ring where runs have at most `chunk` tokens.
    pub(crate) fn ring(&self, chunk: usize) -> Result<usize> {
        Ok(self.window()?.unwrap_or(1) + self.longest_run(chunk))
    }

    /// The largest window of any layer, in positions; `None` where every layer sees everything.
    pub(crate) fn window(&self) -> Result<Option<usize>> {
        let built = self.built(true, Outputs::All, DType::F32)?;
        let window = |node: &Node| match &node.op {
            Op::Input(Input { role: Role::Visible { mask: MaskKind::SlidingWindow(window), .. }, .. }) => Some(*window),
            _ => None,
        };
        Ok(built.graph.nodes().iter().filter_map(window).max())
    }
}

/// Runs a build that a caller's hook or stage takes part in: its panic is an error.
fn guarded<T>(build: impl FnOnce() -> Result<T>) -> Result<T> {
    let built = catch_unwind(AssertUnwindSafe(build));
    built.unwrap_or_else(|panic| Err(Error::panicked("a hook or stage of the flow", panic.as_ref())))
}

/// Refuses inputs that a hook added: the generator has no values for them.
fn check_inputs(graph: &Graph) -> Result<()> {
    let own = |input: &&Input| !["input_ids", "last_token_idx"].contains(&input.name.as_str());
    let given = graph.inputs().map(|(_, input)| input).filter(|input| matches!(input.role, Role::Caller | Role::Optional));
    match given.filter(own).map(|input| &input.name).next() {
        Some(name) => {
            let advice = "use a stateless graph, or a weight of the stage's own (EmitContext::own_weight)";
            Err(Error::Builder(format!("the flow has the input '{name}', for which the generator has no value; {advice}")))
        }
        None => Ok(()),
    }
}
