//! How many elements a value may have.

use super::{DimBinding, Shape, counts, sym};

#[test]
fn elements_are_counted_by_addresses_of_the_host() {
    for address in [32, 64] {
        assert!(counts(&[], address) && counts(&[0, 7], address) && counts(&[262_144, 10_752], address), "{address}");
    }
    assert!(counts(&[65_536, 65_535], 32) && !counts(&[65_536, 65_536], 32));
    assert!(counts(&[1 << 24, 1 << 24], 64) && !counts(&[1 << 24, (1 << 24) + 1], 64));
    // The product is a multiple of 2^64.
    assert!(!counts(&[1 << 24, 1 << 24, 1 << 16], 64) && !counts(&[1 << 24, 1 << 24, 1 << 16], 32));
}

#[test]
fn too_many_elements_are_named() {
    let bound =
        |tokens| Shape::from([usize::MAX.into(), super::Dim::from(sym::SEQ)]).bind(&DimBinding::new().with(sym::SEQ, tokens));
    let said = bound(2).unwrap_err().to_string();
    assert!(said.contains(&format!("2] has more than 2^{}", usize::BITS.min(48))), "{said}");
    assert_eq!(bound(0).unwrap(), [usize::MAX, 0]);
}
