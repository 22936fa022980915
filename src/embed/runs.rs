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
    error::{EmbeddingError, GraphError},
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow, MediaTokens},
    generate::{CancelToken, FlowHook},
    ir::{DimBinding, sym},
    profile::CompileProfile,
    prompt::{Modality, Prompt},
    runtime::{
        CacheStats, CompileOptions, CompiledGraph, Lru, RunInput, RunTokens, Running, ScratchPool, Session, SessionWeights,
    },
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
    #[cfg(any(feature = "audio", feature = "vision"))]
    pub(super) towers: super::towers::Towers,
    pub(super) runs: Mutex<Runs>,
}

/// What a graph, or its compiled form, is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Room {
    /// Texts of a run.
    pub(super) texts: usize,
    /// Most tokens of each.
    pub(super) tokens: usize,
    /// With soft tokens among them.
    pub(super) soft: bool,
}

/// Graphs by their number of texts and whether there are soft tokens, and their compiled forms. All share scratch: a
/// run is submitted together with the copy of its result, before the next one begins.
pub(super) struct Runs {
    graphs: BTreeMap<(usize, bool), Arc<BuiltModel>>,
    compiled: Lru<Room, CompiledGraph>,
    scratch: ScratchPool,
    compiles: u64,
}

impl Runs {
    /// With the graph for one text without soft tokens.
    pub(super) fn new(single: BuiltModel) -> Self {
        let graphs = BTreeMap::from([((1, false), Arc::new(single))]);
        Self { graphs, compiled: Lru::new(KEPT), scratch: ScratchPool::default(), compiles: 0 }
    }
}

/// The graph for so much.
pub(super) fn build(
    config: &GemmaConfig,
    Room { texts, tokens, soft }: Room,
    flow: Option<&FlowHook>,
    loader: &mut dyn WeightLoader,
) -> Result<BuiltModel> {
    let stock = GemmaFlow::new(config).batch(texts).dynamic_seq().seq(tokens).soft_tokens(soft).sentence_vectors();
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
    pub(super) async fn vectors(&self, texts: &[Prompt], cancel: &CancelToken) -> Result<Vec<Vec<f32>>> {
        let lengths: Vec<usize> = texts.iter().map(Prompt::len).collect();
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
    pub(super) fn check(&self, index: usize, text: &Prompt) -> Result<()> {
        let most = self.most;
        if text.is_empty() {
            return Err(Error::Embedding(EmbeddingError::EmptyText { index }));
        }
        if text.len() > most {
            return Err(Error::Embedding(EmbeddingError::TextTooLong { index, tokens: text.len(), most }));
        }
        text.soft_tokens().try_for_each(|(_, soft)| self.media_ids(soft.modality()).map(drop))?;
        text.check(self.config.vocab_size, self.config.hidden_size)
    }

    /// The ids around the soft tokens of a picture or a sound, which a model of texts alone does not have.
    pub(super) fn media_ids(&self, modality: Modality) -> Result<MediaTokens> {
        let multimodal = &self.config.multimodal;
        let (ids, key) = match modality {
            Modality::Image => (multimodal.image, "image_token_id"),
            Modality::Audio => (multimodal.audio, "audio_token_id"),
        };
        let what = modality.name();
        let missing =
            || Error::Unsupported(format!("a {what} in a text of a model whose configuration has no {key}, one of texts,"));
        ids.ok_or_else(missing)
    }

    /// Begins the run of a batch, padded on the right.
    fn begin(&self, batch: &Batch, texts: &[Prompt], cancel: &CancelToken) -> Result<Running> {
        let Batch { tokens, room, .. } = *batch;
        let count = batch.texts.len();
        let filler = self.config.pad_token_id.filter(|id| (*id as usize) < self.config.vocab_size).unwrap_or(0);
        let of_texts = || batch.texts.iter().map(|&text| &texts[text]);
        let soft = of_texts().any(|text| text.soft_tokens().next().is_some());
        let (mut ids, mut live, mut rows, mut is_text) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for text in of_texts() {
            let run = RunTokens { tokens: text.tokens(), start: 0, soft: text.spans() };
            let end = ids.len() + tokens;
            ids.extend_from_slice(&run.ids(filler));
            live.resize(ids.len(), 1.0);
            ids.resize(end, filler);
            live.resize(end, 0.0);
            if soft {
                rows.extend(run.soft_rows(tokens, self.config.hidden_size));
                is_text.extend(run.is_text(tokens));
            }
        }
        let mut inputs = vec![("input_ids", RunInput::U32(&ids))];
        if count > 1 {
            inputs.push(("attention_mask", RunInput::F32(&live)));
        }
        if soft {
            inputs.extend([("soft_tokens", RunInput::F32(&rows)), ("is_text", RunInput::F32(&is_text))]);
        }
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        self.compiled(&mut runs, Room { texts: count, tokens: room, soft }, cancel)?.begin(&inputs, cancel)
    }

    fn compiled<'r>(&self, runs: &'r mut Runs, room: Room, cancel: &CancelToken) -> Result<&'r mut CompiledGraph> {
        let Runs { compiled, graphs, scratch, compiles, .. } = runs;
        compiled.get_or_try_insert(&room, || {
            let kind = (room.texts, room.soft);
            let graph = match graphs.get(&kind) {
                Some(graph) => graph.clone(),
                None => {
                    let longest = Room { tokens: self.most, ..room };
                    let built = build(&self.config, longest, self.flow.as_ref(), &mut self.weights.clone())?;
                    graphs.entry(kind).or_insert(Arc::new(built)).clone()
                }
            };
            let dims = DimBinding::new().with(sym::SEQ, room.tokens);
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
