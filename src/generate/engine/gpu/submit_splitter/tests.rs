use super::*;
use crate::plan::moving;

#[test]
fn a_second_run_is_begun_where_both_fit() {
    let slices = SubmitSplitter::new(Some(Duration::from_millis(10)), false);
    let estimates = moving(&[0.003, 0.003]);
    assert!(!slices.allow_two(&estimates, 1), "as slow as the slowest until measured");
    slices.rates().insert((1, false), 0.5);
    assert!(slices.allow_two(&estimates, 1) && !slices.allow_two(&estimates, 16));
    assert!(slices.another().allow_two(&estimates, 1), "what was learnt serves the whole model");
    assert!(!slices.batched().allow_two(&estimates, 1), "several sequences are another run");
    assert!(SubmitSplitter::new(None, false).allow_two(&moving(&[9.0]), 1));
}

#[test]
fn runs_on_the_processor_are_cut_unless_they_are_short() {
    let slices = SubmitSplitter::new(None, true);
    assert!(slices.allow_two(&moving(&[0.06]), 1), "two of them take less than twice the longest submit");
    assert!(!slices.allow_two(&moving(&[0.07]), 1), "eight times slower than the slowest GPU until measured");
    slices.rates().insert((1, false), 1.0);
    assert!(slices.allow_two(&moving(&[0.07]), 1));
}
