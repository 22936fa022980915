use crate::ir::{DType, Packed};

fn types() -> impl Iterator<Item = DType> {
    [DType::F32, DType::F16, DType::BF16].into_iter().chain(Packed::all().map(DType::Packed))
}

/// Rows of bytes that stand for finite numbers in every type.
fn stored(dtype: DType, rows: usize, inner: usize) -> Vec<u8> {
    let (elements, bytes) = dtype.block();
    (0..rows * inner / elements * bytes).map(|i| (i * 37 % 61) as u8).collect()
}

#[test]
fn halves_are_those_of_half() {
    for bits in 0..=u16::MAX {
        let found = super::half(bits);
        let expected = half::f16::from_bits(bits).to_f32();
        assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:x}: {found}, {expected}");
    }
}

#[test]
fn a_product_is_the_sum_of_widened_numbers_for_every_format() {
    for (dtype, inner) in types().flat_map(|dtype| {
        let whole = dtype.block().0.max(64);
        [whole, 3 * whole, if dtype.block().0 == 1 { 77 } else { whole }].map(|inner| (dtype, inner))
    }) {
        let rows = dtype.rows().unwrap();
        let columns = 5;
        let stored = stored(dtype, columns, inner);
        let mut wide = vec![f32::NAN; columns * inner];
        rows.widen(&stored, &mut wide);
        let x: Vec<f32> = (0..7 * inner).map(|i| (i * 29 % 41) as f32 / 20.0 - 1.0).collect();
        let mut out = vec![f32::NAN; 7 * columns];
        rows.multiply(&stored, &x, inner, &mut out);
        for (i, found) in out.iter().enumerate() {
            let products = wide[i / 7 * inner..].iter().zip(&x[i % 7 * inner..]).take(inner);
            let products: Vec<f64> = products.map(|(w, x)| f64::from(*w) * f64::from(*x)).collect();
            let (sum, size) = products.iter().fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
            assert!((f64::from(*found) - sum).abs() <= 4e-7 * size, "{dtype} of {inner}, {i}: {found} and {sum}");
        }
    }
}

#[test]
fn a_row_means_the_same_beside_any_others() {
    for (dtype, inner) in types().map(|dtype| (dtype, dtype.block().0.max(96))) {
        let rows = dtype.rows().unwrap();
        let stored = stored(dtype, 3, inner);
        let x: Vec<f32> = (0..6 * inner).map(|i| (i * 29 % 41) as f32 / 20.0 - 1.0).collect();
        let mut all = vec![f32::NAN; 6 * 3];
        rows.multiply(&stored, &x, inner, &mut all);
        for (m, x) in x.chunks_exact(inner).enumerate() {
            let mut one = vec![f32::NAN; 3];
            rows.multiply(&stored, x, inner, &mut one);
            assert!((0..3).all(|n| one[n].to_bits() == all[n * 6 + m].to_bits()), "{dtype}, row {m}");
        }
    }
}
