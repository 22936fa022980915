// The pixels of x [B, IN_HEIGHT, IN_WIDTH, C] under the taps of a convolution's kernel. conv2d.wgsl has the formula.
// Overrides: IN_HEIGHT, IN_WIDTH, C, OUT_HEIGHT, OUT_WIDTH, IN, KH, KW, STRIDE, TOP, LEFT.
override IN_HEIGHT: u32;
override IN_WIDTH: u32;
override C: u32;
override OUT_HEIGHT: u32;
override OUT_WIDTH: u32;
override IN: u32;
override KH: u32;
override KW: u32;
override STRIDE: u32;
override TOP: u32;
override LEFT: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;

// The pixel of x under the first tap at a position; row and column may lie outside, modulo 2^32.
struct Corner {
    // The first element of its picture.
    picture: u32,
    row: u32,
    column: u32,
}
fn corner_of(p: u32) -> Corner {
    let row = p / OUT_WIDTH;
    let picture = row / OUT_HEIGHT * IN_HEIGHT * IN_WIDTH * C;
    return Corner(picture, row % OUT_HEIGHT * STRIDE - TOP, p % OUT_WIDTH * STRIDE - LEFT);
}
fn pixel(corner: Corner, r: u32, s: u32, c: u32) -> f32 {
    let row = corner.row + r;
    let column = corner.column + s;
    if row >= IN_HEIGHT || column >= IN_WIDTH { return 0.0; }
    return x[corner.picture + (row * IN_WIDTH + column) * C + c];
}
