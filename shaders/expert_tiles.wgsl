// Groups products by the expert that a route [P/TOP, 2, TOP] names.
// order [P] has the products of expert 0, then those of expert 1 and so on, in any order within one expert.
// tiles [TILES] are up to HEIGHT neighbours of one expert each: (expert, first, count, 0), and zeros behind the last.
// TILES >= (P - n)/HEIGHT + n with n = min(E, P).
// One workgroup counts, adds up and sorts; grid: 1.
// Overrides: P, TOP, E (at most 1024), TILES, HEIGHT. Options: LANES.
override P: u32;
override TOP: u32;
override E: u32;
override TILES: u32;
override HEIGHT: u32;

const LANES = ${LANES}u;
const EXPERTS = 1024u;
@group(0) @binding(0) var<storage, read> route: array<f32>;
@group(0) @binding(1) var<storage, read_write> order: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4<u32>>;
var<workgroup> counts: array<atomic<u32>, EXPERTS>;
// Where the next product of each expert goes.
var<workgroup> next: array<atomic<u32>, EXPERTS>;

fn expert(p: u32) -> u32 { return min(u32(route[p / TOP * 2u * TOP + p % TOP]), E - 1u); }

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var e = lane; e < E; e += LANES) { atomicStore(&counts[e], 0u); }
    workgroupBarrier();
    for (var p = lane; p < P; p += LANES) { atomicAdd(&counts[expert(p)], 1u); }
    workgroupBarrier();
    for (var e = lane; e < E; e += LANES) {
        var first = 0u;
        var tile = 0u;
        for (var before = 0u; before < e; before++) {
            let count = atomicLoad(&counts[before]);
            first += count;
            tile += (count + HEIGHT - 1u) / HEIGHT;
        }
        atomicStore(&next[e], first);
        let own = atomicLoad(&counts[e]);
        for (var done = 0u; done < own; done += HEIGHT) {
            tiles[tile] = vec4<u32>(e, first + done, min(HEIGHT, own - done), 0u);
            tile++;
        }
        if e == E - 1u {
            for (; tile < TILES; tile++) { tiles[tile] = vec4<u32>(0u); }
        }
    }
    workgroupBarrier();
    for (var p = lane; p < P; p += LANES) { order[atomicAdd(&next[expert(p)], 1u)] = p; }
}
