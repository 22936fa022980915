//! One step of several sequences.

use super::{
    Engine, SampleOpts,
    engine::{GpuEngine, GpuTurn},
};
use crate::{
    Error, Result,
    error::{DeviceError, GraphError},
    runtime::{RunTokens, Wait},
};

/// Most sequences of one pass.
const MOST_BATCHED: usize = 32;

/// One sequence's part in a step of several.
pub(crate) struct Turn<'a> {
    /// Its engine: the rows of all tokens but the last are in its caches, which have room for that of the last.
    pub(crate) engine: &'a mut Engine,
    /// Its tokens, one at least.
    pub(crate) history: &'a [u32],
    /// How the next one is chosen.
    pub(crate) opts: &'a SampleOpts,
    /// True if it takes its step alone, so that its numbers do not depend on the other sequences of a step.
    pub(crate) alone: bool,
}

/// For each sequence the token that follows its history: sequences of one model in passes of up to [`MOST_BATCHED`],
/// where the device can; all others one after the other. An error of one sequence alone is its own result.
pub(crate) async fn decode_batch(turns: &mut [Turn<'_>], wait: Wait) -> Vec<Result<u32>> {
    let mut results: Vec<Option<Result<u32>>> = turns.iter().map(|_| None).collect();
    for group in groups(turns) {
        let part = turns.iter_mut().enumerate().filter(|(index, _)| group.contains(index)).map(|(_, turn)| turn);
        let mut part: Vec<&mut Turn<'_>> = part.collect();
        let together = if part.len() > 1 { on_device(&mut part, wait).await } else { None };
        let stepped = match together {
            Some(stepped) => stepped,
            None => one_by_one(&mut part, wait).await,
        };
        group.into_iter().zip(stepped).for_each(|(index, result)| results[index] = Some(result));
    }
    let missing = || {
        Err(Error::Graph(GraphError::Malformed { graph: "gemma_resident".into(), problem: "a sequence was in no step".into() }))
    };
    results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
}

/// The indices of those that go together, in equal parts of at most [`MOST_BATCHED`].
fn groups(turns: &[Turn<'_>]) -> Vec<Vec<usize>> {
    let mut kinds: Vec<Vec<usize>> = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        match kinds.iter_mut().find(|kind| go_together(&turns[kind[0]], turn)) {
            Some(kind) => kind.push(index),
            None => kinds.push(vec![index]),
        }
    }
    let parts = |mut kind: Vec<usize>| parts_of(kind.len()).map(|size| kind.drain(..size).collect()).collect::<Vec<_>>();
    kinds.into_iter().flat_map(parts).collect()
}

fn go_together(a: &Turn<'_>, b: &Turn<'_>) -> bool {
    let (Engine::Gpu(first), Engine::Gpu(second)) = (&*a.engine, &*b.engine) else { return false };
    !a.alone && !b.alone && first.goes_with(second)
}

/// The sizes of passes for so many sequences: as equal as can be, the largest first.
pub(crate) fn parts_of(sequences: usize) -> impl Iterator<Item = usize> {
    let passes = sequences.div_ceil(MOST_BATCHED);
    (0..passes).map(move |pass| (sequences - pass).div_ceil(passes))
}

/// In one pass; `None` where the device cannot.
async fn on_device(turns: &mut [&mut Turn<'_>], wait: Wait) -> Option<Vec<Result<u32>>> {
    let turns = turns.iter_mut().map(|turn| {
        let Turn { engine: Engine::Gpu(engine), history, opts, .. } = &mut **turn else { return None };
        Some(GpuTurn { engine, history, opts })
    });
    let mut turns = turns.collect::<Option<Vec<_>>>()?;
    match GpuEngine::decode_batch(&mut turns, wait).await {
        Ok(results) => results,
        Err(error) => Some(for_all(error, turns.len())),
    }
}

/// Each alone.
async fn one_by_one(turns: &mut [&mut Turn<'_>], wait: Wait) -> Vec<Result<u32>> {
    let mut results = Vec::with_capacity(turns.len());
    for turn in turns.iter_mut() {
        let Turn { engine, history, opts, .. } = &mut **turn;
        let last = history.len().saturating_sub(1);
        results.push(engine.step(RunTokens::text(&history[last..], last), history, opts, wait).await);
    }
    results
}

/// The error of a pass as that of each of its sequences.
fn for_all(error: Error, sequences: usize) -> Vec<Result<u32>> {
    let again = |error: &Error| match error {
        Error::Device(error) => Error::Device(error.clone()),
        Error::Cancelled(what) => Error::Cancelled(what),
        other => Error::Device(DeviceError::Driver { what: "a step of several sequences".into(), message: other.to_string() }),
    };
    let mut errors: Vec<Result<u32>> = (1..sequences).map(|_| Err(again(&error))).collect();
    errors.push(Err(error));
    errors
}
