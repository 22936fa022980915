// The TOP largest logits of each row of [R, V], largest first and lowest index first among equals, with the row's
// maximum and Σ_v exp((l_v − max)/temperature), in two dispatches; step.temperature > 0.
// STAGE = slices: one workgroup takes SLICE neighbouring logits. Grid: R*SLICES folded over x and y.
//   0 logits f32 [R, V],
//   1 partials [R, SLICES] of (bits of the maximum, its index, bits of the slice's sum of exp, 0), 8 step.
// STAGE = merge: one workgroup a row picks the best slice TOP times and looks through that slice for its next.
//   Grid: R folded over x and y.
//   0 logits, 1 result u32 [R, 2*TOP + 3], 2 partials (written with TIER = alone), 8 step.
//   A row of the result: TOP indices, bits of their TOP values, bits of the maximum, bits of the sum, the index that is
//   drawn. Past V the index is 0xffffffff. The sum of a row with NaN in it is NaN.
//   The draw walks down the list in f32. The host walks in f64 and has the last word.
// Row r of logits and result lies at row r + step.sequence.
// Overrides: R, V, SLICE, SLICES (= ceil(V/SLICE), at most 1024), TOP (merge only). Options: TIER, LANES, STAGE.
override R: u32;
override V: u32;
override SLICE: u32;
override SLICES: u32;
#if STAGE == merge
override TOP: u32;
#endif

const LANES = ${LANES}u;
const MAX_SLICES = 1024u;
const NONE = 0xffffffffu;
const LOWEST = -3.4e38;
const NAN_BITS = 0x7fc00000u;
#include lib/lanes.wgsl
#include lib/step.wgsl
@group(0) @binding(0) var<storage, read> logits: array<f32>;
#if STAGE == slices
@group(0) @binding(1) var<storage, read_write> partials: array<vec4<u32>>;
#elif STAGE == merge
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
// The head of a slice is its best logit that is not in the result yet; a lane reads and writes only its own slices.
#if TIER == alone
// The heads replace the maxima in `partials`: such drivers clear workgroup memory with one instruction per element.
@group(0) @binding(2) var<storage, read_write> partials: array<vec4<u32>>;
fn head_value(group: u32, s: u32) -> f32 { return bitcast<f32>(partials[group * SLICES + s].x); }
fn head_id(group: u32, s: u32) -> u32 { return partials[group * SLICES + s].y; }
fn set_head(group: u32, s: u32, value: f32, id: u32) {
    partials[group * SLICES + s].x = bitcast<u32>(value);
    partials[group * SLICES + s].y = id;
}
#else
@group(0) @binding(2) var<storage, read> partials: array<vec4<u32>>;
var<workgroup> head_values: array<f32, MAX_SLICES>;
var<workgroup> head_ids: array<u32, MAX_SLICES>;
fn head_value(group: u32, s: u32) -> f32 { return head_values[s]; }
fn head_id(group: u32, s: u32) -> u32 { return head_ids[s]; }
fn set_head(group: u32, s: u32, value: f32, id: u32) {
    head_values[s] = value;
    head_ids[s] = id;
}
#endif
#endif

// By its bits: a driver may compute as though there were no NaN.
fn is_nan(bits: u32) -> bool { return (bits & 0x7fffffffu) > 0x7f800000u; }

#if STAGE == merge
// Entry i of the list from `to` on, as a part of the largest probability.
fn part(to: u32, i: u32) -> f32 {
    let below = bitcast<f32>(result[to + TOP + i]) - bitcast<f32>(result[to + TOP]);
    return exp(max(below / step.temperature, -100.0));
}

