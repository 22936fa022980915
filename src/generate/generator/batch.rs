//! One step of several generators.

use super::GemmaGenerator;
use crate::{
    Error, Result,
    generate::{SampleOpts, Turn, batch::decode_batch},
    platform,
    runtime::Wait,
};

impl GemmaGenerator {
    /// The next token of each generator, as [`step_cached`](Self::step_cached) would give it with its own of `opts`.
    /// Generators of one model ([`share_weights`](Self::share_weights), [`fork`](Self::fork)) that are compiled alike
    /// take the step together, up to 32 in a pass that reads the weights once for all of them. They take it one after
    /// the other on the reference, with a flow whose steps the device cannot take together, and with
    /// [`deterministic`](super::GeneratorOptions::deterministic). Their lengths and options may differ, and which of
    /// them take a step together may change with every step.
    ///
    /// Rows that a generator lacks, such as those of its prompt, are computed before, for one generator after the
    /// other.
    ///
    /// # Errors
    /// Each generator has its own result, an error as [`step_cached`](Self::step_cached) gives it; what befalls the
    /// device is an error of all whose step it was, and so is [`Error::Cancelled`] where one of them
    /// [is](Self::set_cancel). A generator with an error keeps its history, and may go on. [`Error::Option`] for all
    /// where there are not as many `opts` as generators.
    pub fn decode_batch(generators: &mut [&mut GemmaGenerator], opts: &[SampleOpts]) -> Vec<Result<u32>> {
        let count = generators.len();
        platform::wait_each("a step of several generators", count, Self::decode_batch_by(generators, opts, Wait::Thread))
    }

    /// As [`decode_batch`](Self::decode_batch), without blocking the thread longer than a submit takes; needs no
    /// particular executor. Dropped before it is done, it leaves histories and rows usable.
    ///
    /// # Errors
    /// As [`decode_batch`](Self::decode_batch).
    pub async fn decode_batch_async(generators: &mut [&mut GemmaGenerator], opts: &[SampleOpts]) -> Vec<Result<u32>> {
        Self::decode_batch_by(generators, opts, Wait::Task).await
    }

    pub(crate) async fn decode_batch_by(
        generators: &mut [&mut GemmaGenerator],
        opts: &[SampleOpts],
        wait: Wait,
    ) -> Vec<Result<u32>> {
        if generators.len() != opts.len() {
            let expected = format!("{}, one for each generator", generators.len());
            let wrong =
                |_: &_| Err(Error::Option { option: "decode_batch: opts", found: opts.len(), expected: expected.clone() });
            return generators.iter().map(wrong).collect();
        }
        let mut results: Vec<Result<u32>> = Vec::with_capacity(generators.len());
        let mut turns = Vec::new();
        for (generator, opts) in generators.iter_mut().zip(opts) {
            // A place for the token, if the generator is ready for it.
            results.push(generator.ready_for_step_together(opts, wait).await.map(|()| 0));
            if let Some(Ok(_)) = results.last() {
                let GemmaGenerator { engine, history, .. } = &mut **generator;
                turns.push(Turn { engine, history: history.tokens(), opts, alone: history.is_aligned() });
            }
        }
        let mut tokens = decode_batch(&mut turns, wait).await.into_iter();
        for (result, generator) in results.iter_mut().zip(generators) {
            if result.is_err() {
                continue;
            }
            if let Some(token) = tokens.next() {
                *result = token.inspect(|token| generator.stepped(*token));
            }
        }
        results
    }

    /// Computes all rows but that of the last token, and makes room for that.
    async fn ready_for_step_together(&mut self, opts: &SampleOpts, wait: Wait) -> Result<()> {
        self.engine.awaited(wait).await?;
        while !self.ready_but_for_the_last(opts)? {
            self.engine.awaited(wait).await?;
        }
        self.will_write(self.history.len());
        Ok(())
    }

    fn stepped(&mut self, token: u32) {
        self.history.wrote(self.history.len());
        self.history.push(token);
    }
}
