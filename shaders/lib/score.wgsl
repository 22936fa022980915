// The score of a product of query and key. Options: SOFTCAP = yes (override CAP) | no.
fn score(z: f32) -> f32 {
#if SOFTCAP == yes
    return CAP * tanh(clamp(z * SCALE / CAP, -15.0, 15.0));
#else
    return z * SCALE;
#endif
}
