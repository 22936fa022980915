use super::*;

#[test]
fn the_search_finds_the_last_that_fits_in_few_guesses() {
    let costs: [fn(usize) -> u64; 4] =
        [|n| n as u64, |n| 1_000_000 + 12_288 * n as u64, |n| n.next_multiple_of(64) as u64 * 100, |n| 1 << n.min(60)];
    for cost in costs {
        for most in 1..40 {
            for limit in (0..=most).map(cost).chain([0, 1, u64::MAX]) {
                let expected = (1..=most).rev().find(|n| cost(*n) <= limit).unwrap_or(0);
                assert_eq!(largest(most, limit, |n| Ok(cost(n))).unwrap(), expected, "{limit} of {most}");
            }
        }
        let guesses = std::cell::Cell::new(0);
        let counted = |n| {
            guesses.set(guesses.get() + 1);
            Ok(cost(n))
        };
        largest(131_072, cost(40_000), counted).unwrap();
        assert!(guesses.get() < 40, "{} guesses", guesses.get());
    }
    let guesses = std::cell::Cell::new(0);
    let even = |n| {
        guesses.set(guesses.get() + 1);
        Ok(1_000_000 + 12_288 * n as u64)
    };
    assert_eq!(largest(131_072, 1_000_000 + 12_288 * 40_000 + 5, even).unwrap(), 40_000);
    assert!(guesses.get() <= 6, "{} guesses", guesses.get());
}
