//! The purpose of an embedding, and its prompt.

use std::collections::BTreeMap;

use crate::{
    Error, Result,
    error::EmbeddingError,
    files::ModelPath,
    weights::{SentenceSettings, is_gguf},
};

/// The purpose of an embedding. Compare queries with documents, and all other tasks with themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EmbeddingTask {
    /// Nothing is said: the text alone.
    Plain,
    /// A query that looks for documents.
    Query,
    /// A document that queries look for, and its title where it has one.
    Document {
        /// The title.
        title: Option<String>,
    },
    /// A question that looks for documents which answer it.
    QuestionAnswering,
    /// A claim that looks for documents which support or refute it.
    FactChecking,
    /// A text that is sorted into one of several classes.
    Classification,
    /// A text that is grouped with others of its sort.
    Clustering,
    /// A text that is compared with others by its meaning; not for looking up documents.
    SentenceSimilarity,
    /// A description in words that looks for code.
    CodeRetrieval,
    /// The prompt that the checkpoint has under this name.
    Named(String),
}

impl EmbeddingTask {
    /// A document without a title.
    pub const fn document() -> Self {
        EmbeddingTask::Document { title: None }
    }

    /// A document with a title.
    pub fn titled(title: impl Into<String>) -> Self {
        EmbeddingTask::Document { title: Some(title.into()) }
    }

    /// The names that a checkpoint may have for the task's prompt, and the prompt of the model card.
    fn known(&self) -> (&[&'static str], &'static str) {
        match self {
            EmbeddingTask::Plain | EmbeddingTask::Named(_) => (&[], ""),
            EmbeddingTask::Query => (&["query", "Retrieval-query"], "task: search result | query: "),
            EmbeddingTask::Document { .. } => (&["document", "Retrieval-document"], "title: none | text: "),
            EmbeddingTask::QuestionAnswering => (&["QuestionAnswering"], "task: question answering | query: "),
            EmbeddingTask::FactChecking => (&["FactChecking"], "task: fact checking | query: "),
            EmbeddingTask::Classification => (&["Classification"], "task: classification | query: "),
            EmbeddingTask::Clustering => (&["Clustering"], "task: clustering | query: "),
            EmbeddingTask::SentenceSimilarity => (&["STS"], "task: sentence similarity | query: "),
            EmbeddingTask::CodeRetrieval => (&["InstructionRetrieval"], "task: code retrieval | query: "),
        }
    }
}

/// Where a document's prompt has its title.
const NO_TITLE: &str = "title: none";

/// The prompts of a checkpoint by their names there; where it has none for a task, that of EmbeddingGemma's model card
/// holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskPrompts {
    named: BTreeMap<String, String>,
}

impl TaskPrompts {
    /// These prompts by their names.
    pub fn new(named: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { named: named.into_iter().collect() }
    }

    /// The `prompts` of the `config_sentence_transformers.json` beside safetensors weights; none beside a GGUF file,
    /// and where there is no such file.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] for a file that cannot be read.
    pub fn near_weights(weights: impl Into<ModelPath>) -> Result<Self> {
        let weights = weights.into();
        if is_gguf(&weights) {
            return Ok(Self::default());
        }
        Ok(Self { named: SentenceSettings::beside(&weights)?.prompts })
    }

    /// The names of the checkpoint's own prompts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// The prompt before a text.
    ///
    /// # Errors
    /// [`EmbeddingError::Options`] for a name that the checkpoint does not have, and for a title where its prompt for
    /// documents has no place for one.
    pub fn prompt(&self, task: &EmbeddingTask) -> Result<String> {
        if let EmbeddingTask::Named(name) = task {
            let missing = || {
                let there = self.names().collect::<Vec<_>>().join(", ");
                Error::Embedding(EmbeddingError::Options(format!("the checkpoint has no prompt '{name}'; it has: {there}")))
            };
            return self.named.get(name).cloned().ok_or_else(missing);
        }
        let (names, card) = task.known();
        let prompt = names.iter().find_map(|name| self.named.get(*name)).map_or(card, String::as_str);
        match task {
            EmbeddingTask::Document { title: Some(title) } => match prompt.split_once(NO_TITLE) {
                Some((before, after)) => Ok(format!("{before}title: {title}{after}")),
                None => Err(Error::Embedding(EmbeddingError::Options(format!(
                    "the prompt {prompt:?} of documents has no place for a title"
                )))),
            },
            _ => Ok(prompt.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
