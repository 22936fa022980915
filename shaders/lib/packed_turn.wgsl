// A lane's part of the products of linear_vec: stretch s of k, 32 elements; packed weights.
// With numbers q of a share of the stretch, each f·q + o, a product is f·Σ x·q + o·Σ x. So the numbers are converted as
// they are, and Σ x serves all columns.
const TURN = 32u;

#include lib/packed_share.wgsl

fn add_turn(acc: ptr<function, array<f32, SUMS>>, rows: ptr<function, array<u32, NR>>, tile: Tile, s: u32) {
    var held: array<Stretch, HELD>;
    for (var r = 0u; r < NR; r++) { held[r] = stretch(0u, (*rows)[r], s); }
#if WEIGHTS == 2
    for (var r = 0u; r < NR; r++) { held[NR + r] = stretch(1u, (*rows)[r], s); }
#endif
    var sums: Sums;
    // No loop: compilers unroll loops up to a certain size only, and the arrays of others do not stay in registers.
    add_eighth(&sums, acc, &held, tile, s, 0u);
    add_eighth(&sums, acc, &held, tile, s, 1u);
    if SHARES == 2u { add_share(&sums, acc, &held, s, 0u); }
    add_eighth(&sums, acc, &held, tile, s, 2u);
    add_eighth(&sums, acc, &held, tile, s, 3u);
    add_share(&sums, acc, &held, s, SHARES - 1u);
}

fn add_eighth(
    sums: ptr<function, Sums>,
    acc: ptr<function, array<f32, SUMS>>,
    held: ptr<function, array<Stretch, HELD>>,
    tile: Tile,
    s: u32,
    e: u32,
) {
    // Four by four, which takes fewer registers.
    for (var i = 0u; i < 2u; i++) {
        var xs: array<vec4<f32>, ROWS>;
        for (var j = 0u; j < ROWS; j++) {
            xs[j] = rounded(operand(acc, tile, j, place(s, e), i));
            (*sums).of_x[j] += xs[j].x + xs[j].y + xs[j].z + xs[j].w;
        }
        for (var r = 0u; r < HELD; r++) {
            let q = raw((*held)[r], s, e)[i];
            for (var j = 0u; j < ROWS; j++) {
                (*sums).products[r * ROWS + j] = dot4(q, xs[j], (*sums).products[r * ROWS + j]);
            }
        }
    }
}
