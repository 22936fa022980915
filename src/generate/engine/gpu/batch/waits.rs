//! What a step of several sequences waits for: until any of them is cancelled.

use std::{sync::Arc, time::Duration};

use async_lock::MutexGuard;

use super::{Batches, GpuModel, GpuTurn, STEP};
use crate::{
    Result,
    generate::CancelToken,
    platform::{Instant, pause, would_block},
    runtime::{GpuContext, Wait, wgpu},
};

/// Between two looks at whether another step of several sequences has ended.
const LOOK: Duration = Duration::from_millis(1);

fn tokens(turns: &[GpuTurn<'_>]) -> Vec<CancelToken> {
    turns.iter().map(|turn| turn.engine.cancel.clone()).collect()
}

/// Fails where any of the sequences is cancelled.
pub(super) fn go_on(turns: &[GpuTurn<'_>]) -> Result<()> {
    turns.iter().try_for_each(|turn| turn.engine.cancel.check(STEP))
}

impl GpuModel {
    /// The plans for several sequences, once nobody else runs them.
    pub(super) async fn locked_batches(&self, turns: &[GpuTurn<'_>], wait: Wait) -> Result<MutexGuard<'_, Batches>> {
        match wait {
            Wait::Thread => self.locked_in_time(turns),
            Wait::Task => CancelToken::unless_any(&tokens(turns), STEP, self.batches.lock()).await,
        }
    }

    /// Has a time limit: a task that holds them may need this very thread to go on.
    fn locked_in_time(&self, turns: &[GpuTurn<'_>]) -> Result<MutexGuard<'_, Batches>> {
        let deadline = self.context.deadline();
        loop {
            match self.batches.try_lock() {
                Some(batches) => return Ok(batches),
                None if !self.context.blocks() => return Err(would_block(STEP)),
                None if Instant::now() > deadline => return Err(self.context.timed_out(STEP)),
                None => pause(LOOK),
            }
            go_on(turns)?;
        }
    }
}

/// Lets the task wait, where it is the task that waits.
pub(super) async fn awaited(
    context: &Arc<GpuContext>,
    wait: Wait,
    submission: &wgpu::SubmissionIndex,
    turns: &[GpuTurn<'_>],
) -> Result<()> {
    match wait {
        Wait::Thread => Ok(()),
        Wait::Task => CancelToken::unless_any(&tokens(turns), STEP, context.waited(submission.clone(), STEP)).await?,
    }
}
