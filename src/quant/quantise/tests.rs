use super::*;

fn blocks(to: Quantise, values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0; values.len() / 32 * to.format().block_bytes()];
    to.quantise(values, &mut blocks);
    blocks
}

#[test]
fn formats_are_those_of_the_names() {
    assert_eq!((Quantise::Q8_0.format().name(), Quantise::Q4_0.format().name()), ("Q8_0", "Q4_0"));
}

#[test]
fn rounding_is_that_of_ggml() {
    let mut values = [0.0; 32];
    values[..6].copy_from_slice(&[127.0, 1.5, -1.5, 2.5, 0.49, -126.6]);
    let block = blocks(Quantise::Q8_0, &values);
    assert_eq!(block[..2], f16::from_f32(1.0).to_le_bytes());
    // Halves away from zero.
    assert_eq!(block[2..9].iter().map(|q| *q as i8).collect::<Vec<_>>(), [127, 2, -2, 3, 0, -127, 0]);
    let mut values = [0.0; 32];
    // Towards +∞ in steps of −1: 16 steps above the lowest are cut to 15.
    values[..5].copy_from_slice(&[8.0, -8.0, 1.5, -1.5, 0.4]);
    values[16] = -7.0;
    let block = blocks(Quantise::Q4_0, &values);
    assert_eq!(block[..2], f16::from_f32(-1.0).to_le_bytes());
    assert_eq!(block[2..8], [0xf0, 0x8f, 0x87, 0x8a, 0x88, 0x88]);
    assert!(blocks(Quantise::Q8_0, &[0.0; 32]).iter().all(|byte| *byte == 0));
    assert_eq!(blocks(Quantise::Q4_0, &[0.0; 32])[..3], [0, 0x80, 0x88]);
}
