use super::*;

fn history(written: usize) -> History {
    let ring = Some(Ring { window: 9, rows: 9 + 8 });
    let prompt = (0..100).collect::<Vec<u32>>().into();
    let mut history = History { prompt, whole_pictures: true, cached: 0, floor: 0, ring, computed: 0, aligned: None };
    history.wrote(written);
    history
}

/// Against a ring that is written row by row.
#[test]
fn a_rewind_keeps_what_the_ring_can_serve_and_nothing_else() {
    for written in 1..60 {
        let mut ring = [usize::MAX; 17];
        (0..written).for_each(|p| ring[p % 17] = p);
        for rows in 0..=written {
            let mut history = history(written);
            history.rewind(rows);
            let served = (rows.saturating_sub(8)..rows).all(|p| ring[p % 17] == p);
            assert_eq!(history.cached(), if served { rows } else { 0 }, "{written} written, back to {rows}");
        }
    }
}

#[test]
fn a_common_prefix_is_computed_once() {
    let mut history = history(12);
    let replace = |history: &mut History, tokens: &[u32]| {
        history.rewind(history.common(&tokens.into()));
        history.replace(tokens.into());
    };
    replace(&mut history, &(0..10).chain([7, 7]).collect::<Vec<_>>());
    assert_eq!((history.cached(), history.computed()), (10, 12));
    history.wrote(12);
    replace(&mut history, &(0..10).collect::<Vec<_>>());
    assert_eq!((history.cached(), history.computed(), history.len()), (9, 14, 10));
    assert_eq!((history.fork().cached(), history.fork().computed(), history.fresh().len()), (9, 0, 0));
}

#[test]
fn a_model_without_sliding_layers_keeps_everything() {
    let mut history = History { ring: None, ..history(90) };
    history.rewind(1);
    assert_eq!(history.cached(), 1);
}

/// Chunks end at pictures and go on behind them, from the first token on; none has more than a chunk or a picture.
#[test]
fn pictures_are_chunks_of_their_own() {
    let picture = |rows: usize| crate::prompt::SoftTokens::new(Modality::Image, 7, 1, vec![1.0; rows]).unwrap();
    let prompt = Prompt::from([1; 6]).then(picture(9)).then([2]).then(picture(3)).then(picture(10)).then([3; 9]);
    let aligned = Some(Aligned { chunk: 4, filled: 0 });
    let mut history = History { prompt, aligned, ..history(0) };
    let mut ends = Vec::new();
    while let Some(end) = history.next_aligned_end() {
        history.wrote(end);
        ends.push((end, history.filled()));
    }
    let filled: Vec<usize> = ends.iter().map(|(_, filled)| *filled).collect();
    assert_eq!(filled, [4, 6, 15, 19, 29, 33, 37]);
    let kept = [0, 5, 6, 14, 15, 18, 28, 29, 36, 37].map(|rows| history.aligned_rows(rows));
    assert_eq!(kept, [0, 4, 6, 6, 15, 15, 19, 29, 33, 37]);
    assert_eq!([7, 14, 17, 28].map(|rows| history.whole(rows)), [6, 6, 15, 19]);
}

/// The rows of a chunk come from one run of it, in whatever order the tokens came.
#[test]
fn the_cuts_on_a_grid_are_those_of_the_tokens_alone() {
    let new = || History { prompt: Prompt::new(), aligned: Some(Aligned { chunk: 4, filled: 0 }), ..history(0) };
    // The run that wrote each row last, after a step has run the last token.
    let run = |history: &mut History, rows: &mut [(usize, usize)]| {
        let mut write = |history: &mut History, end: usize| {
            (history.cached..end).for_each(|row| rows[row] = (history.cached, end));
            history.wrote(end);
        };
        while let Some(end) = history.next_aligned_end() {
            write(history, end);
        }
        write(history, history.len());
    };
    for len in 1..40 {
        let mut at_once = new();
        let mut whole = vec![(0, 0); len];
        at_once.replace((0..len as u32).collect::<Vec<_>>().into());
        run(&mut at_once, &mut whole);
        for first in 1..=len {
            let mut stepwise = new();
            let mut rows = vec![(0, 0); len];
            stepwise.replace((0..first as u32).collect::<Vec<_>>().into());
            run(&mut stepwise, &mut rows);
            for token in first..len {
                stepwise.push(token as u32);
                run(&mut stepwise, &mut rows);
            }
            assert_eq!(rows, whole, "{first} of {len}");
            for back in 0..len {
                let mut history = stepwise.clone();
                let mut again = rows.clone();
                history.rewind(back.min(len - 1));
                run(&mut history, &mut again);
                assert_eq!(again, whole, "{len}, back to {back}");
            }
        }
    }
}
