use super::*;
use crate::ir::Packed;

#[test]
fn shards_count_the_padding_of_packed_rows() {
    let q4_0 = DType::Packed(Packed::by_name("Q4_0").unwrap());
    // A row of three blocks has 54 bytes, 64 on the device.
    assert_eq!(row_shards(q4_0, &[128, 96], 128 * 64).unwrap(), vec![0..128]);
    assert_eq!(row_shards(q4_0, &[128, 96], 128 * 64 - 1).unwrap(), vec![0..64, 64..128]);
    assert!(row_shards(q4_0, &[128, 96], 64 * 63).is_err());
    assert!(row_shards(q4_0, &[128, 90], 1 << 20).unwrap_err().contains("Q4_0"));
}

#[test]
fn shards_cover_all_rows_at_multiples_of_64() {
    let shards = row_shards(DType::BF16, &[1000, 8], 4096).unwrap();
    assert_eq!(shards.first(), Some(&(0..256)));
    assert_eq!(shards.last(), Some(&(768..1000)));
    assert!(row_shards(DType::F32, &[1000, 1024], 4096).is_err());
    assert_eq!(row_shards(DType::F32, &[7, 3], 84).unwrap(), vec![0..7]);
}

#[test]
fn grids_stay_within_a_dimension() {
    for count in [1, 65_535, 65_536, 262_144, 10_000_019] {
        let [x, y, _] = grid(count, 1);
        assert!(x <= 65_535 && y <= 65_535 && x as usize * y as usize >= count, "{count}: {x} {y}");
    }
}
