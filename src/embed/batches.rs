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
mod tests {
    use super::*;

    #[test]
    fn every_text_is_in_one_run_that_has_room_for_it() {
        let lengths: Vec<usize> = (0..77).map(|i| 1 + i * 37 % 300).collect();
        let batches = batches(&lengths, 256, 300);
        let mut seen: Vec<usize> = batches.iter().flat_map(|batch| batch.texts.clone()).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..77));
        for Batch { texts, tokens, room } in &batches {
            assert!(texts.len().is_power_of_two() && texts.len() <= MOST && texts.iter().all(|text| lengths[*text] <= *tokens));
            assert!(tokens <= room && *room <= 300 && (texts.len() == 1 || texts.len() * room <= 256), "{texts:?} {room}");
        }
        let largest = batches.iter().map(|batch| batch.texts.len()).max();
        assert!(largest >= Some(8), "short texts come together: {largest:?}");
    }

    #[test]
    fn no_run_is_larger_than_the_largest_of_its_number_of_texts() {
        for (run_tokens, most) in [(256, 300), (2048, 2048), (100, 512), (1, 7), (64, 20), (1000, 9)] {
            let largest = largest_runs(run_tokens, most);
            let mut reached = vec![(1, most)];
            for (length, count) in (1..=most).flat_map(|length| (0..=MOST.ilog2()).map(move |power| (length, 1 << power))) {
                for batch in batches(&[length; MOST][..count], run_tokens, most) {
                    let run = (batch.texts.len(), batch.room);
                    let room = largest.iter().find(|(texts, _)| *texts == run.0).map(|(_, room)| *room);
                    assert!(room.is_some_and(|room| run.1 <= room), "{run:?} of {largest:?}");
                    reached.push(run);
                }
            }
            assert!(largest.iter().all(|run| reached.contains(run)), "{largest:?}");
        }
    }
}
