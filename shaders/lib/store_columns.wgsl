// The end of linear_wide and linear_tile: stores a lane's sums of the columns n0 + lane + LANES*r.
// Row j of the tile is in acc[r*ROWS + j] and, with WEIGHTS = 2, that of the second weight in acc[(NR + r)*ROWS + j].
// Sums go through the epilogue into y, and with MAXIMA = yes into the maxima too.
// Drivers on the CPU compile a store for long: the loop over them is not unrolled, and its operands lie in memory.
fn store_columns(acc: ptr<function, array<f32, HELD * ROWS>>, tile: Tile, n0: u32, lane: u32) {
    var sums: array<f32, HELD * ROWS>;
    for (var i = 0u; i < HELD * ROWS; i++) { sums[i] = acc[i]; }
#if MAXIMA == yes
    var most = 0u;
#endif
    let live = tile.count;
    for (var i = 0u; i < NR * live; i++) {
        let r = i / live;
        let j = i % live;
        let n = n0 + lane + r * LANES;
        if n < OUT && is_held(tile, n) {
            let o = y_row(tile, j) * OUT_STRIDE + n;
#if WEIGHTS == 2
            y[o] = epilogue(o, sums[r * ROWS + j], sums[(NR + r) * ROWS + j]);
#else
            let v = epilogue(o, sums[r * ROWS + j]);
            y[o] = v;
#if MAXIMA == yes
            most = max(most, ordered(v));
#endif
#endif
        }
    }
#if MAXIMA == yes
    let top = subgroupMax(most);
    if lane == 0u { keep(n0, top); }
#endif
}
