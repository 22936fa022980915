// The gains of the norms on queries (gain0) and keys (gain1) of a new row, by element of a head.
// Options: GAIN = none | plain | one_plus with WEIGHT and WEIGHTS = 2; VEC is not 8.
#if GAIN == none
fn gain0(h: u32) -> f32 { return 1.0; }
fn gain1(h: u32) -> f32 { return 1.0; }
#else
override EPS: f32;
override IN: u32 = H;
#include lib/weight.wgsl
@group(0) @binding(12) var<storage, read> w0: array<Stored>;
@group(0) @binding(13) var<storage, read> w1: array<Stored>;
#if GAIN == one_plus
fn gain0(h: u32) -> f32 { return 1.0 + element0(0u, h); }
fn gain1(h: u32) -> f32 { return 1.0 + element1(0u, h); }
#elif GAIN == plain
fn gain0(h: u32) -> f32 { return element0(0u, h); }
fn gain1(h: u32) -> f32 { return element1(0u, h); }
#endif
#endif
