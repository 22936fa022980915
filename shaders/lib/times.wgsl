// How often a loop of a constant number of turns runs. Options: ROLLED = no (the constant, so that compilers unroll it) | yes (read at run
// time, as drivers on the CPU take seconds to compile what is unrolled).
#if ROLLED == yes
fn times(n: u32) -> u32 { return select(n, 0u, step.rows == 0u); }
#else
fn times(n: u32) -> u32 { return n; }
#endif
