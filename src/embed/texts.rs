//! Texts instead of token ids, with pictures and sounds between (feature `tokenizer`).

use super::{EmbeddingTask, GemmaEmbedder};
use crate::{
    Error, Result,
    error::EmbeddingError,
    gemma::MediaTokens,
    prompt::Prompt,
    text::{Content, Part, Tokenizer},
};

impl GemmaEmbedder {
    /// The unit vectors of texts, in their order: each after the task's prompt and between the tokens that the
    /// tokenizer puts around a text ([`Tokenizer::encode_framed`]; EmbeddingGemma's puts BOS and EOS there), as
    /// [`embed`](Self::embed) says.
    ///
    /// A text may be a [`Content`], which has pictures and sounds between its parts: EmbeddingGemma 2 takes them. The
    /// control tokens that the model's processor puts around each are added, and the text between them is as it is
    /// given. Pictures and sounds alone have no prompt of the task, and a space between each two, as in
    /// sentence-transformers. That has no prompt before a text with pictures either: for its vectors take
    /// [`EmbeddingTask::Plain`].
    ///
    /// ```no_run
    /// # #[cfg(feature = "vision")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use gemmaflow::{embed::{EmbeddingTask, GemmaEmbedder}, image::{Image, ImageLimits}, runtime::Device};
    /// use gemmaflow::text::{Content, Tokenizer};
    ///
    /// let model = "models/embeddinggemma-2";
    /// let embedder = GemmaEmbedder::from_path(model, Device::Auto)?;
    /// let tokenizer = Tokenizer::from_file(model)?;
    /// let cat = Image::from_bytes(&std::fs::read("cat.jpg")?, &ImageLimits::default())?;
    /// let cat = embedder.picture(&cat)?;
    /// let documents = [Content::from(cat.clone()), Content::from([cat, "My cat in 2019.".into()]), "A dog.".into()];
    /// let vectors = embedder.embed_texts(&tokenizer, &EmbeddingTask::document(), &documents)?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "vision"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// As [`embed`](Self::embed), where a text without a character is empty whatever its prompt;
    /// [`EmbeddingError::Options`] as [`TaskPrompts::prompt`](super::TaskPrompts::prompt); [`Error::Tokenizer`].
    pub fn embed_texts<T: Clone + Into<Content>>(
        &self,
        tokenizer: &Tokenizer,
        task: &EmbeddingTask,
        texts: &[T],
    ) -> Result<Vec<Vec<f32>>> {
        self.embed(&self.tokens(tokenizer, task, texts)?)
    }

    /// [`embed_texts`](Self::embed_texts) as [`embed_async`](Self::embed_async).
    ///
    /// # Errors
    /// As [`embed_texts`](Self::embed_texts).
    pub async fn embed_texts_async<T: Clone + Into<Content>>(
        &self,
        tokenizer: &Tokenizer,
        task: &EmbeddingTask,
        texts: &[T],
    ) -> Result<Vec<Vec<f32>>> {
        let tokens = self.tokens(tokenizer, task, texts)?;
        self.embed_async(&tokens).await
    }

    /// As [`embed_texts`](Self::embed_texts), but a text that cannot be embedded has its own error and the others keep
    /// their vectors, as in [`embed_each`](Self::embed_each).
    ///
    /// # Errors
    /// [`EmbeddingError::Options`] as [`TaskPrompts::prompt`](super::TaskPrompts::prompt); errors of the device.
    pub fn embed_texts_each<T: Clone + Into<Content>>(
        &self,
        tokenizer: &Tokenizer,
        task: &EmbeddingTask,
        texts: &[T],
    ) -> Result<Vec<Result<Vec<f32>>>> {
        self.embed_each_content(tokenizer, task, &mut contents(texts))
    }

    fn embed_each_content(
        &self,
        tokenizer: &Tokenizer,
        task: &EmbeddingTask,
        texts: &mut dyn Iterator<Item = Content>,
    ) -> Result<Vec<Result<Vec<f32>>>> {
        let prompt = self.prompts().prompt(task)?;
        let mut tokens: Vec<Result<Prompt>> =
            (0..).zip(texts).map(|(index, text)| self.tokens_of(tokenizer, &prompt, index, text)).collect();
        // A text without tokens is refused there; its own error takes that one's place.
        let prompts: Vec<Prompt> = tokens.iter_mut().map(|own| own.as_mut().map(std::mem::take).unwrap_or_default()).collect();
        let vectors = self.embed_each(&prompts)?;
        Ok(tokens.into_iter().zip(vectors).map(|(own, vector)| own.and(vector)).collect())
    }

    /// The tokens that [`embed_texts`](Self::embed_texts) runs; with
    /// [`EmbedderOptions::truncate`](super::EmbedderOptions::truncate) at most [`max_tokens`](Self::max_tokens) of each
    /// text. One with pictures or sounds is never cut.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyText`]; [`EmbeddingError::Options`] as
    /// [`TaskPrompts::prompt`](super::TaskPrompts::prompt); [`Error::Tokenizer`]; [`Error::Unsupported`] for pictures
    /// and sounds that the model does not take.
    pub fn tokens<T: Clone + Into<Content>>(
        &self,
        tokenizer: &Tokenizer,
        task: &EmbeddingTask,
        texts: &[T],
    ) -> Result<Vec<Prompt>> {
        self.tokens_of_each(tokenizer, task, &mut contents(texts))
    }

    fn tokens_of_each(
        &self,
        tokenizer: &Tokenizer,
        task: &EmbeddingTask,
        texts: &mut dyn Iterator<Item = Content>,
    ) -> Result<Vec<Prompt>> {
        let prompt = self.prompts().prompt(task)?;
        (0..).zip(texts).map(|(index, text)| self.tokens_of(tokenizer, &prompt, index, text)).collect()
    }

    fn tokens_of(&self, tokenizer: &Tokenizer, prompt: &str, index: usize, text: Content) -> Result<Prompt> {
        let [front, end] = tokenizer.frame();
        let is_text = !text.text().is_empty();
        let has_media = text.soft_tokens().next().is_some();
        if !is_text && !has_media {
            return Err(Error::Embedding(EmbeddingError::EmptyText { index }));
        }
        let mut tokens = Prompt::from(front);
        // Text up to the next picture or sound, which is encoded at once.
        let mut before = if is_text { prompt.to_string() } else { String::new() };
        for part in text.parts() {
            match part {
                Part::Text(text) => before.push_str(text),
                Part::Video(_) => {
                    let problem = "videos with an embedder; show their frames as pictures by GemmaEmbedder::picture";
                    return Err(Error::Unsupported(problem.into()));
                }
                Part::Soft(soft) => {
                    if !is_text && tokens.soft_tokens().next().is_some() {
                        before.push(' ');
                    }
                    let MediaTokens { begin, end, .. } = self.model.media_ids(soft.modality())?;
                    tokens.push(tokenizer.encode(&std::mem::take(&mut before), false)?);
                    tokens = tokens.then([begin]).then(soft.clone()).then([end]);
                }
            }
        }
        let mut rest = tokenizer.encode(&before, false)?;
        if self.model.truncate && !has_media {
            rest.truncate(self.max_tokens().saturating_sub(front.len() + end.len()));
        }
        Ok(tokens.then(rest).then(end))
    }
}

/// A copy of each text when it is its turn.
fn contents<T: Clone + Into<Content>>(texts: &[T]) -> impl Iterator<Item = Content> {
    texts.iter().cloned().map(Into::into)
}
