use super::*;

#[test]
fn a_cut_vector_is_a_unit_vector_again() {
    let mut vector = vec![3.0, 4.0, 12.0];
    shorten(&mut vector, 2, 0).unwrap();
    assert_eq!(vector, [0.6, 0.8]);
    for odd in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
        let error = shorten(&mut odd.to_vec(), 2, 7).unwrap_err();
        assert!(matches!(error, Error::Embedding(EmbeddingError::NoDirection { index: 7, .. })));
        assert!(error.to_string().contains("text 7"));
    }
}
