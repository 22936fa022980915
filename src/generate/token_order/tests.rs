use super::*;

#[test]
fn rows_are_read_in_order_in_any_parts() {
    let order = TokenOrder { tokens: [2, 0, 3, 1].into(), of_each: 2 };
    let embed = Tensor::from_f32("embed", vec![4, 3], &(0..12).map(|i| i as f32).collect::<Vec<_>>());
    let ordered = order.ordered(embed);
    let all = ordered.to_f32().unwrap();
    assert_eq!(all, [6.0, 7.0, 8.0, 0.0, 1.0, 2.0, 9.0, 10.0, 11.0, 3.0, 4.0, 5.0]);
    for start in 0..48 {
        for len in 0..48 - start {
            let mut part = vec![0; len];
            ordered.read_bytes(start, &mut part).unwrap();
            assert_eq!(part, bytemuck::cast_slice::<f32, u8>(&all)[start..start + len]);
        }
    }
    assert_eq!(order.likeliest(&[0.5, 2.0, 2.0, 1.0], &[1.0, 0.0, 0.6, 0.4]), Some(1), "the second token of the second centroid");
    assert_eq!(order.likeliest(&[], &[]), None);
}
