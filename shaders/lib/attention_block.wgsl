// A workgroup of attention whose keys go by tiles: TQ (t, head) pairs of one KV head, t slowest.
// Needs TQ, LANES, lib/attention.wgsl and lib/lanes_ends.wgsl.
struct Block {
    // The first pair.
    first: u32,
    kv: u32,
    b: u32,
}

fn pairs_of_head() -> u32 { return T * (N / K); }

fn block_of(group: u32) -> Block {
    let blocks = (pairs_of_head() + TQ - 1u) / TQ;
    return Block(group % blocks * TQ, group / blocks % K, group / blocks / K);
}

// The positions between which a pair of the block sees keys; past the last pair those of the last.
fn bounds_of(block: Block, row: u32) -> vec2<i32> {
    let pair = min(block.first + row, pairs_of_head() - 1u);
    return visible[block.b * T + pair / (N / K) + step.sequence];
}

// The same of all of its pairs together.
fn bounds_of_all(block: Block) -> vec2<i32> {
    var all = vec2<i32>(0x7fffffff, -1);
    for (var row = 0u; row < TQ; row += N / K) {
        let seen = bounds_of(block, row);
        all = vec2<i32>(min(all.x, seen.x), max(all.y, seen.y));
    }
    let last = bounds_of(block, TQ - 1u);
    return vec2<i32>(min(all.x, last.x), max(all.y, last.y));
}

// The first and the end of those rows of the part that some query sees; they may bound a loop with barriers.
fn seen_rows(block: Block, all: vec2<i32>, rows: vec2<u32>, lane: u32) -> vec2<u32> {
    var low = 0xffffffffu;
    var high = 0u;
    for (var s = rows.x + lane; s < rows.y; s += LANES) {
        let i = block.b * cache_rows() + s;
        if sees(all, key_positions[i], i) { low = min(low, s); high = s + 1u; }
    }
    return lanes_ends(low, high, lane);
}
