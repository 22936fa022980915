//! Texts, pictures and sounds in, unit vectors out: EmbeddingGemma.
//!
//! A model that embeds texts looks both ways, has no caches and no language model's head: a run takes whole texts,
//! several at a time, and gives one vector each. Two vectors' dot product is the cosine between them.
//!
//! ```no_run
//! use gemmaflow::{embed::{EmbeddingTask, GemmaEmbedder}, runtime::Device, text::Tokenizer};
//!
//! # fn main() -> gemmaflow::Result<()> {
//! let model = "models/embeddinggemma-300m";
//! let embedder = GemmaEmbedder::from_path(model, Device::Auto)?;
//! let tokenizer = Tokenizer::from_file(model)?;
//! let query = embedder.embed_texts(&tokenizer, &EmbeddingTask::Query, &["which planet is red?"])?;
//! let lines = ["Venus is like Earth.", "Mars is called the red planet."];
//! let lines = embedder.embed_texts(&tokenizer, &EmbeddingTask::document(), &lines)?;
//! let cosine = |line: &[f32]| line.iter().zip(&query[0]).map(|(a, b)| a * b).sum::<f32>();
//! assert!(cosine(&lines[1]) > cosine(&lines[0]));
//! # Ok(())
//! # }
//! ```

mod batches;
mod load;
mod memory;
mod runs;
mod task;
#[cfg(feature = "tokenizer")]
mod texts;
#[cfg(any(feature = "audio", feature = "vision"))]
mod towers;

use std::sync::Arc;

pub use load::EmbedderOptions;
pub use task::{EmbeddingTask, TaskPrompts};

use self::runs::EmbedModel;
use crate::{
    Error, Result, error::EmbeddingError, gemma::GemmaConfig, generate::CancelToken, platform, prompt::Prompt,
    runtime::CacheStats,
};

/// A model that embeds texts. A handle: clones share the model, and threads may use it at the same time.
#[derive(Clone)]
pub struct GemmaEmbedder {
    model: Arc<EmbedModel>,
    /// Numbers of a vector that are kept.
    dimensions: usize,
    cancel: CancelToken,
}

const _: () = {
    const fn shareable<T: Send + Sync + Clone + 'static>() {}
    shareable::<GemmaEmbedder>();
    shareable::<EmbeddingTask>();
    shareable::<TaskPrompts>();
};

impl GemmaEmbedder {
    /// A handle whose vectors are cut to their first `dimensions` numbers and made unit vectors again (Matryoshka
    /// representations, arXiv 2205.13147). EmbeddingGemma is trained for 768, 512, 256 and 128.
    ///
    /// # Errors
    /// [`Error::Option`] for 0, and for more than the model's vectors have.
    pub fn with_dimensions(self, dimensions: usize) -> Result<Self> {
        let most = self.config().embedding_width();
        if !(1..=most).contains(&dimensions) {
            let expected = format!("1 to {most}, the numbers of the model's vectors");
            return Err(Error::Option { option: "with_dimensions: dimensions", found: dimensions, expected });
        }
        Ok(Self { dimensions, ..self })
    }

