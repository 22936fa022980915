use super::*;
use crate::quant::Packed;

#[test]
fn what_is_advised_is_read_and_what_is_foreign_is_not() {
    for (number, name, nearest) in GGML {
        assert!(Packed::by_ggml_type(number).is_none() && Packed::by_name(name).is_none(), "{name}");
        nearest.split(" or ").filter(|name| !name.is_empty()).for_each(|name| assert!(Packed::by_name(name).is_some(), "{name}"));
    }
}
