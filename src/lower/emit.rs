//! The dispatches of one group, from its op or from generated text.

use super::{bound::Bound, fuse::Group, place::Placed, region, sequences};
use crate::{
    Result,
    ir::{
        Compute,
        emit::{Arg, Emit, Epilogue},
    },
    plan::Plan,
};

/// The dispatches of `group`, whose operands and results have the places that `placed` says. `plan` holds the slots
/// placed so far.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) where the op has no kernel for its operands.
pub(super) fn emit<'a>(bound: &'a Bound, group: &Group, placed: Placed, plan: &Plan) -> Result<Emit<'a>> {
    let root = group.roots.first().copied();
    let is_cache = |arg: &Arg| sequences::is_cache(plan, arg);
    let by_sequence = bound.sequences > 0 && root.is_some_and(|root| sequences::is_of_a_sequence(bound.op(root)));
    if !by_sequence && placed.inputs.iter().chain(&placed.extras).any(is_cache) {
        return Err(sequences::mixed(&placed.label));
    }
    let epilogue = match root {
        Some(root) if root != group.sink => region::epilogue(bound, group, placed.extras.clone())?,
        _ => Epilogue::identity(),
    };
    let mut emit = Emit {
        target: bound.target_of(root.unwrap_or(group.sink)),
        compute: root.map_or(Compute::F32, |root| bound.compute(root)),
        label: placed.label,
        inputs: placed.inputs,
        output: placed.output,
        second_output: placed.second_output,
        epilogue,
        fusions: placed.fusions,
        dispatches: Vec::new(),
        alternatives: Vec::new(),
        scratch: Vec::new(),
        first_scratch: placed.first_scratch,
    };
    let Some(root) = root else {
        region::emit(bound, group, &placed.extras, &mut emit)?;
        return Ok(emit);
    };
    if by_sequence {
        return sequences::emit(bound, bound.op(root), emit, is_cache);
    }
    bound.op(root).emit(&mut emit)?;
    Ok(emit)
}
