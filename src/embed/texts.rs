//! Texts instead of token ids (feature `tokenizer`).

use super::{EmbeddingTask, GemmaEmbedder};
use crate::{Error, Result, text::Tokenizer};

impl GemmaEmbedder {
    /// The unit vectors of texts, in their order: each after the task's prompt and between the tokens that the tokenizer puts around a
    /// text ([`Tokenizer::encode_framed`]; EmbeddingGemma's puts BOS and EOS there), as [`embed`](Self::embed) says.
    ///
    /// # Errors
    /// As [`embed`](Self::embed), where a text without a character is empty whatever its prompt; [`Error::Embedding`] as
    /// [`TaskPrompts::prompt`](super::TaskPrompts::prompt); [`Error::Tokenizer`].
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

    /// The token ids that [`embed_texts`](Self::embed_texts) runs.
    ///
    /// # Errors
    /// [`Error::EmptyText`]; [`Error::Embedding`] as [`TaskPrompts::prompt`](super::TaskPrompts::prompt); [`Error::Tokenizer`].
    pub fn tokens<T: AsRef<str>>(&self, tokenizer: &Tokenizer, task: &EmbeddingTask, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        let prompt = self.prompts().prompt(task)?;
        let tokens = |(index, text): (usize, &T)| match text.as_ref() {
            "" => Err(Error::EmptyText { index }),
            text => tokenizer.encode_framed(&format!("{prompt}{text}")),
        };
        texts.iter().enumerate().map(tokens).collect()
    }
}
