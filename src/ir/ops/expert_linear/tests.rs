use super::*;
use crate::ir::{Op, ops::Linear};

#[test]
fn each_product_is_a_linear_with_the_matrix_of_its_expert() {
    for case in cases() {
        let Op::ExpertLinear(ExpertLinear { experts }) = case.op else { panic!("another op") };
        let shape = &case.inputs[0].shape;
        let weight = case.inputs[1].to_f32().unwrap();
        let route = case.inputs[2].to_f32().unwrap();
        let inner = shape[3];
        let rows = shape[1];
        let top = case.inputs[2].shape[3];
        let columns = case.inputs[1].shape[0] / experts;
        let ty = FixedType { dtype: DType::F32, shape: vec![1, rows, top, columns] };
        let operands: Vec<&Value> = case.inputs.iter().collect();
        let Data::F32(found) = case.op.eval(&operands, &ty).unwrap() else { panic!("not f32") };
        let x = case.inputs[0].to_f32().unwrap();
        for product in 0..rows * top {
            let row = product / top;
            let j = product % top;
            let expert = (route[row * 2 * top + j].max(0.0) as usize).min(experts - 1);
            let own = &weight[expert * columns * inner..][..columns * inner];
            let from = if shape[2] == 1 { row } else { product };
            let operand = Value::f32([1, 1, inner], x[from * inner..][..inner].to_vec());
            let matrix = Value::f32([columns, inner], own.to_vec());
            let one = FixedType { dtype: DType::F32, shape: vec![1, 1, columns] };
            let Data::F32(expected) = Linear.eval(&[&operand, &matrix], &one).unwrap() else { panic!("not f32") };
            // Sums of the same products, of which many cancel out, in another order.
            let largest = expected.iter().fold(0.1f32, |most, x| most.max(x.abs()));
            for (a, b) in found[product * columns..].iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-5 * largest, "{}, product {product}: {a} and {b}", case.name);
            }
        }
    }
}
