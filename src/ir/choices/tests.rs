use super::*;

#[test]
fn what_is_found_later_adds_to_what_is_known() {
    let work = |work: &str| Alternatives { work: work.into(), count: 2 };
    let mut known = KernelChoices::default();
    known.take(&work("a"), 1);
    known.take(&work("b"), 1);
    known.fall_back("linear", Fallback::Portable);
    known.found_right(1);
    let mut later = KernelChoices::default();
    later.take(&work("a"), 0);
    later.fall_back("linear", Fallback::NoMatrices);
    later.fall_back("attention", Fallback::Portable);
    later.found_right(2);
    known.learn(later);
    assert_eq!(known.fastest().collect::<Vec<_>>(), [("a", 0), ("b", 1)]);
    assert_eq!(known.fallbacks().collect::<Vec<_>>(), [("attention", Fallback::Portable), ("linear", Fallback::Portable)]);
    assert_eq!(known.tested(), 2);
}

#[test]
fn a_choice_that_no_longer_exists_is_the_first() {
    let mut choices = KernelChoices::default();
    let three = Alternatives { work: "work".into(), count: 3 };
    choices.take(&three, 2);
    assert_eq!(choices.of(&three), 2);
    assert_eq!(choices.of(&Alternatives { count: 2, ..three.clone() }), 0);
    assert_eq!(choices.untimed().of(&three), 0);
    assert_eq!(choices.of(&Alternatives { work: "other work".into(), count: 3 }), 0);
}
