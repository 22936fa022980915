//! Places of tensors where addresses have 32 bits.

use safetensors::{Dtype, tensor::TensorInfo};

use super::place;

const NARROW: u64 = u32::MAX as u64;

fn info(shape: &[usize], bytes: usize) -> TensorInfo {
    TensorInfo { dtype: Dtype::BF16, shape: shape.to_vec(), data_offsets: (0, bytes) }
}

#[test]
fn a_tensor_has_no_more_bytes_than_are_addressed() {
    // 8 times as many bits are no 32-bit number.
    assert_eq!(place(&info(&[262_144, 2560], 1_342_177_280), 0, NARROW), Ok(1_342_177_280));
    let large = info(&[65_536, 32_768], 1 << 32);
    assert_eq!(place(&large, 0, u64::MAX), Ok(1 << 32));
    let said = place(&large, 0, NARROW).unwrap_err();
    assert!(said.contains("no whole 32-bit number"), "{said}");
    // 2^32 elements would be none.
    let wrapped = place(&info(&[65_536, 65_536], 0), 0, NARROW).unwrap_err();
    assert!(wrapped.contains("no whole 32-bit number"), "{wrapped}");
}
