use super::*;

#[test]
fn the_latest_place_with_the_longest_end_is_taken() {
    assert_eq!(
        look_up(&[1, 2, 3, 9, 9, 2, 3, 7, 1, 2, 3], 3),
        [9, 9, 2],
        "three tokens agree at the first place, two at the second"
    );
    assert_eq!(look_up(&[2, 3, 7, 2, 3, 8, 2, 3], 2), [8, 2]);
    assert_eq!(look_up(&[5, 5, 5, 5], 3), [5, 5, 5]);
    assert_eq!(look_up(&[1, 2, 3, 1, 2, 3], 5), [1, 2, 3, 1, 2]);
    for short in [&[][..], &[4], &[4, 4], &[1, 2, 3, 4, 5, 4]] {
        assert!(look_up(short, 3).is_empty(), "{short:?}");
    }
}

#[test]
fn a_drafter_tries_as_many_as_a_run_has() {
    assert_eq!(Drafter::prompt_lookup().with_tokens(63).map(|d| d.tokens()).ok(), Some(63));
    for wrong in [0, 64] {
        assert!(Drafter::prompt_lookup().with_tokens(wrong).unwrap_err().to_string().contains("1 to 63"));
    }
    assert_eq!((DraftStats::default().acceptance(), DraftStats { runs: 1, drafted: 4, accepted: 3 }.acceptance()), (0.0, 0.75));
}
