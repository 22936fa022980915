use super::*;

#[test]
fn any_part_of_the_rows_can_be_read() {
    let format = Packed::by_name("Q5_0").unwrap();
    let bytes: Vec<u8> = (0..7 * 3 * format.block_bytes()).map(|i| (i * 7) as u8).collect();
    let tensor = Tensor::from_bytes("w", DType::Packed(format), vec![7, 96], bytes.clone()).unwrap();
    let mut rows = PackedRows::of(&tensor).unwrap().unwrap();
    let mut all = vec![1; 7 * 80];
    for (row, out) in bytes.chunks(66).zip(all.chunks_mut(80)) {
        format.arrange(row, out);
    }
    for (start, len) in [(0, 560), (0, 80), (0, 3), (5, 555), (80, 160), (81, 80), (479, 1), (320, 240), (17, 0)] {
        let mut part = vec![0; len];
        rows.read(start as u64, &mut part).unwrap();
        assert!(part == all[start..start + len], "{start} {len}");
    }
    assert!(PackedRows::of(&Tensor::from_f32("x", vec![2], &[0.0; 2])).unwrap().is_none());
    let flat = Tensor::from_bytes("flat", DType::Packed(format), vec![96], bytes[..66].to_vec()).unwrap();
    assert!(PackedRows::of(&flat).err().unwrap().to_string().contains("flat"));
}
