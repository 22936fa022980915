// A lane's part of the products of linear_vec: the eight elements 8s .. 8s+7 of k; weights of one number an element.
const TURN = 8u;

fn add_turn(acc: ptr<function, array<f32, SUMS>>, rows: ptr<function, array<u32, NR>>, tile: Tile, s: u32) {
    var xs: array<mat2x4<f32>, ROWS>;
    for (var j = 0u; j < ROWS; j++) {
        xs[j] = mat2x4<f32>(rounded(operand(acc, tile, j, s, 0u)), rounded(operand(acc, tile, j, s, 1u)));
    }
    for (var r = 0u; r < NR; r++) {
        let a = rounded8(eight0((*rows)[r], s));
        for (var j = 0u; j < ROWS; j++) { (*acc)[r * ROWS + j] = dot8(a, xs[j], (*acc)[r * ROWS + j]); }
#if WEIGHTS == 2
        let b = rounded8(eight1((*rows)[r], s));
        for (var j = 0u; j < ROWS; j++) { (*acc)[(NR + r) * ROWS + j] = dot8(b, xs[j], (*acc)[(NR + r) * ROWS + j]); }
#endif
    }
}
