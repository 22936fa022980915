// What conv2d and conv2d_lanes share: sizes and bindings. conv2d.wgsl has the formula.
// Overrides: P, O, and those of lib/windows.wgsl.
// Options: BIAS = yes (VEC = 1) | no (no binding 3), and those of lib/weight.wgsl.
override P: u32;
override O: u32;

#include lib/windows.wgsl
#include lib/weight.wgsl
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> w0: array<Stored>;
#if BIAS == yes
@group(0) @binding(3) var<storage, read> w1: array<Stored>;
fn bias(o: u32) -> f32 { return widen(w1[word_of(o)], o); }
#elif BIAS == no
fn bias(o: u32) -> f32 { return 0.0; }
#endif
