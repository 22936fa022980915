use super::*;

#[test]
fn blocks_of_zeros_are_finite_and_fill_their_elements() {
    for format in Packed::all() {
        let mut out = [f32::NAN; MAX_BLOCK_ELEMENTS];
        format.rows().widen(&vec![0; format.block_bytes()], &mut out[..format.block_elements()]);
        let (filled, rest) = out.split_at(format.block_elements());
        assert!(filled.iter().all(|x| *x == 0.0) && rest.iter().all(|x| x.is_nan()), "{format:?}");
    }
}

#[test]
fn formats_are_found_by_name_and_number() {
    for format in Packed::all() {
        assert_eq!(Packed::by_name(format.name()), Some(format));
        assert_eq!(Packed::by_ggml_type(format.format().ggml_type), Some(format));
    }
    assert!(Packed::by_ggml_type(4).is_none() && Packed::by_ggml_type(u32::MAX).is_none() && Packed::by_name("F16").is_none());
}

#[test]
fn rows_on_a_device_are_words_then_factors_then_zeros() {
    for format in Packed::all() {
        let bytes = format.block_bytes();
        let factors = format.factors();
        assert!([1, 2, 4, 8, 16].contains(&factors.len()) && (bytes - factors.len()).is_multiple_of(4), "{format:?}");
        assert!(factors.start == 0 || factors.end == bytes, "{format:?}");
        let row: Vec<u8> = (0..3 * bytes).map(|i| i as u8 | 1).collect();
        let mut out = vec![9; format.resident_row_bytes(3).unwrap() as usize];
        format.arrange(&row, &mut out);
        let part = |of_factors: bool| {
            let belongs = |i: &usize| factors.contains(&(i % bytes)) == of_factors;
            (0..row.len()).filter(belongs).map(|i| row[i]).collect::<Vec<u8>>()
        };
        let mut expected = [part(false), part(true)].concat();
        expected.resize(out.len(), 0);
        assert_eq!(out, expected, "{format:?}");
        assert!(out.len() < 3 * bytes + 16);
    }
    assert_eq!(Packed::by_name("Q8_0").unwrap().resident_row_bytes(u64::MAX), None);
}