// The index at which the draw ends, from the list and the sum of the row.
fn drawn(to: u32, total: f32) -> u32 {
    var kept = min(TOP, V);
    var mass = total;
    var sum = 0.0;
    if step.top_k > 0u && step.top_k <= kept {
        kept = step.top_k;
        for (var i = 0u; i < kept; i++) { sum += part(to, i); }
        mass = sum;
    }
    if step.top_p < 1.0 {
        sum = 0.0;
        for (var i = 0u; i < kept; i++) {
            sum += part(to, i);
            if sum >= step.top_p * mass {
                kept = i + 1u;
                mass = sum;
            }
        }
    }
    if step.min_p > 0.0 {
        sum = 0.0;
        for (var i = 0u; i < kept; i++) {
            if part(to, i) < step.min_p {
                kept = i;
                mass = sum;
            } else {
                sum += part(to, i);
            }
        }
    }
    sum = 0.0;
    for (var i = 0u; i + 1u < kept; i++) {
        sum += part(to, i);
        if sum > step.draw * mass { return result[to + i]; }
    }
    return result[to + max(kept, 1u) - 1u];
}
#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
    let group = wid.x + wid.y * groups.x;
#if STAGE == slices
    if group >= R * SLICES { return; }
    let row = (group / SLICES + step.sequence) * V;
    let first = group % SLICES * SLICE;
    let end = min(first + SLICE, V);
    var best = LOWEST;
    var id = NONE;
    var broken = NONE;
    for (var i = first + lane; i < end; i += LANES) {
        let v = logits[row + i];
        if v > best { best = v; id = i; }
        if is_nan(bitcast<u32>(v)) { broken = 0u; }
    }
    let top = lanes_max(best, lane);
    let least = lanes_least(select(NONE, id, best == top), lane);
    var sum = 0.0;
    for (var i = first + lane; i < end; i += LANES) {
        sum += exp(max((logits[row + i] - top) / step.temperature, -100.0));
    }
    let total = lanes_sum(sum, lane);
    let bits = select(bitcast<u32>(total), NAN_BITS, lanes_least(broken, lane) == 0u);
    if lane == 0u { partials[group] = vec4<u32>(bitcast<u32>(top), least, bits, 0u); }
#elif STAGE == merge
    if group >= R { return; }
    let row = (group + step.sequence) * V;
    let to = (group + step.sequence) * (2u * TOP + 3u);
    var most = LOWEST;
    for (var s = lane; s < SLICES; s += LANES) {
        let p = partials[group * SLICES + s];
        set_head(group, s, bitcast<f32>(p.x), p.y);
        most = max(most, bitcast<f32>(p.x));
    }
    let top = lanes_max(most, lane);
    var sum = 0.0;
    var broken = NONE;
    for (var s = lane; s < SLICES; s += LANES) {
        let p = partials[group * SLICES + s];
        if is_nan(p.z) { broken = 0u; }
        sum += bitcast<f32>(p.z) * exp(max((bitcast<f32>(p.x) - top) / step.temperature, -100.0));
    }
    let total = lanes_sum(sum, lane);
    let bits = select(bitcast<u32>(total), NAN_BITS, lanes_least(broken, lane) == 0u);
    if lane == 0u {
        result[to + 2u * TOP] = bitcast<u32>(top);
        result[to + 2u * TOP + 1u] = bits;
    }
    for (var k = 0u; k < TOP; k++) {
        var best = LOWEST;
        var id = NONE;
        for (var s = lane; s < SLICES; s += LANES) {
            if head_value(group, s) > best { best = head_value(group, s); id = head_id(group, s); }
        }
        let value = lanes_max(best, lane);
        let taken = lanes_least(select(NONE, id, best == value), lane);
        if lane == 0u {
            result[to + k] = taken;
            result[to + TOP + k] = bitcast<u32>(value);
        }
        let slice = min(taken / SLICE, SLICES - 1u);
        var next = LOWEST;
        var next_id = NONE;
        for (var i = slice * SLICE + lane; i < min((slice + 1u) * SLICE, V); i += LANES) {
            let v = logits[row + i];
            if v > next && (v < value || (v == value && i > taken)) { next = v; next_id = i; }
        }
        let runner = lanes_max(next, lane);
        let runner_id = lanes_least(select(NONE, next_id, next == runner), lane);
        if slice % LANES == lane && taken != NONE {
            set_head(group, slice, runner, runner_id);
        }
    }
    if lane == 0u { result[to + 2u * TOP + 2u] = drawn(to, total); }
#endif
}
