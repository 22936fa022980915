use super::*;

#[test]
fn the_largest_tile_that_has_a_name_and_fits_is_taken() {
    let found = |shapes: &[[u32; 3]], memory| {
        CooperativeTile::choose(shapes.iter().copied(), 128, memory).map(|tile| [tile.m, tile.n, tile.k])
    };
    let small = [8, 8, 8];
    let large = [16, 16, 16];
    assert_eq!(found(&[], 1 << 16), None);
    assert_eq!(found(&[small, large, small], 24 << 10), Some(large));
    assert_eq!(found(&[small, large], (24 << 10) - 1), Some(small));
    assert_eq!(found(&[small, large], 8 << 10), None);
    // NVIDIA's and Intel's others, of which WGSL has no type.
    assert_eq!(found(&[[16, 8, 16], [16, 8, 8], [8, 16, 16], [32, 32, 16]], 1 << 16), None);
}
