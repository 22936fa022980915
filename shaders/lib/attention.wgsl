// The common parts of the attention kernels: sizes, caches, visible keys, scores, and the places of partial results.
// Options: VEC = 4 | 2, KV, WIDE, KEEP, SOFTCAP of the included files; SPLITS = yes | no; PROLOGUE = no | yes (a new
//   row is written into the caches).
override BATCH: u32;
override T: u32;
override S: u32;
override N: u32;
override K: u32;
override H: u32;
override SCALE: f32;
override CAP: f32;
override PARTS: u32;

const VEC = ${VEC}u;
const HIDDEN = -1e30;
#include lib/step.wgsl
#include lib/cached.wgsl
#include lib/visible.wgsl
#include lib/score.wgsl
#if PROLOGUE == yes
@group(0) @binding(1) var<storage, read_write> keys: array<Cached>;
@group(0) @binding(2) var<storage, read_write> values: array<Cached>;
#elif PROLOGUE == no
@group(0) @binding(1) var<storage, read> keys: array<Cached>;
@group(0) @binding(2) var<storage, read> values: array<Cached>;
#endif
// Rows of the caches.
fn cache_rows() -> u32 { return select(S, step.capacity, S == 0u); }

// The first and the end of the rows that a part looks through, in whole strides.
fn rows_of_part(part: u32, stride: u32) -> vec2<u32> {
    let live = min(cache_rows(), step.end);
#if SPLITS == yes
    let share = ((live + PARTS - 1u) / PARTS + stride - 1u) / stride * stride;
    let begin = min(part * share, live);
    return vec2<u32>(begin, min(begin + share, live));
#else
    return vec2<u32>(0u, live);
#endif
}
#if SPLITS == yes
@group(0) @binding(7) var<storage, read_write> scratch: array<f32>;
#endif
