use super::*;
use crate::ir::{Alternatives, Fallback};

#[test]
fn an_envelope_gives_back_what_was_put_in_and_nothing_else() {
    let driver: Vec<u8> = (0..500u32).map(|i| (i * 7) as u8).collect();
    let mut choices = KernelChoices::default();
    choices.take(&Alternatives { work: "a product".into(), count: 2 }, 1);
    choices.fall_back("attention", Fallback::Portable);
    choices.found_right(u64::MAX);
    let full = Envelope { choices: choices.clone(), driver: &driver };
    let blob = full.close(42).unwrap();
    assert_eq!(Envelope::open(&blob, 42), Ok(full));
    for part in [Envelope::default(), Envelope { driver: &[], choices }, Envelope { driver: &driver, ..Envelope::default() }] {
        assert_eq!(Envelope::open(&part.close(42).unwrap(), 42), Ok(part));
    }
    assert!(Envelope::open(&blob, 43).unwrap_err().contains("another adapter"));
    assert!((0..blob.len()).all(|len| Envelope::open(&blob[..len], 42).is_err()), "a cut one is refused wherever it is cut");
    for bit in 0..blob.len() * 8 {
        let mut wrong = blob.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(Envelope::open(&wrong, 42).is_err(), "bit {bit}");
    }
    assert!(Envelope::open(&[blob, vec![0]].concat(), 42).is_err());
}
