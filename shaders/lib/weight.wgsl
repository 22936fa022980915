// Weights as stored, widened to f32: `w0` (and `w1` with WEIGHTS = 2), an array of Stored that holds [rows, IN].
// `weight0(row, c)` gives the elements 8c .. 8c+7 of a row, and zeros past IN; `weight1` those of w1.
// Options: WEIGHT = f32 | f16 | bf16 | the name of a packed format; VEC and WEIGHTS as the included files say.
#if WEIGHT == f32
#include lib/scalar_weight.wgsl
#elif WEIGHT == f16
#include lib/scalar_weight.wgsl
#elif WEIGHT == bf16
#include lib/scalar_weight.wgsl
#else
#include lib/packed_weight.wgsl
#endif
