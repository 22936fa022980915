// The keys that a query sees, from the positions between which it sees them. Options: KEEP = yes (binding 6) | no.
@group(0) @binding(3) var<storage, read> visible: array<vec2<i32>>;
@group(0) @binding(4) var<storage, read> key_positions: array<i32>;
#if KEEP == yes
@group(0) @binding(6) var<storage, read> keep: array<f32>;
#endif

fn is_between(bounds: vec2<i32>, key: i32) -> bool { return key >= bounds.x && key <= bounds.y && key != 0x7fffffff; }

// True if a query that sees the positions from bounds.x to bounds.y sees the key of row i = b*S + s, whose position is
// `key`.
fn sees(bounds: vec2<i32>, key: i32, i: u32) -> bool {
#if KEEP == yes
    return is_between(bounds, key) && keep[i] >= 0.5;
#else
    return is_between(bounds, key);
#endif
}

// The position of the key of row i, 0x7fffffff if no query sees it.
fn kept_position(i: u32) -> i32 {
#if KEEP == yes
    return select(0x7fffffff, key_positions[i], keep[i] >= 0.5);
#else
    return key_positions[i];
#endif
}
