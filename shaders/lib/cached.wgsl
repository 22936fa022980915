// Vectors of a head as attention computes with them (Values), and as the caches of keys and values hold them (Cached).
// Options: VEC = 4 | 2 elements; KV = f32 | f16 (packed pairs, the earlier element in the low half);
//   WIDE = yes (loads of 64 bits; VEC = 4, 64-bit integers) | no.
#if VEC == 4
alias Values = vec4<f32>;
#elif VEC == 2
alias Values = vec2<f32>;
#endif
#if WIDE == yes
#if KV == f32
alias Cached = vec2<u64>;
fn widened(s: Cached) -> Values {
    let low = vec2<u32>(s);
    let high = vec2<u32>(s >> vec2<u32>(32u));
    return bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y));
}
fn narrowed(v: Values) -> Cached {
    let words = bitcast<vec4<u32>>(v);
    return vec2<u64>(words.xz) | (vec2<u64>(words.yw) << vec2<u32>(32u));
}
#elif KV == f16
alias Cached = u64;
fn widened(s: Cached) -> Values { return vec4<f32>(unpack2x16float(u32(s)), unpack2x16float(u32(s >> 32u))); }
fn narrowed(v: Values) -> Cached { return u64(pack2x16float(v.xy)) | (u64(pack2x16float(v.zw)) << 32u); }
#endif
#elif KV == f32
alias Cached = Values;
fn widened(s: Cached) -> Values { return s; }
fn narrowed(v: Values) -> Cached { return v; }
#elif VEC == 4
alias Cached = vec2<u32>;
fn widened(s: Cached) -> Values { return vec4<f32>(unpack2x16float(s.x), unpack2x16float(s.y)); }
fn narrowed(v: Values) -> Cached { return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw)); }
#elif VEC == 2
alias Cached = u32;
fn widened(s: Cached) -> Values { return unpack2x16float(s); }
fn narrowed(v: Values) -> Cached { return pack2x16float(v); }
#endif

// As a cache would give it back: f16 within ±65504.
fn rounded(v: Values) -> Values {
#if KV == f16
    return widened(narrowed(clamp(v, Values(-65504.0), Values(65504.0))));
#elif KV == f32
    return v;
#endif
}
