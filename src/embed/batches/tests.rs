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
