//! Which texts run together.

/// Most texts of a run.
const MOST: usize = 16;

/// Fewest tokens that a run is compiled for.
const FEWEST_TOKENS: usize = 16;

/// Texts that run together: a power of two of them, so that few runs are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    /// The texts by their places among all, the longest first.
    pub(super) texts: Vec<usize>,
    /// Tokens of the longest.
    pub(super) tokens: usize,
    /// Tokens that the run is compiled for.
    pub(super) room: usize,
}

/// Puts texts of these lengths into runs of at most `run_tokens` tokens, padding included; a text with more is a run of
/// its own. Texts of like length come together. No text has more than `most` tokens.
pub(super) fn batches(lengths: &[usize], run_tokens: usize, most: usize) -> Vec<Batch> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(lengths[text]));
    let mut batches = Vec::new();
    let mut rest = &order[..];
    while let Some(&longest) = rest.first() {
        let tokens = lengths[longest];
        let room = tokens.next_power_of_two().max(FEWEST_TOKENS).min(most);
        let fit = (run_tokens / room).min(rest.len()).clamp(1, MOST);
        let (texts, later) = rest.split_at(1 << fit.ilog2());
        batches.push(Batch { texts: texts.to_vec(), tokens, room });
        rest = later;
    }
    batches
}

/// The largest run of each number of texts that [`batches`] makes: how many, and the tokens that it has room for.
pub(super) fn largest_runs(run_tokens: usize, most: usize) -> Vec<(usize, usize)> {
    let several = (1..=MOST.ilog2()).filter_map(|power| {
        let texts = 1 << power;
        let room = run_tokens >> power;
        let room = if most <= room { most } else { 1 << room.checked_ilog2()? };
        (room >= FEWEST_TOKENS.min(most)).then_some((texts, room))
    });
    std::iter::once((1, most)).chain(several).collect()
}

#[cfg(test)]
mod tests;
