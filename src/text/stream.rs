//! Text that grows token by token.

use crate::text::tokenizer::{Piece, Tokenizer};

/// Turns tokens into text as they arrive, in time linear in their number.
///
/// Text comes out in whole characters: bytes of a character that is not complete yet are held back. Control tokens give
/// nothing. Bytes that are no UTF-8 become U+FFFD, as does an id that the tokenizer does not know. The pieces together
/// are what [`Tokenizer::decode`] gives for all tokens at once.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    /// The start of a character: at most three bytes between calls.
    held: Vec<u8>,
}

impl TextStream {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, held: Vec::new() }
    }

    /// Takes the next token. Returns the text that is certain now; `None` if there is none yet.
    pub fn push(&mut self, token: u32) -> Option<String> {
        let piece = self.tokenizer.piece(token);
        self.take(piece)
    }

    /// Ends the text: what was held back is an incomplete character and comes out as U+FFFD. Empty if nothing was.
    /// The stream can then start anew.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        rest
    }

    pub(super) fn take(&mut self, piece: Piece) -> Option<String> {
        let mut out = String::new();
        match piece {
            Piece::Control => {}
            Piece::Byte(byte) => {
                self.held.push(byte);
                self.release(&mut out);
            }
            Piece::Text(text) => {
                out = self.finish();
                out.push_str(&text);
            }
            Piece::Unknown => {
                out = self.finish();
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
        (!out.is_empty()).then_some(out)
    }

    /// Moves complete characters, and bytes that can never become one, from `held` to `out`.
    fn release(&mut self, out: &mut String) {
        let incomplete = match self.held.utf8_chunks().last() {
            Some(last) if is_incomplete(last.invalid()) => last.invalid().len(),
            _ => 0,
        };
        let done = self.held.len() - incomplete;
        out.push_str(&String::from_utf8_lossy(&self.held[..done]));
        self.held.drain(..done);
    }
}

/// Returns `true` if bytes that end a text are the start of a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}
