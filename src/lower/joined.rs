//! Products whose weights lie one behind the other.

use super::bound::Bound;
use crate::ir::{
    DType, FixedType, NodeId,
    kernel::{Arg, Place},
};

/// The type of results that lie one behind the other.
pub(super) fn joined_type(bound: &Bound, roots: &[NodeId]) -> FixedType {
    let columns = roots.iter().map(|root| bound.ty(*root).last()).sum();
    FixedType { dtype: DType::F32, shape: vec![1, columns] }
}

/// The weights of joined products, whose operands are `inputs`, as one.
pub(super) fn joined_weight(inputs: &[Arg]) -> Arg {
    let weights = || inputs.iter().skip(1).step_by(2);
    let rows = weights().filter_map(|weight| weight.ty.shape.first()).sum();
    let names = weights().filter_map(|weight| match &weight.place {
        Place::Weight(name, _) => Some(name.clone()),
        Place::Slot(..) | Place::Joined(_) => None,
    });
    let ty = FixedType { dtype: inputs[1].ty.dtype, shape: vec![rows, inputs[1].ty.last()] };
    Arg { ty, place: Place::Joined(names.collect()), grows: false }
}
