//! Sets of tokens.

/// A set of tokens of a vocabulary, one bit a token.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u32>,
    vocab_size: usize,
}

impl TokenSet {
    /// None of `vocab_size` tokens.
    pub fn none(vocab_size: usize) -> Self {
        Self { words: vec![0; vocab_size.div_ceil(32)], vocab_size }
    }

    /// All of `vocab_size` tokens.
    pub fn all(vocab_size: usize) -> Self {
        Self::from_words(vocab_size, vec![u32::MAX; vocab_size.div_ceil(32)])
    }

    /// From a bit mask: token 32·w + b is bit b of word w. Words that are missing hold no token; bits from `vocab_size`
    /// on are dropped.
    pub fn from_words(vocab_size: usize, mut words: Vec<u32>) -> Self {
        words.resize(vocab_size.div_ceil(32), 0);
        if let (Some(last), rest @ 1..) = (words.last_mut(), vocab_size % 32) {
            *last &= (1 << rest) - 1;
        }
        Self { words, vocab_size }
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The same tokens in a vocabulary of another size; those outside of it are dropped.
    pub fn resize(&mut self, vocab_size: usize) {
        *self = Self::from_words(vocab_size, std::mem::take(&mut self.words));
    }

    /// Adds a token; one outside of the vocabulary is passed over.
    pub fn insert(&mut self, token: u32) {
        if (token as usize) < self.vocab_size {
            self.words[token as usize / 32] |= 1 << (token % 32);
        }
    }

    /// Takes a token out.
    pub fn remove(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word &= !(1 << (token % 32));
        }
    }

    /// Returns `true` if a token is in it.
    pub fn contains(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// How many tokens are in it.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns `true` if no token is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Keeps the tokens that are in both.
    pub fn intersect(&mut self, other: &Self) {
        for (i, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(i).copied().unwrap_or(0);
        }
    }

    /// The tokens, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.vocab_size as u32).filter(|token| self.contains(*token))
    }
}

impl std::fmt::Debug for TokenSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSet").field("tokens", &self.len()).field("vocab_size", &self.vocab_size).finish()
    }
}

#[cfg(test)]
mod tests;
