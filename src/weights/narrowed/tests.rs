use super::*;

struct Bytes(Vec<u8>);

impl TensorSource for Bytes {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.0[offset as usize..][..out.len()]);
        Ok(())
    }
}

#[test]
fn elements_are_rounded_and_any_part_can_be_read() {
    let numbers: Vec<f64> = (0..AT_ONCE * 2 + 3).map(|i| i as f64 / 3.0 - 100.0).collect();
    let bytes = [vec![7; 16], numbers.iter().flat_map(|x| x.to_le_bytes()).collect()].concat();
    let tensor = narrowed("x", vec![numbers.len()], Arc::new(Bytes(bytes)), 16);
    let expected: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
    assert_eq!(tensor.to_f32().unwrap(), expected);
    let all: Vec<u8> = expected.iter().flat_map(|x| x.to_le_bytes()).collect();
    for (start, length) in [(0, 1), (3, 7), (4 * AT_ONCE - 1, 6), (all.len() - 1, 1), (5, 0)] {
        let mut part = vec![0; length];
        tensor.read_bytes(start, &mut part).unwrap();
        assert_eq!(part, all[start..start + length], "{start}");
    }
}
