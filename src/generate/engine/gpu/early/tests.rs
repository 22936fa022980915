//! What a device that never blocks, as a browser's, does with the kernels of the first runs.

use super::*;
use crate::plan::sampling;

fn argmax_kernels(context: &GpuContext) -> Vec<Kernel> {
    let plan = sampling::argmax(1, 1024, false, &context.capabilities().target());
    plan.dispatches.into_iter().map(|dispatch| dispatch.kernel).collect()
}

#[test]
fn kernels_are_handed_over_once_the_upload_waits() {
    let context = GpuContext::unblocking();
    let pipelines = PipelineCache::new(&context);
    let kernels = argmax_kernels(&context);
    let made = || context.counters().snapshot().pipelines_created;
    let mut seen = Vec::new();
    let upload = poll_fn(|task| {
        seen.push(made());
        if seen.len() > 1 {
            return Poll::Ready(Ok("uploaded"));
        }
        task.waker().wake_by_ref();
        Poll::Pending
    });
    let count = kernels.len() as u64;
    assert_eq!(context.drive(beside(&pipelines, || Ok(kernels), upload)).unwrap(), "uploaded");
    assert_eq!(seen, [0, count]);
}

#[test]
fn an_upload_that_fails_at_once_compiles_nothing() {
    let context = GpuContext::unblocking();
    let pipelines = PipelineCache::new(&context);
    let kernels = argmax_kernels(&context);
    let upload = async { Err::<(), _>(Error::Cancelled("a load")) };
    assert!(matches!(context.drive(beside(&pipelines, || Ok(kernels), upload)), Err(Error::Cancelled("a load"))));
    assert_eq!(context.counters().snapshot().pipelines_created, 0);
}
