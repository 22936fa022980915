//! Changes that processors make to logits.

use std::{borrow::Cow, collections::BTreeMap};

use super::TokenSet;

/// Changes to the logits of one step, gathered from all processors.
#[derive(Debug, Clone)]
pub struct LogitChanges {
    vocab_size: usize,
    /// The number added to each of these tokens' logits.
    biases: BTreeMap<u32, f32>,
    allowed: Option<TokenSet>,
}

impl LogitChanges {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self { vocab_size, biases: BTreeMap::new(), allowed: None }
    }

    /// Tokens that the model has logits for.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Adds `bias` to the logit of `token`; biases of one token add up, and −∞ bans it.
    pub fn bias(&mut self, token: u32, bias: f32) {
        *self.biases.entry(token).or_default() += bias;
    }

    /// Bans a token.
    pub fn ban(&mut self, token: u32) {
        self.bias(token, f32::NEG_INFINITY);
    }

    /// Bans all tokens outside of `tokens`; several such sets intersect.
    pub fn allow_only(&mut self, tokens: TokenSet) {
        match &mut self.allowed {
            Some(allowed) => allowed.intersect(&tokens),
            None => self.allowed = Some(tokens),
        }
    }

    /// Refuses what cannot be done.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let wrong = |(_, bias): &(&u32, &f32)| bias.is_nan() || **bias == f32::INFINITY;
        if let Some((token, bias)) = self.biases.iter().find(wrong) {
            anyhow::bail!("the bias of token {token} is {bias}, expected a finite number, or minus infinity to ban it");
        }
        match self.biases.last_key_value() {
            Some((token, _)) if *token as usize >= self.vocab_size => {
                anyhow::bail!("token {token} is outside the vocabulary of {}", self.vocab_size)
            }
            _ => Ok(()),
        }
    }

    /// Returns `true` if logits stay as they are.
    pub(super) fn is_empty(&self) -> bool {
        self.biases.is_empty() && self.allowed.is_none()
    }

    /// Returns `true` if tokens are forbidden that are not named.
    pub(super) fn has_mask(&self) -> bool {
        self.allowed.is_some()
    }

    /// A token's logit after the changes; −∞ where it is forbidden.
    pub(super) fn of(&self, token: u32, logit: f32) -> f32 {
        if self.allowed.as_ref().is_some_and(|allowed| !allowed.contains(token)) {
            f32::NEG_INFINITY
        } else {
            logit + self.biases.get(&token).copied().unwrap_or(0.0)
        }
    }

    /// Returns `true` if a token's own logit is of no account.
    fn forbids(&self, token: u32) -> bool {
        self.of(token, 0.0) == f32::NEG_INFINITY
    }

    /// Tokens whose logits decide beside the likeliest: those with a bias, which all count, and as many of the banned
    /// ones as are given room, so that what they leave is known. `None` where there is no room for the former.
    pub(crate) fn named(&self, room: usize) -> Option<Vec<u32>> {
        let (banned, mut named): (Vec<u32>, Vec<u32>) = self.biases.keys().partition(|token| self.forbids(**token));
        let left = room.checked_sub(named.len())?;
        named.extend(banned.into_iter().take(left));
        Some(named)
    }

    /// The tokens with a bias that are forbidden.
    pub(super) fn banned(&self) -> impl Iterator<Item = u32> {
        self.biases.keys().copied().filter(|token| self.forbids(*token))
    }

    /// A row with all changes made.
    pub(super) fn applied<'a>(&self, row: Cow<'a, [f32]>) -> Cow<'a, [f32]> {
        if self.is_empty() {
            return row;
        }
        let mut row = row.into_owned();
        for (token, bias) in &self.biases {
            row.iter_mut().skip(*token as usize).take(1).for_each(|logit| *logit += bias);
        }
        if let Some(allowed) = &self.allowed {
            let forbidden = (0..).zip(&mut row).filter(|(token, _)| !allowed.contains(*token));
            forbidden.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
        }
        Cow::Owned(row)
    }
}
