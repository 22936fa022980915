// The number of turns of a loop.
// Options: ROLLED = no | yes (drivers on the CPU take seconds to compile unrolled loops).
// Of a loop that compilers shall unroll: a constant, unless ROLLED.
#if ROLLED == yes
fn times(n: u32) -> u32 { return rolled(n); }
#else
fn times(n: u32) -> u32 { return n; }
#endif
// Of a loop that no compiler shall unroll, as it would then load all at once and run out of registers: n, read at run
// time.
fn rolled(n: u32) -> u32 { return select(n, 0u, step.rows == 0u); }
