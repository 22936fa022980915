//! The tokens that a tokenizer puts around every text.

use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::{Error, Result, files::ModelPath, text_file};

/// BOS before and EOS after every text, if something beside the tokenizer asks for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Frame {
    /// BOS before it.
    #[serde(default, rename = "add_bos_token")]
    pub(super) bos: Option<bool>,
    /// EOS after it.
    #[serde(default, rename = "add_eos_token")]
    pub(super) eos: Option<bool>,
    /// The id of BOS where it is not known by its name, `<bos>`.
    #[serde(skip)]
    pub(super) bos_id: Option<u32>,
    /// The same of EOS, `<eos>`.
    #[serde(skip)]
    pub(super) eos_id: Option<u32>,
}

impl Frame {
    /// The frame of the `tokenizer_config.json` beside a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Format`] where it is none.
    pub(super) fn beside(tokenizer: &ModelPath) -> Result<Self> {
        let path = tokenizer.with_file_name("tokenizer_config.json");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = text_file::read(&path)?;
        serde_json::from_str(&text).map_err(|error| Error::Format { path: path.to_path_buf(), problem: error.to_string() })
    }

    /// The ids before and after a text; where nothing is said, those of the tokenizer's own post-processor.
    pub(super) fn ids(self, tokenizer: &Tokenizer) -> Result<[Vec<u32>; 2], String> {
        // A space is a token of its own in every vocabulary of Gemma.
        let around = tokenizer.encode_fast(" ", true).map_err(|e| e.to_string())?;
        let special = |(_, flag): &(&u32, &u32)| **flag == 1;
        let mut ids = around.get_ids().iter().zip(around.get_special_tokens_mask());
        let front: Vec<u32> = ids.by_ref().take_while(special).map(|(id, _)| *id).collect();
        let end: Vec<u32> = ids.filter(special).map(|(id, _)| *id).collect();
        let chosen = |said: Option<bool>, id: Option<u32>, name: &str, own: Vec<u32>| match said {
            None => Ok(own),
            Some(false) => Ok(Vec::new()),
            Some(true) => {
                let missing = || format!("there is no token '{name}', which is to stand beside every text");
                id.or_else(|| tokenizer.token_to_id(name)).map(|id| vec![id]).ok_or_else(missing)
            }
        };
        Ok([chosen(self.bos, self.bos_id, "<bos>", front)?, chosen(self.eos, self.eos_id, "<eos>", end)?])
    }
}
