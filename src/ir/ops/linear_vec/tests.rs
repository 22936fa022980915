use super::*;
use crate::ir::Packed;

fn types() -> impl Iterator<Item = DType> {
    [DType::F32, DType::F16, DType::BF16].into_iter().chain(Packed::all().map(DType::Packed))
}

#[test]
fn divisions_fit_every_device() {
    let sizes = [(1, 1), (640, 1024), (1152, 6912), (2560, 2560), (2560, 262_144), (10_240, 2560), (5376, 21_504)];
    for (dtype, (inner, columns)) in types().flat_map(|dtype| sizes.map(|size| (dtype, size))) {
        for (weights, held) in [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3), (2, 4)] {
            for (normed, tier) in [(false, Tier::Subgroups), (true, Tier::Subgroups), (false, Tier::Portable)] {
                let few = Few { dtype, weights, held, normed, inner, columns, layers: 1, tier };
                let division = Division::of(&few);
                let least = tier == Tier::Portable && division.tile == 1;
                assert!(division.fits(&few) || least, "{few:?}: {division:?}");
                assert!(64 % division.width() == 0, "{few:?}: {division:?}");
                assert!(division.lanes.is_multiple_of(division.span) && division.span.is_multiple_of(4), "{few:?}: {division:?}");
            }
        }
    }
}

/// By hand for 192 units: a matrix of 2560 columns is less than four workgroups of 64 lanes and four columns for
/// each.
#[test]
fn few_columns_get_more_lanes_and_many_keep_all_lanes_busy() {
    let of = |dtype, inner, columns| {
        let few = Few { dtype, weights: 1, held: 1, normed: false, inner, columns, layers: 1, tier: Tier::Subgroups };
        let Division { lanes, span, tile } = Division::of(&few);
        (lanes, span, tile)
    };
    let packed = DType::Packed(Packed::by_name("Q4_0").unwrap());
    assert_eq!(of(DType::BF16, 2560, 2560), (128, 128, 4));
    assert_eq!(of(DType::BF16, 10_240, 2560), (256, 256, 4));
    // 320 times eight elements are five turns of 64 lanes.
    assert_eq!(of(DType::BF16, 2560, 262_144), (64, 64, 4));
    // 80 stretches are one turn of 128 lanes, and five of 16.
    assert_eq!(of(packed, 2560, 2560), (128, 128, 4));
    assert_eq!(of(packed, 2560, 262_144), (64, 16, 4));
    // 20 stretches: 64 lanes would be mostly idle.
    assert_eq!(of(packed, 640, 1024), (64, 32, 1));
}
