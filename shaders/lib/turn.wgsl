// Options: WEIGHT, as in lib/weight.wgsl.
#if WEIGHT == f32
#include lib/scalar_turn.wgsl
#elif WEIGHT == f16
#include lib/scalar_turn.wgsl
#elif WEIGHT == bf16
#include lib/scalar_turn.wgsl
#else
#include lib/packed_turn.wgsl
#endif
