use super::*;
use crate::quant::Packed;

#[test]
fn the_nearest_formats_are_read() {
    let schemes = BY_TENSOR.iter().map(|(_, scheme)| *scheme).chain(&BY_METHOD).filter(|scheme| scheme.method != "gguf");
    for Scheme { nearest, name, .. } in schemes {
        let formats = nearest.split([' ', ',']).filter(|word| word.chars().any(|c| c.is_ascii_uppercase()));
        let formats: Vec<&str> = formats.collect();
        assert!(!formats.is_empty() && formats.iter().all(|format| Packed::by_name(format).is_some()), "{name}: {nearest}");
    }
}
