//! The kernels of the first runs, compiled while the weights travel.

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::Poll,
};

use super::model::{argmax, options};
use crate::{
    Error, Result,
    flow::BuiltModel,
    generate::{ModelGraphs, Outputs, Profiles, SMALLEST_BUCKET},
    ir::{
        DimBinding,
        kernel::{Kernel, Target},
        sym,
    },
    lower::{Together, lower},
    platform,
    runtime::{GpuContext, PipelineCache, first_use},
};

/// New tokens of the prompt that is prepared for: a short one, whose first token should come soon.
const PROMPT: usize = 16;

/// Kernels between two looks at whether the upload has failed. So many are in the queue of a driver that compiles
/// there: it ends when they have compiled.
const COMPILED_AT_ONCE: usize = 4;

/// The kernels of a short prompt and of a greedy step after it, where runs have at most `chunk` tokens and rings `ring`
/// rows. A plan that cannot be lowered at these sizes is left out: the sizes that are asked for later may fit. For an
/// adapter that computes on the CPU the prompt alone: such drivers compile in their queue, one kernel after the other,
/// and the first token should not wait for the kernels of the second.
pub(super) fn kernels(
    model: &ModelGraphs,
    context: &GpuContext,
    target: &Target,
    profiles: &Profiles,
    [chunk, ring]: [usize; 2],
) -> Result<Vec<Kernel>> {
    let built: &BuiltModel = &*model.built(true, Outputs::Last, profiles.kv())?;
    let together = Together::of(&built.graph);
    let mut kernels = Vec::new();
    for tokens in [PROMPT.min(chunk), 1].into_iter().take(if target.software { 1 } else { 2 }) {
        let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, SMALLEST_BUCKET).with(sym::RING, ring);
        let options = options(profiles.of(true, tokens), context.capabilities());
        if let Ok(plan) = lower(&built.graph, &binding, target, &options, &together) {
            let sampler = argmax(1, model.config.vocab_size, &plan, target);
            kernels.extend(plan.dispatches.into_iter().chain(sampler.dispatches).map(|dispatch| dispatch.kernel));
        }
    }
    Ok(kernels)
}

fn stopped(failed: &AtomicBool) -> Result<()> {
    if failed.load(Relaxed) { Err(Error::Cancelled("compiling beside the upload")) } else { Ok(()) }
}

/// Runs `upload` while another thread compiles `kernels`; ends when both have, or soon after an upload that failed.
/// Where no thread may wait they are found, and the device is asked for them, when the upload first waits. A kernel that
/// does not compile is reported by the run that needs it; in a browser, which reports it without a call to blame, the load
/// fails.
pub(super) async fn beside<T>(
    pipelines: &PipelineCache,
    kernels: impl FnOnce() -> Result<Vec<Kernel>>,
    upload: impl Future<Output = Result<T>>,
) -> Result<T> {
    if !pipelines.context().blocks() {
        // A browser compiles in another process; asking for a pipeline returns at once.
        return after_first_poll(upload, || drop(kernels().and_then(|kernels| pipelines.prepare(&kernels)))).await;
    }
    let kernels = kernels()?;
    if kernels.is_empty() {
        return upload.await;
    }
    let failed = &AtomicBool::new(false);
    let kernels = pipelines.distinct(&kernels);
    let software = pipelines.context().capabilities().target().software;
    let mut queued = None;
    let mut compiled = move |part: &[&Kernel]| {
        pipelines.prepare(part.iter().copied())?;
        let context = pipelines.context();
        if let Some(earlier) = &queued {
            context.wait_while(Some(earlier), "compiling", &mut || stopped(failed))?;
        }
        queued = if software { Some(first_use(pipelines, part)?) } else { None };
        stopped(failed)
    };
    let parts = &mut kernels.chunks(COMPILED_AT_ONCE);
    let compile = move || {
        parts.all(|part| compiled(part).is_ok());
    };
    let upload = async { upload.await.inspect_err(|_| failed.store(true, Relaxed)) };
    platform::beside(compile, || platform::wait("an upload", upload))
}

/// What `future` resolves to. `work` is done after it was first polled, unless it was ready then.
async fn after_first_poll<T>(future: impl Future<Output = T>, work: impl FnOnce()) -> T {
    let mut future = pin!(future);
    if let Poll::Ready(value) = poll_fn(|task| Poll::Ready(future.as_mut().poll(task))).await {
        return value;
    }
    work();
    future.await
}
