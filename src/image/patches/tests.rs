use super::*;

#[test]
fn patches_of_a_square_are_neighbours() {
    let patches = Patches { values: vec![0.0; 4 * 6 * 12], rows: 4, columns: 6 };
    let order = patches.by_square(2);
    assert_eq!(order[..8], [[0, 0], [1, 0], [0, 1], [1, 1], [2, 0], [3, 0], [2, 1], [3, 1]]);
    assert_eq!(order[12], [0, 2]);
    let mut all = order.clone();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 24);
    let grid = |most| PatchGrid { patch: 2, pooled: 2, most };
    assert_eq!(patches.problem(grid(24), 6), None);
    for (grid, places) in
        [(grid(23), 6), (grid(24), 5), (PatchGrid { pooled: 4, ..grid(24) }, 6), (PatchGrid { patch: 3, ..grid(24) }, 6)]
    {
        assert!(patches.problem(grid, places).is_some());
    }
    let broken = Patches { values: vec![f32::NAN; 48], rows: 2, columns: 2 };
    assert!(broken.problem(grid(24), 6).is_some());
}
