// The table of IQ4_NL and IQ4_XS.
const IQ4 = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
// Twice the numbers of E2M1.
const E2M1 = vec4<u32>(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);

// Entries q (0 .. 15) of a table of signed bytes, four a word, the earlier ones in the lower bits.
fn lookup(q: vec4<u32>, table: vec4<u32>) -> vec4<f32> {
    let second = (q & vec4<u32>(4u)) != vec4<u32>(0u);
    let low = select(vec4<u32>(table.x), vec4<u32>(table.y), second);
    let high = select(vec4<u32>(table.z), vec4<u32>(table.w), second);
    let chosen = select(low, high, q >= vec4<u32>(8u));
    let shift = vec4<u32>(24u) - (q & vec4<u32>(3u)) * 8u;
    return vec4<f32>(bitcast<vec4<i32>>(chosen << shift) >> vec4<u32>(24u));
}

// The entries named by the low four bits of the bytes of two words.
fn lookup8(q: vec2<u32>, table: vec4<u32>) -> mat2x4<f32> {
    return mat2x4<f32>(lookup(fields(q.x, 15u), table), lookup(fields(q.y, 15u), table));
}
