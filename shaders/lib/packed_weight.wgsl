// Weights in a packed format, as lib/weight.wgsl says; IN is a multiple of the format's ELEMENTS.
// A row holds its blocks without their factors, BODY words each. Then come the factors of all blocks, FACTORS bytes
// each (1, 2 or a multiple of 4), then zeros up to a multiple of 16 bytes.
// lib/packed/<WEIGHT>.wgsl has these three numbers and unpack(which, row, g, e), which gives the elements
// 32g+8e .. 32g+8e+7 of a row of w0 (which = 0) or w1 with the arithmetic of src/quant/, step by step. Values that do
// not depend on e are the same for e = 0 .. 3.
// It also has the elements of a row by stretches s of 32, which make do with few loads of many bits:
//   stretch(which, at, s), for the row that starts at `at` (row_start), loads the words of a stretch, some of which
//     others share;
//   raw(held, s, e) gives the eight stored numbers q of eighth e, for the eight elements of x that place(s, e) says;
//   share(held, s, h) gives factor f and offset o of an element f·q + o: one pair for SHARES = 1, for SHARES = 2 that
//     of the eighths 2h, 2h + 1;
//   APART is the distance between the two halves of a stretch, for place.
// Options: WEIGHT; WEIGHTS = 1 | 2; WORDS = 1 | 2 | 4, the words that a load takes: 2 for devices where each load costs
//   the same, whatever its width, which need 64-bit integers; 4 for formats whose words come in fours, on GPUs.
#if WORDS == 1
alias Stored = u32;
#elif WORDS == 2
alias Stored = u64;
#elif WORDS == 4
alias Stored = vec4<u32>;
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
#if WORDS == 1
fn word(which: u32, i: u32) -> u32 { return stored(which, i); }
#elif WORDS == 4
fn word(which: u32, i: u32) -> u32 { return word_of(which, i / 4u, i % 4u); }
#endif
fn pair(which: u32, i: u32) -> vec2<u32> { return vec2<u32>(word(which, i), word(which, i + 1u)); }
#endif

// Of the row that begins at word 4*at: word i, and the words i .. i+3, with WORDS = 4 for a multiple i of four.
#if WORDS == 4
fn word_of(which: u32, at: u32, i: u32) -> u32 {
#if WEIGHTS == 2
    if which == 1u { return w1[at + i / 4u][i % 4u]; }
#endif
    return w0[at + i / 4u][i % 4u];
}
fn quad(which: u32, at: u32, i: u32) -> vec4<u32> { return stored(which, at + i / 4u); }
#elif WORDS == 2
fn word_of(which: u32, at: u32, i: u32) -> u32 { return word(which, at * 4u + i); }
fn quad(which: u32, at: u32, i: u32) -> vec4<u32> { return vec4<u32>(pair(which, at * 4u + i), pair(which, at * 4u + i + 2u)); }
#elif WORDS == 1
fn word_of(which: u32, at: u32, i: u32) -> u32 { return word(which, at * 4u + i); }
fn quad(which: u32, at: u32, i: u32) -> vec4<u32> {
    return vec4<u32>(word_of(which, at, i), word_of(which, at, i + 1u), word_of(which, at, i + 2u), word_of(which, at, i + 3u));
}
#endif

// The first word of the factors of block b of a row, and the factors in its low bits.
fn factor_word(b: u32) -> u32 { return IN / ELEMENTS * BODY + b * FACTORS / 4u; }
fn factor_bits(which: u32, at: u32, b: u32) -> u32 {
    return word_of(which, at, factor_word(b)) >> (b * FACTORS % 4u * 8u);
}

// The first word of a row.
fn row_at(row: u32) -> u32 { return row * ((IN / ELEMENTS * (4u * BODY + FACTORS) + 15u) / 16u * 4u); }

// The start of row n in units of four words, for readers of much of the row.
fn row_start(n: u32) -> u32 { return row_at(n) / 4u; }

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

// The eight elements of x (c) that eighth e (0 .. 3) of stretch s multiplies: of 2*APART eights the first APART and the
// second are dealt out in twos.
fn place(s: u32, e: u32) -> u32 {
    return s / (APART / 2u) * (2u * APART) + s % (APART / 2u) * 2u + e / 2u * APART + e % 2u;
}

// The words of eighth e, where the eighths 2 and 3 lie in the same words as 0 and 1.
fn pair_of(q: vec4<u32>, e: u32) -> vec2<u32> { return vec2<u32>(q[e % 2u * 2u], q[e % 2u * 2u + 1u]); }

// Of numbers of four bits, the later eighths in the high halves of bytes: those of eighth e, one a byte.
fn nibbles(q: vec4<u32>, e: u32) -> vec2<u32> { return (pair_of(q, e) >> vec2<u32>(e / 2u * 4u)) & vec2<u32>(0x0f0f0f0fu); }

// Each byte of two words as a number.
fn bytes(q: vec2<u32>) -> mat2x4<f32> { return mat2x4<f32>(numbers(fields(q.x, 255u), 0i), numbers(fields(q.y, 255u), 0i)); }
