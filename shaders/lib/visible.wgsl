// The keys that a query sees, from the positions between which it sees them. Options: KEEP = yes (binding 6) | no.
@group(0) @binding(3) var<storage, read> visible: array<vec2<i32>>;
@group(0) @binding(4) var<storage, read> key_positions: array<i32>;
#if KEEP == yes
@group(0) @binding(6) var<storage, read> keep: array<f32>;
#endif

// True if a query that sees the positions from bounds.x to bounds.y sees the key of row i = b*S + s, whose position is
// `key`.
fn sees(bounds: vec2<i32>, key: i32, i: u32) -> bool {
    let seen = key >= bounds.x && key <= bounds.y && key != 0x7fffffff;
#if KEEP == yes
    return seen && keep[i] >= 0.5;
#else
    return seen;
#endif
}
