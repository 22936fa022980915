// Weights in a packed format, as lib/weight.wgsl says; IN is a multiple of the format's ELEMENTS. A row holds its blocks without
// their factors, BODY words each, then the factors of all blocks, FACTORS bytes each (1, 2 or a multiple of 4), then zeros up to a
// multiple of 16 bytes.
// lib/packed/<WEIGHT>.wgsl has these three numbers and unpack(which, row, g, e), which gives the elements 32g+8e .. 32g+8e+7 of a
// row of w0 (which = 0) or w1 with the arithmetic of src/quant/, step by step; what does not depend on e is the same for e = 0 .. 3.
// Options: WEIGHT; WEIGHTS = 1 | 2; WORDS = 1 | 2: words that a load takes, 2 for devices where each load costs the same, whatever
// its width. Two need 64-bit integers.
#if WORDS == 2
alias Stored = u64;
#else
alias Stored = u32;
#endif
#include lib/packed/${WEIGHT}.wgsl

fn weight0(row: u32, c: u32) -> mat2x4<f32> { return unpack(0u, row, c / 4u, c % 4u); }
#if WEIGHTS == 2
fn weight1(row: u32, c: u32) -> mat2x4<f32> { return unpack(1u, row, c / 4u, c % 4u); }
#endif

fn stored(which: u32, i: u32) -> Stored {
#if WEIGHTS == 2
    if which == 1u { return w1[i]; }
#endif
    return w0[i];
}

// Word i, and the words i and i + 1 for an even i.
#if WORDS == 2
fn pair(which: u32, i: u32) -> vec2<u32> {
    let both = stored(which, i / 2u);
    return vec2<u32>(u32(both), u32(both >> 32u));
}
fn word(which: u32, i: u32) -> u32 { return u32(stored(which, i / 2u) >> (i % 2u * 32u)); }
#else
fn pair(which: u32, i: u32) -> vec2<u32> { return vec2<u32>(stored(which, i), stored(which, i + 1u)); }
fn word(which: u32, i: u32) -> u32 { return stored(which, i); }
#endif

// The first word of a row.
fn row_at(row: u32) -> u32 { return row * ((IN / ELEMENTS * (4u * BODY + FACTORS) + 15u) / 16u * 4u); }

// The word with the first factors of block b of the row that begins at word `at`; even where BODY and FACTORS / 4 are.
fn factors_at(at: u32, b: u32) -> u32 { return at + IN / ELEMENTS * BODY + b * FACTORS / 4u; }

// The factors of block b, in the low bits.
fn factors(which: u32, at: u32, b: u32) -> u32 { return word(which, factors_at(at, b)) >> (b * FACTORS % 4u * 8u); }

// The bits `mask` of each byte, the lowest byte first.
fn fields(bits: u32, mask: u32) -> vec4<u32> {
    return (vec4<u32>(bits) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(mask);
}

// Small numbers less an offset.
fn numbers(q: vec4<u32>, offset: i32) -> vec4<f32> { return vec4<f32>(bitcast<vec4<i32>>(q) - vec4<i32>(offset)); }

// Each byte as a signed number.
fn signed(bits: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(vec4<u32>(bits) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}
