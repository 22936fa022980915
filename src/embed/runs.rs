//! The model behind a handle, and its compiled runs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    TaskPrompts,
    batches::{Batch, batches},
};
use crate::{
    Error, Result,
    error::{EmbeddingError, GraphError, PromptError},
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow},
    generate::{CancelToken, FlowHook},
    ir::{DimBinding, sym},
    profile::CompileProfile,
    runtime::{CacheStats, CompileOptions, CompiledGraph, Lru, RunInput, Running, ScratchPool, Session, SessionWeights},
    weights::{WeightLoader, WeightMap},
};

/// Most compiled runs that are kept.
const KEPT: usize = 16;

/// The work that is cancelled, as errors name it.
const EMBEDDING: &str = "the embedding of texts";

/// Runs that may be under way at once: the host prepares one while the device computes another.
const UNDER_WAY: usize = 2;

/// The part that all handles of a model share.
pub(super) struct EmbedModel {
    pub(super) config: GemmaConfig,
    pub(super) prompts: TaskPrompts,
    /// Most tokens of a text.
    pub(super) most: usize,
    /// True if a longer text is cut.
    #[cfg(feature = "tokenizer")]
    pub(super) truncate: bool,
    /// Most tokens of a run of several texts.
    pub(super) run_tokens: usize,
    pub(super) flow: Option<FlowHook>,
    pub(super) profile: CompileProfile,
    /// Handles, from which graphs for other numbers of texts are built.
    pub(super) weights: WeightMap,
    pub(super) session: Session,
    pub(super) resident: SessionWeights,
    pub(super) runs: Mutex<Runs>,
}

/// Graphs by their number of texts, and their compiled forms by that and the tokens that they have room for. All share
/// scratch: a run is submitted together with the copy of its result, before the next one begins.
pub(super) struct Runs {
    graphs: BTreeMap<usize, Arc<BuiltModel>>,
    compiled: Lru<(usize, usize), CompiledGraph>,
    scratch: ScratchPool,
    compiles: u64,
}

impl Runs {
    /// With the graph for one text.
    pub(super) fn new(single: BuiltModel) -> Self {
        let graphs = BTreeMap::from([(1, Arc::new(single))]);
        Self { graphs, compiled: Lru::new(KEPT), scratch: ScratchPool::default(), compiles: 0 }
    }
}

/// The graph for `texts` texts of up to `most` tokens.
pub(super) fn build(
    config: &GemmaConfig,
    (texts, most): (usize, usize),
    flow: Option<&FlowHook>,
    loader: &mut dyn WeightLoader,
) -> Result<BuiltModel> {
    let stock = GemmaFlow::new(config).batch(texts).dynamic_seq().seq(most).sentence_vectors();
    let flow = match flow {
        Some(change) => change(stock),
        None => stock,
    };
    if flow.has_profile() {
        return Err(Error::Builder("a profile has no effect in with_flow; give it as EmbedderOptions::profile".into()));
    }
    flow.build(loader)
}

impl EmbedModel {
    pub(super) fn adapter(&self) -> Option<&str> {
        self.session.context().map(|context| context.capabilities().adapter.as_str())
    }

    pub(super) fn stats(&self) -> CacheStats {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let own: u64 = runs.compiled.values().map(CompiledGraph::own_bytes).sum();
        CacheStats { compiles: runs.compiles, bytes: own + runs.scratch.bytes(), ..runs.compiled.stats() }
    }

    /// The vectors of texts that were checked, not yet unit vectors, unless `cancel` is cancelled before they are
    /// there.
    pub(super) async fn vectors(&self, texts: &[&[u32]], cancel: &CancelToken) -> Result<Vec<Vec<f32>>> {
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut under_way: VecDeque<(Batch, Running)> = VecDeque::new();
        for batch in batches(&lengths, self.run_tokens, self.most) {
            cancel.check(EMBEDDING)?;
            if under_way.len() == UNDER_WAY {
                finish(&mut under_way, &mut vectors, cancel).await?;
            }
            let running = self.begin(&batch, texts, cancel)?;
            under_way.push_back((batch, running));
        }
        while !under_way.is_empty() {
            finish(&mut under_way, &mut vectors, cancel).await?;
        }
        Ok(vectors)
    }

