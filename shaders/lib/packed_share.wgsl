// Sums of a stretch of packed weights, and the application of its factors and offsets to them.
// TILE sums of products, HELD columns by ROWS rows; the lane has SUMS, of which these are the first.
struct Sums {
    products: array<f32, TILE>,
    of_x: array<f32, ROWS>,
}

// The sums so far as share h of the stretch.
fn add_share(
    sums: ptr<function, Sums>,
    acc: ptr<function, array<f32, SUMS>>,
    held: ptr<function, array<Stretch, HELD>>,
    s: u32,
    h: u32,
) {
    for (var r = 0u; r < HELD; r++) {
        let f = share((*held)[r], s, h);
        for (var j = 0u; j < ROWS; j++) {
            let i = r * ROWS + j;
            (*acc)[i] = fma(f.x, (*sums).products[i], fma(f.y, (*sums).of_x[j], (*acc)[i]));
            (*sums).products[i] = 0.0;
        }
    }
    for (var j = 0u; j < ROWS; j++) { (*sums).of_x[j] = 0.0; }
}
