//! Texts instead of token ids (feature `tokenizer`).

use super::{EmbeddingTask, GemmaEmbedder};
use crate::{Error, Result, error::EmbeddingError, text::Tokenizer};

impl GemmaEmbedder {
    /// The unit vectors of texts, in their order: each after the task's prompt and between the tokens that the
    /// tokenizer puts around a text ([`Tokenizer::encode_framed`]; EmbeddingGemma's puts BOS and EOS there), as
    /// [`embed`](Self::embed) says.
    ///
    /// # Errors
    /// As [`embed`](Self::embed), where a text without a character is empty whatever its prompt;
    /// [`EmbeddingError::Options`] as [`TaskPrompts::prompt`](super::TaskPrompts::prompt); [`Error::Tokenizer`].
    pub fn embed_texts<T: AsRef<str>>(&self, tokenizer: &Tokenizer, task: &EmbeddingTask, texts: &[T]) -> Result<Vec<Vec<f32>>> {
        self.embed(&self.tokens(tokenizer, task, texts)?)
    }

    /// [`embed_texts`](Self::embed_texts) as [`embed_async`](Self::embed_async).
    ///
    /// # Errors
    /// As [`embed_texts`](Self::embed_texts).
    pub async fn embed_texts_async<T: AsRef<str>>(
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
    pub fn embed_texts_each<T: AsRef<str>>(
        &self,
        tokenizer: &Tokenizer,
        task: &EmbeddingTask,
        texts: &[T],
    ) -> Result<Vec<Result<Vec<f32>>>> {
        let prompt = self.prompts().prompt(task)?;
        let mut tokens: Vec<Result<Vec<u32>>> =
            (0..).zip(texts).map(|(index, text)| self.tokens_of(tokenizer, &prompt, index, text.as_ref())).collect();
        // A text without tokens is refused there; its own error takes that one's place.
        let ids: Vec<Vec<u32>> = tokens.iter_mut().map(|own| own.as_mut().map(std::mem::take).unwrap_or_default()).collect();
        let vectors = self.embed_each(&ids)?;
        Ok(tokens.into_iter().zip(vectors).map(|(own, vector)| own.and(vector)).collect())
    }

    /// The token ids that [`embed_texts`](Self::embed_texts) runs; with
    /// [`EmbedderOptions::truncate`](super::EmbedderOptions::truncate) at most [`max_tokens`](Self::max_tokens) of each
    /// text.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyText`]; [`EmbeddingError::Options`] as
    /// [`TaskPrompts::prompt`](super::TaskPrompts::prompt); [`Error::Tokenizer`].
    pub fn tokens<T: AsRef<str>>(&self, tokenizer: &Tokenizer, task: &EmbeddingTask, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        let prompt = self.prompts().prompt(task)?;
        (0..).zip(texts).map(|(index, text)| self.tokens_of(tokenizer, &prompt, index, text.as_ref())).collect()
    }

    fn tokens_of(&self, tokenizer: &Tokenizer, prompt: &str, index: usize, text: &str) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Err(Error::Embedding(EmbeddingError::EmptyText { index }));
        }
        let mut ids = tokenizer.encode_framed(&format!("{prompt}{text}"))?;
        let most = self.max_tokens();
        let end = tokenizer.frame_end();
        if self.model.truncate && ids.len() > most && end < most {
            ids.drain(most - end..ids.len() - end);
        }
        Ok(ids)
    }
}
