use std::collections::BTreeSet;

use super::*;

#[test]
fn it_is_a_set_of_the_vocabulary() {
    let model: BTreeSet<u32> = (0..100).map(|i| i * 37 % 70).filter(|t| t % 3 != 1).collect();
    let mut set = TokenSet::none(70);
    model.iter().chain(&[70, 71, 95, 96, 4000]).for_each(|token| set.insert(*token));
    assert_eq!((set.iter().collect::<BTreeSet<_>>(), set.len()), (model.clone(), model.len()));
    let mut other = TokenSet::all(70);
    assert_eq!(other.len(), 70);
    (0..35).chain([99]).for_each(|token| other.remove(token));
    set.intersect(&other);
    assert_eq!(set.iter().collect::<Vec<_>>(), model.into_iter().filter(|t| *t >= 35).collect::<Vec<_>>());
    set.intersect(&TokenSet::all(40));
    assert!(set.iter().all(|token| (35..40).contains(&token)) && !set.is_empty());
    assert_eq!(TokenSet::from_words(40, vec![3]).iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(TokenSet::from_words(33, vec![0, u32::MAX, 9]).iter().collect::<Vec<_>>(), [32]);
    other.resize(37);
    other.resize(60);
    assert_eq!((other.vocab_size(), other.iter().collect::<Vec<_>>()), (60, vec![35, 36]));
    assert!(TokenSet::all(0).is_empty() && TokenSet::all(64).len() == 64);
}