    /// A handle whose work ends with [`Error::Cancelled`] when `cancel` is cancelled: within a moment, whatever the
    /// device is at, and without the vectors of any text. Other handles are as they were.
    pub fn with_cancel(self, cancel: CancelToken) -> Self {
        Self { cancel, ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &GemmaConfig {
        &self.model.config
    }

    /// Numbers of a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Most tokens that a text may have.
    pub fn max_tokens(&self) -> usize {
        self.model.most
    }

    /// The prompts that go before texts.
    pub fn prompts(&self) -> &TaskPrompts {
        &self.model.prompts
    }

    /// The adapter's name; `None` on the reference.
    pub fn adapter(&self) -> Option<&str> {
        self.model.adapter()
    }

    /// Counts of the compiled runs, one for each number of texts and rank of lengths; zeros on the reference.
    pub fn run_stats(&self) -> CacheStats {
        self.model.stats()
    }

    /// The unit vectors of texts that are given as token ids, in the order of the texts. The ids are taken as they are:
    /// with BOS, EOS and a prompt where the model wants them (feature `tokenizer`: `embed_texts` adds them).
    ///
    /// A [`Prompt`] may have the soft tokens of pictures and sounds among them, which EmbeddingGemma 2 takes. They see
    /// and are seen as other tokens, and count in the mean.
    ///
    /// Texts of unequal lengths share runs, the shorter ones filled up with padding that no token sees, so that a text
    /// has the same vector, but for rounding, whatever is beside it.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyText`], [`EmbeddingError::TextTooLong`],
    /// [`PromptError::TokenOutOfRange`](crate::error::PromptError::TokenOutOfRange),
    /// [`PromptError::SoftTokens`](crate::error::PromptError::SoftTokens) for rows of another width than the model's,
    /// and [`Error::Unsupported`] for soft tokens of what the model does not take, before anything runs;
    /// [`EmbeddingError::NoDirection`] for a text whose vector is zero or not finite; [`Error::Cancelled`]; errors of the
    /// device.
    pub fn embed<T: Clone + Into<Prompt>>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>> {
        self.embed_blocking(prompts(texts))
    }

    /// [`embed`](Self::embed) without blocking the calling thread while a device computes; needs no particular
    /// executor. On the reference, and where a run is compiled for the first time, the thread that polls does the work.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub async fn embed_async<T: Clone + Into<Prompt>>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>> {
        self.all(prompts(texts)).await
    }

    /// As [`embed`](Self::embed), but a text that cannot be embedded has its own error and the others keep their
    /// vectors. Such a text is empty or too long, or has an unknown token, soft tokens of another model, or a broken
    /// vector.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn embed_each<T: Clone + Into<Prompt>>(&self, texts: &[T]) -> Result<Vec<Result<Vec<f32>>>> {
        self.embed_each_blocking(prompts(texts))
    }

    /// [`embed_each`](Self::embed_each) as [`embed_async`](Self::embed_async).
    ///
    /// # Errors
    /// As [`embed_each`](Self::embed_each).
    pub async fn embed_each_async<T: Clone + Into<Prompt>>(&self, texts: &[T]) -> Result<Vec<Result<Vec<f32>>>> {
        self.each(prompts(texts)).await
    }

    /// Not generic, so that it is compiled with this crate and not again with each one that embeds.
    fn embed_blocking(&self, texts: Vec<Prompt>) -> Result<Vec<Vec<f32>>> {
        platform::wait("embedding", self.all(texts))
    }

    fn embed_each_blocking(&self, texts: Vec<Prompt>) -> Result<Vec<Result<Vec<f32>>>> {
        platform::wait("embedding", self.each(texts))
    }

    async fn all(&self, texts: Vec<Prompt>) -> Result<Vec<Vec<f32>>> {
        texts.iter().enumerate().try_for_each(|(index, text)| self.model.check(index, text))?;
        self.each(texts).await?.into_iter().collect()
    }

    async fn each(&self, texts: Vec<Prompt>) -> Result<Vec<Result<Vec<f32>>>> {
        let checked: Vec<Result<()>> = (0..).zip(&texts).map(|(index, text)| self.model.check(index, text)).collect();
        let fit: Vec<Prompt> = checked.iter().zip(texts).filter(|(own, _)| own.is_ok()).map(|(_, text)| text).collect();
        let mut vectors = self.model.vectors(&fit, &self.cancel).await?.into_iter();
        let vector = |(index, own): (usize, Result<()>)| {
            own?;
            let mut vector = vectors.next().unwrap_or_default();
            shorten(&mut vector, self.dimensions, index)?;
            Ok(vector)
        };
        Ok(checked.into_iter().enumerate().map(vector).collect())
    }
}

impl std::fmt::Debug for GemmaEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GemmaEmbedder")
            .field("arch", &self.config().arch)
            .field("dimensions", &self.dimensions)
            .field("max_tokens", &self.max_tokens())
            .finish_non_exhaustive()
    }
}

fn prompts<T: Clone + Into<Prompt>>(texts: &[T]) -> Vec<Prompt> {
    texts.iter().cloned().map(Into::into).collect()
}

/// Makes the vector of text `index` a unit vector of its first `dimensions` numbers.
fn shorten(vector: &mut Vec<f32>, dimensions: usize, index: usize) -> Result<()> {
    vector.truncate(dimensions);
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return Err(Error::Embedding(EmbeddingError::NoDirection { index, length }));
    }
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    Ok(())
}

#[cfg(test)]
mod tests;
