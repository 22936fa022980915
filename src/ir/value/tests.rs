//! Bytes of values.

use super::FixedType;
use crate::ir::DType;

#[test]
fn a_device_may_have_more_bytes_than_the_host_addresses() {
    let ty = FixedType { dtype: DType::F32, shape: vec![1 << 20, 1 << 10] };
    assert_eq!(ty.device_bytes(), Some(1 << 32));
    assert_eq!(ty.byte_len(), usize::try_from(1u64 << 32).ok());
}
