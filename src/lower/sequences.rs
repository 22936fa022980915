//! A step of several sequences whose caches lie apart: ops that read or write caches are dispatched for each of them.

use super::bound::Bound;
use crate::{
    Error, Result,
    ir::{
        FixedType, Op,
        emit::{Arg, Emit, Place},
        kernel::{Operand, Slot},
        ops::Attention,
    },
    plan::{Plan, SlotInfo, SlotKind},
};

/// Returns `true` if each sequence has dispatches of its own for the op.
pub(super) fn is_of_a_sequence(op: &Op) -> bool {
    matches!(op, Op::Attention(_) | Op::CacheWrite(_))
}

/// The dispatches of `op` for each sequence, as those of one new token: on its own caches, and by its own step, which
/// says in which row the rest of its operands and its result lie. `cached` tells caches, of which the first sequence's
/// are among the operands.
///
/// # Errors
/// [`Error::Unsupported`] where new tokens would see each other, as they are in no caches.
pub(super) fn emit<'a>(bound: &Bound, op: &Op, mut all: Emit<'a>, cached: impl Fn(&Arg) -> bool) -> Result<Emit<'a>> {
    let (own, result): (&[usize], bool) = match op {
        Op::Attention(Attention { keep: false, .. }) => (&[1, 2, 4], false),
        Op::CacheWrite(_) => (&[0], true),
        _ => return Err(mixed(&all.label)),
    };
    let placed = all.inputs.iter().enumerate().all(|(index, arg)| cached(arg) == own.contains(&index));
    if !placed || cached(&all.output) != result {
        return Err(mixed(&all.label));
    }
    for sequence in 0..bound.sequences {
        let of = |arg: &Arg| of_sequence(arg, sequence, cached(arg));
        let place = |arg: &Arg| Ok::<_, Error>(of(arg));
        let mut one = Emit {
            inputs: all.inputs.iter().map(of).collect(),
            output: of(&all.output),
            fusions: all.fusions.iter().map(|fusion| fusion.try_map(place)).collect::<Result<_>>()?,
            dispatches: Vec::new(),
            scratch: Vec::new(),
            ..all.clone()
        };
        op.emit(&mut one)?;
        for dispatch in &mut one.dispatches {
            for (_, operand) in dispatch.bindings.iter_mut().filter(|(_, operand)| *operand == Operand::Step) {
                *operand = Operand::StepOf(sequence);
            }
        }
        // One after the other, they use the same scratch.
        all.scratch = one.scratch;
        all.dispatches.extend(one.dispatches);
    }
    Ok(all)
}

/// The operand as it is for one new token: the sequence's cache, or one row of a value that all share.
fn of_sequence(arg: &Arg, sequence: usize, cached: bool) -> Arg {
    let mut arg = arg.clone();
    match (&mut arg.place, arg.ty.shape.get_mut(1)) {
        (Place::Slot(slot, _), _) if cached => slot.0 += sequence,
        (_, Some(rows)) => *rows = 1,
        _ => {}
    }
    arg
}

/// The error of an op without dispatches for each sequence that reads a cache.
pub(super) fn mixed(label: &str) -> Error {
    Error::Unsupported(format!("{label}: several sequences in one step, which would see each other here,"))
}

/// A slot for the cache of each sequence, one after the other: the first.
pub(super) fn caches(plan: &mut Plan, name: &str, ty: &FixedType, bytes: u64, sequences: usize) -> Slot {
    let kind = |sequence| SlotKind::CacheOf { sequence, name: name.into(), ty: ty.clone() };
    plan.slots.extend((0..sequences).map(|sequence| SlotInfo { bytes, kind: kind(sequence) }));
    Slot(plan.slots.len() - sequences)
}

/// Returns `true` if the operand lies in the cache of a sequence.
pub(super) fn is_cache(plan: &Plan, arg: &Arg) -> bool {
    let Place::Slot(slot, _) = arg.place else { return false };
    plan.slots.get(slot.0).is_some_and(|info| matches!(info.kind, SlotKind::CacheOf { .. }))
}
