//! Where the time of a step goes.

use super::GemmaGenerator;
use crate::{
    Result,
    generate::SampleOpts,
    platform,
    runtime::{Clock, RunTimes, Wait},
};

impl GemmaGenerator {
    /// Times each dispatch of the run that [`step_cached`](Self::step_cached) would end with now, greedily: a decode
    /// step where all tokens but the last are cached, else the last chunk of the prefill, whose earlier chunks are run
    /// first. Runs it `reps` times, and once before that to warm up; history and rows are afterwards as they were
    /// before the chunk.
    ///
    /// `clock` is the clock to time by; `None` takes the best that the device has. Some clocks serialise dispatches
    /// that overlap on the device: [`RunTimes::whole`] is what the run takes undisturbed.
    ///
    /// # Errors
    /// As [`step_cached`](Self::step_cached); [`Error::Unsupported`](crate::Error::Unsupported) on the reference, and
    /// for a clock that the device does not have.
    pub fn time_dispatches(&mut self, reps: usize, clock: Option<Clock>) -> Result<RunTimes> {
        self.check_step("time_dispatches", &SampleOpts::greedy())?;
        self.stop_ahead();
        self.rewind_rows(self.history.len() - 1)?;
        platform::wait("a run of the model", self.fill_all_but_the_last_chunk(Wait::Thread))?;
        self.will_write(self.history.len());
        self.engine.time_run(self.history.run(self.history.len()), reps, clock)
    }
}
