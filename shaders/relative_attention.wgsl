// Attention of a frame to itself and the W − 1 before it, with a row r of each distance, per head n:
//   y[t, n] = Σ_d softmax_d(CAP · tanh(q[t, n]·(k[t−d, n] + r[d, n]) / CAP)) · v[t−d, n], 0 ≤ d < W, of frames that are kept.
// q, k, v, y [B, T, N, H]; r [W, N, H]; keep [B, T], below 0.5 drops the key.
// A frame that sees no key gives zeros (BLIND = zeros), or the sum of its block's v over CHUNK + W (BLIND = mean): of the
// CHUNK frames that it is of and the W before them, those whose keep is above -0.5.
// One workgroup: one frame, all heads. A lane computes whole scores, then weights of a head, then elements of the result.
// Grid: ROWS folded over x and y.
// Overrides: T, N, H, W, ROWS (= B*T), CAP, with BLIND = mean CHUNK. Options: LANES, SCORES (= W*N), BLIND.
override T: u32;
override N: u32;
override H: u32;
override W: u32;
override ROWS: u32;
override CAP: f32;

const LANES = ${LANES}u;
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> r: array<f32>;
@group(0) @binding(5) var<storage, read> keep: array<f32>;

// Scores, then weights, [N, W]. A frame that is not seen has weight 0.
var<workgroup> weights: array<f32, ${SCORES}>;

fn sees(row: u32, distance: u32) -> bool {
    if distance > row % T { return false; }
    return keep[row - distance] >= 0.5;
}

#if BLIND == mean
override CHUNK: u32;
fn is_blind(row: u32) -> bool {
    for (var d = 0u; d < W; d++) {
        if sees(row, d) { return false; }
    }
    return true;
}
// Element i of the mean of a frame's block.
fn block_mean(row: u32, i: u32) -> f32 {
    let frame = row % T;
    let begin = frame / CHUNK * CHUNK;
    var sum = 0.0;
    for (var t = max(begin, W) - W; t < min(begin + CHUNK, T); t++) {
        let place = row - frame + t;
        if keep[place] > -0.5 { sum += v[place * N * H + i]; }
    }
    return sum / f32(CHUNK + W);
}
#elif BLIND == zeros
fn is_blind(row: u32) -> bool { return false; }
fn block_mean(row: u32, i: u32) -> f32 { return 0.0; }
#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = wid.x + wid.y * groups.x;
    if row >= ROWS { return; }
    for (var i = lane; i < N * W; i += LANES) {
        let head = i / W;
        let distance = i % W;
        if !sees(row, distance) { continue; }
        let query = (row * N + head) * H;
        let key = ((row - distance) * N + head) * H;
        let gap = (distance * N + head) * H;
        var sum = 0.0;
        for (var h = 0u; h < H; h++) { sum = fma(q[query + h], k[key + h] + r[gap + h], sum); }
        weights[i] = CAP * tanh(clamp(sum / CAP, -15.0, 15.0));
    }
    workgroupBarrier();
    for (var head = lane; head < N; head += LANES) {
        var largest = -3.0e38;
        for (var d = 0u; d < W; d++) {
            if sees(row, d) { largest = max(largest, weights[head * W + d]); }
        }
        var total = 0.0;
        for (var d = 0u; d < W; d++) {
            var weight = 0.0;
            if sees(row, d) { weight = exp(weights[head * W + d] - largest); }
            weights[head * W + d] = weight;
            total += weight;
        }
        let scale = select(0.0, 1.0 / total, total > 0.0);
        for (var d = 0u; d < W; d++) { weights[head * W + d] *= scale; }
    }
    workgroupBarrier();
    let blind = is_blind(row);
    for (var i = lane; i < N * H; i += LANES) {
        let head = i / H;
        var sum = 0.0;
        if blind { sum = block_mean(row, i); }
        for (var d = 0u; d < W; d++) {
            let weight = weights[head * W + d];
            if weight > 0.0 { sum = fma(weight, v[(row - d) * N * H + i], sum); }
        }
        y[row * N * H + i] = sum;
    }
}
