//! Sizes of tensors where addresses have 32 bits.

use super::size;
use crate::quant::{DType, Packed};

const NARROW: u64 = u32::MAX as u64;
const WIDE: u64 = u64::MAX;

#[test]
fn a_tensor_has_no_more_bytes_than_are_addressed() {
    let packed = DType::Packed(Packed::by_ggml_type(8).expect("Q8_0"));
    assert_eq!(size(&[262_144, 2560], DType::BF16, NARROW), Ok(1_342_177_280));
    assert_eq!(size(&[262_144, 8960], packed, NARROW), Ok(2_495_610_880));
    for (shape, dtype, bytes) in [([65_536, 65_536], packed, 4_563_402_752), ([65_536, 16_384], DType::F32, 1 << 32)] {
        assert_eq!(size(&shape, dtype, WIDE), Ok(bytes));
        let said = size(&shape, dtype, NARROW).unwrap_err();
        assert!(said.contains("no 32-bit number"), "{said}");
    }
    let said = size(&[1 << 31, 1 << 31, 4], DType::F32, WIDE).unwrap_err();
    assert!(said.contains("no 64-bit number"), "{said}");
}
