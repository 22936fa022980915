// Sums over teams: SPAN neighbouring lanes of the LANES of a workgroup (a multiple of four, which divides LANES).
// Each lane has SUMS numbers. total(team, i) is the sum of a team's i-th numbers, for any lane after `meet`, which is
// called in uniform control flow.
// Lanes add four or more numbers of one sum each, then one lane adds their results.
// These are two rounds instead of a chain of LANES additions.
const TEAMS = LANES / SPAN;
const TOTALS = TEAMS * SUMS;
// Lanes that share the work on one sum.
const HELPERS = min(min(SPAN / 4u, 8u), 1u << firstLeadingBit(max(LANES / TOTALS, 1u)));
// Four more than the lanes, so that equal lanes of different sums lie in different banks.
const PITCH = LANES + 4u;
var<workgroup> team_numbers: array<f32, SUMS * PITCH>;
var<workgroup> team_parts: array<f32, TOTALS * HELPERS>;

fn meet(own: ptr<function, array<f32, SUMS>>, lane: u32) {
    for (var i = 0u; i < SUMS; i++) { team_numbers[i * PITCH + lane] = (*own)[i]; }
    workgroupBarrier();
    for (var first = 0u; first < TOTALS * HELPERS; first += LANES) {
        let p = first + lane;
        if p < TOTALS * HELPERS { team_parts[p] = part(p); }
    }
    workgroupBarrier();
}

// The part of a sum that helper p adds.
fn part(p: u32) -> f32 {
    let which = p / HELPERS;
    let at = which / TEAMS * PITCH + which % TEAMS * SPAN + p % HELPERS * 4u;
    var sum = vec4<f32>();
    for (var k = 0u; k < SPAN / HELPERS / 4u; k++) {
        let start = at + k * HELPERS * 4u;
        sum += vec4<f32>(team_numbers[start], team_numbers[start + 1u], team_numbers[start + 2u], team_numbers[start + 3u]);
    }
    return sum.x + sum.y + sum.z + sum.w;
}

fn total(team: u32, i: u32) -> f32 {
    let at = (i * TEAMS + team) * HELPERS;
    var sum = team_parts[at];
    for (var k = 1u; k < HELPERS; k++) { sum += team_parts[at + k]; }
    return sum;
}
