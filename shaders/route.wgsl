// Chooses experts. Of each row of logits [R, E] it takes the TOP largest, largest first and lowest index first among
// equals. The share of an expert is its part of the softmax over these, times the expert's scale.
// NaN counts as the lowest.
// y[r] = TOP indices as f32, then their TOP shares; y [R, 2, TOP], scales [E] as stored.
// One workgroup: one row. Grid: R folded over x and y.
// Overrides: R, E, TOP (at most E). Options: TIER, LANES, WEIGHT (of the scales), VEC = 1, WEIGHTS = 1.
override R: u32;
override E: u32;
override TOP: u32;
override IN: u32 = E;

const LANES = ${LANES}u;
const NONE = 0xffffffffu;
const MOST = 3.4e38;
const BEYOND = 3.4028234e38;
#include lib/lanes.wgsl
#include lib/weight.wgsl
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> w0: array<Stored>;

fn logit(i: u32) -> f32 {
    let v = logits[i];
    return min(select(-MOST, v, v > -MOST), MOST);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
    let r = wid.x + wid.y * groups.x;
    if r >= R { return; }
    let to = r * 2u * TOP;
    var last = BEYOND;
    var taken = NONE;
    var most = 0.0;
    var sum = 0.0;
    for (var j = 0u; j < TOP; j++) {
        var best = -BEYOND;
        var id = NONE;
        for (var e = lane; e < E; e += LANES) {
            let v = logit(r * E + e);
            let left = v < last || (v == last && e > taken);
            if left && v > best { best = v; id = e; }
        }
        last = lanes_max(best, lane);
        taken = lanes_least(select(NONE, id, best == last), lane);
        most = select(most, last, j == 0u);
        let share = exp(max(last - most, -100.0));
        sum += share;
        if lane == 0u {
            y[to + j] = f32(min(taken, E - 1u));
            y[to + TOP + j] = share * element0(0u, min(taken, E - 1u));
        }
    }
    if lane == 0u {
        for (var j = 0u; j < TOP; j++) { y[to + TOP + j] /= sum; }
    }
}
