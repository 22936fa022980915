use super::*;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

// The expected bits come from 50-digit decimal powers of the f32 exponent, rounded once to f32, then numpy's f32
// division.
#[test]
fn inverse_frequencies_have_the_bits_of_the_correctly_rounded_ones() {
    let expected = [0x3f800000, 0x3ea1e89b, 0x3dcccccd, 0x3d0186e3, 0x3c23d70a, 0x3b4f3e38, 0x3a83126f, 0x39a5cb60u32];
    assert_eq!(bits(&default_inv_freq(1e4, 16)), expected);
    let sum = |values: &[f32]| values.iter().map(|v| u64::from(v.to_bits())).sum::<u64>();
    for (theta, head_dim, total, (at, one)) in [
        (1e6, 256, 0x1d_4380_f95f, (118, 0x3645_7babu32)),
        (1e4, 256, 0x1e_167c_4693, (53, 0x3cb4_c691)),
        (1e4, 128, 0x0f_0ce9_c1d8, (23, 0x3d15_9348)),
    ] {
        let found = default_inv_freq(theta, head_dim);
        assert_eq!((found.len(), found[at].to_bits(), sum(&found)), (head_dim / 2, one, total), "{theta} {head_dim}");
    }
}

#[test]
fn linear_and_llama3_scaling_have_the_bits_of_the_formula_in_numpy() {
    let linear = RopeConfig { theta: 1e6, scaling: RopeScaling::Linear { factor: 3.0 } };
    let expected = [
        0x3eaaaaab,
        0x3dab7a65,
        0x3cac4b1d,
        0x3bad1cd1,
        0x3aadef88,
        0x39aec33f,
        0x38af97f1,
        0x37b06db1,
        0x36b1446c,
        0x35b21c35u32,
    ];
    assert_eq!(bits(&resolve_inv_freq(&linear, 20, None).unwrap()), expected);
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 256 };
    let expected = [
        0x3f800000,
        0x3ee177bc,
        0x3e4693b0,
        0x3d945633,
        0x3c2ca88c,
        0x3b07a9c3,
        0x3a6ef74f,
        0x39d27720,
        0x39395d21,
        0x38a3418d,
        0x380fc8f8,
        0x377d45c3,
        0x36df10c4,
        0x36447610,
        0x35ad07a7,
        0x351864a7u32,
    ];
    assert_eq!(bits(&resolve_inv_freq(&RopeConfig { theta: 5e5, scaling }, 32, None).unwrap()), expected);
}

#[test]
fn far_positions_keep_the_f32_angle_and_an_exact_cosine() {
    let inv_freq = default_inv_freq(1e6, 20);
    for (pos, expected_cos, expected_sin) in [
        (1, [0x3f0a5140, 0x3f77f754, 0x3f7f7d97, 0x3f7ff7c5u32], [0x3f576aa4, 0x3e7e8553, 0x3d812264, 0x3c81d439u32]),
        (33, [0xbc5986b7, 0xbed7dffc, 0xbefa8e38, 0x3f5dc6f9], [0x3f7ffa39, 0x3f6821ec, 0x3f5f4087, 0x3effbdaf]),
        (32768, [0x3ebef1b5, 0x3f7fedda, 0x3f70365b, 0xbf0fad11], [0x3f6d87fe, 0xbcc0c519, 0x3eb1052b, 0xbf53e151]),
        (131_071, [0xbf51675e, 0x3f70fd7a, 0x3e619e2f, 0xbf3caa31], [0xbf13430a, 0xbeacbd5b, 0x3f79b57a, 0xbf2d0950]),
    ] {
        let (cos, sin) = rope_slice(&inv_freq, pos);
        assert_eq!((&bits(&cos)[..4], &bits(&sin)[..4]), (&expected_cos[..], &expected_sin[..]), "position {pos}");
    }
    let (cos, sin) = build_rope_tables(&inv_freq, 34);
    assert_eq!((&cos[330..], &sin[330..]), (&rope_slice(&inv_freq, 33).0[..], &rope_slice(&inv_freq, 33).1[..]));
    assert_eq!((cos.len(), cos[0], sin[9]), (340, 1.0, 0.0));
}

#[test]
fn proportional_tables_keep_the_exponents_of_the_whole_head() {
    let scaling = RopeScaling::Proportional { partial_rotary_factor: 0.25, factor: 2.0 };
    let found = resolve_inv_freq(&RopeConfig { theta: 1e6, scaling }, 32, None).unwrap();
    let whole = default_inv_freq(1e6, 32);
    assert_eq!(found[..4], whole[..4].iter().map(|f| f / 2.0).collect::<Vec<_>>());
    assert_eq!(found[4..], [0.0; 12]);
}

#[test]
fn factors_must_fit() {
    let rope = RopeConfig::new(1e4);
    let halved = resolve_inv_freq(&rope, 4, Some(&[1.0, 2.0])).unwrap();
    assert_eq!(halved, [1.0, default_inv_freq(1e4, 4)[1] / 2.0]);
    for factors in [&[1.0][..], &[1.0, 0.0], &[f32::NAN, 1.0], &[1.0; 4]] {
        assert!(matches!(resolve_inv_freq(&rope, 4, Some(factors)), Err(Error::Input { .. })));
    }
    assert!(resolve_inv_freq(&rope, 5, None).is_err() && resolve_inv_freq(&rope, 0, None).is_err());
}
