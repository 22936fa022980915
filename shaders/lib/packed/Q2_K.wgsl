// (d · scale) · q − m · minimum. 16 bytes: scale in the low, minimum in the high half, of 16 elements each; 64 bytes of
// four 2-bit elements. Factors: d and m in f16.
const ELEMENTS = 256u;
const BODY = 20u;
const FACTORS = 4u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let dm = unpack2x16float(factors(which, at, g / 8u));
    let packed = word(which, block + j / 2u) >> ((j % 2u * 2u + e / 2u) * 8u);
    let scale = dm.x * f32(packed & 15u);
    let minimum = dm.y * f32((packed >> 4u) & 15u);
    let q = pair(which, block + 4u + j / 4u * 8u + e * 2u) >> vec2<u32>(j % 4u * 2u);
    return mat2x4<f32>(
        scale * numbers(fields(q.x, 3u), 0i) - minimum,
        scale * numbers(fields(q.y, 3u), 0i) - minimum,
    );
}

const APART = 8u;
const SHARES = 2u;
struct Stretch { q: vec4<u32>, scales: vec2<u32>, dm: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    let block = s / 8u * BODY;
    let half = s / 4u % 2u;
    let q = quad(which, at, block + 4u + half * 8u + s % 2u * 4u) >> vec4<u32>(s / 2u % 2u * 2u);
    let scales = vec2<u32>(word_of(which, at, block + half * 2u), word_of(which, at, block + half * 2u + 1u));
    return Stretch(q, scales >> vec2<u32>(s % 4u * 8u), factor_bits(which, at, s / 8u));
}
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> {
    return bytes((pair_of(held.q, e) >> vec2<u32>(e / 2u * 4u)) & vec2<u32>(0x03030303u));
}
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> {
    let both = (vec2<u32>(held.scales[h]) >> vec2<u32>(0u, 4u)) & vec2<u32>(15u);
    return unpack2x16float(held.dm) * vec2<f32>(both) * vec2<f32>(1.0, -1.0);
}
