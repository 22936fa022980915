// Entries q (0 .. 15) of a table of signed bytes, four a word, the earlier ones in the lower bits.
fn lookup(q: vec4<u32>, table: vec4<u32>) -> vec4<f32> {
    let second = (q & vec4<u32>(4u)) != vec4<u32>(0u);
    let low = select(vec4<u32>(table.x), vec4<u32>(table.y), second);
    let high = select(vec4<u32>(table.z), vec4<u32>(table.w), second);
    let chosen = select(low, high, q >= vec4<u32>(8u));
    let shift = vec4<u32>(24u) - (q & vec4<u32>(3u)) * 8u;
    return vec4<f32>(bitcast<vec4<i32>>(chosen << shift) >> vec4<u32>(24u));
}