    /// Checks that a text can be run.
    pub(super) fn check(&self, index: usize, text: &[u32]) -> Result<()> {
        let most = self.most;
        let vocab_size = self.config.vocab_size;
        if text.is_empty() {
            return Err(Error::Embedding(EmbeddingError::EmptyText { index }));
        }
        if text.len() > most {
            return Err(Error::Embedding(EmbeddingError::TextTooLong { index, tokens: text.len(), most }));
        }
        match text.iter().position(|token| *token as usize >= vocab_size) {
            Some(at) => Err(Error::Prompt(PromptError::TokenOutOfRange { token: text[at], index: at, vocab_size })),
            None => Ok(()),
        }
    }

    /// Begins the run of a batch, padded on the right.
    fn begin(&self, batch: &Batch, texts: &[&[u32]], cancel: &CancelToken) -> Result<Running> {
        let count = batch.texts.len();
        let tokens = batch.tokens;
        let filler = self.config.pad_token_id.filter(|id| (*id as usize) < self.config.vocab_size).unwrap_or(0);
        let mut ids = vec![filler; count * tokens];
        let mut live = vec![0.0; count * tokens];
        for (row, text) in batch.texts.iter().map(|&text| texts[text]).enumerate() {
            ids[row * tokens..][..text.len()].copy_from_slice(text);
            live[row * tokens..][..text.len()].fill(1.0);
        }
        let inputs = [("input_ids", RunInput::U32(&ids)), ("attention_mask", RunInput::F32(&live))];
        let given = if count > 1 { &inputs[..] } else { &inputs[..1] };
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        self.compiled(&mut runs, (count, batch.room), cancel)?.begin(given, cancel)
    }

    fn compiled<'r>(
        &self,
        runs: &'r mut Runs,
        (texts, tokens): (usize, usize),
        cancel: &CancelToken,
    ) -> Result<&'r mut CompiledGraph> {
        let Runs { compiled, graphs, scratch, compiles, .. } = runs;
        compiled.get_or_try_insert(&(texts, tokens), || {
            let graph = match graphs.get(&texts) {
                Some(graph) => graph.clone(),
                None => {
                    let built = build(&self.config, (texts, self.most), self.flow.as_ref(), &mut self.weights.clone())?;
                    graphs.entry(texts).or_insert(Arc::new(built)).clone()
                }
            };
            let dims = DimBinding::new().with(sym::SEQ, tokens);
            let options = CompileOptions::default().with_dims(dims).with_weights(&self.resident).with_profile(&self.profile);
            let compiled = self.session.compile_into(&graph.graph, &options, scratch, cancel)?;
            *compiles += 1;
            Ok(compiled)
        })
    }
}

/// Waits for the run that was begun first and puts its vectors where their texts are.
async fn finish(under_way: &mut VecDeque<(Batch, Running)>, vectors: &mut [Vec<f32>], cancel: &CancelToken) -> Result<()> {
    let Some((batch, running)) = under_way.pop_front() else { return Ok(()) };
    let outputs = running.outputs(cancel).await?;
    let missing = || Error::Graph(GraphError::Malformed { graph: "gemma".into(), problem: "it has no output 'sentence'".into() });
    let (_, sentence) = outputs.iter().find(|(name, _)| name == "sentence").ok_or_else(missing)?;
    let values = sentence.to_f32()?;
    let width = values.len() / batch.texts.len();
    for (text, vector) in batch.texts.iter().zip(values.chunks_exact(width.max(1))) {
        vectors[*text] = vector.to_vec();
    }
    Ok(())
}
