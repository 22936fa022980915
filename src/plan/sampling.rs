//! Choosing a token from each row of logits on the device, as plans of their own.

use super::{Plan, PlanOutput, SlotInfo, SlotKind};
use crate::ir::{
    DType, FixedType,
    kernel::{Dispatch, Kernel, Operand, Slot, Target, grid},
    ops::Role,
    work::Work,
};

/// Logits that one workgroup looks through.
const SLICE: usize = 512;

/// Most slices of a row: the merge keeps two words a slice in workgroup memory, except where each lane works alone.
const MAX_SLICES: usize = 1024;

const LOGITS: Slot = Slot(0);
/// The maximum of each slice and where it is.
const PARTIALS: Slot = Slot(1);
const RESULT: Slot = Slot(2);

/// The name of the output that holds the largest of each slice ([`block_of`]) of the output `name` of one row: u32,
/// ordered as the numbers are, 0 where a slice has none.
pub fn maxima_of(name: &str) -> String {
    format!("{name}.maxima")
}

/// Neighbouring logits of a slice, a multiple of 64.
pub fn block_of(vocab_size: usize) -> usize {
    SLICE.max(vocab_size.div_ceil(MAX_SLICES).next_multiple_of(64))
}

/// The id of the largest of `vocab_size` logits (the smallest id among equals) in each of `rows` rows: output `token`
/// u32 `[rows]`. With `maxima` it has the input `maxima` beside `logits`: the largest of each slice, as a plan's output
/// [`maxima_of`] holds them.
pub fn argmax(rows: usize, vocab_size: usize, maxima: bool, target: &Target) -> Plan {
    let slice = block_of(vocab_size);
    let slices = vocab_size.div_ceil(slice);
    let overrides = vec![("R", rows as f64), ("V", vocab_size as f64), ("SLICE", slice as f64)];
    let stage =
        |stage| Kernel { shader: "argmax", options: options(target, stage), overrides: overrides.clone(), hole: String::new() };
    let dispatches = if maxima {
        // Of the logits one slice is looked through.
        let elements = rows * (slices + slice + 1);
        vec![dispatch(stage("maxima"), vec![(0, LOGITS), (1, RESULT), (2, PARTIALS)], false, rows, elements)]
    } else {
        let partials = 2 * rows * slices;
        vec![
            dispatch(stage("slices"), vec![(0, LOGITS), (1, PARTIALS)], false, rows * slices, rows * vocab_size + partials),
            dispatch(stage("merge"), vec![(0, PARTIALS), (1, RESULT)], false, rows, partials + rows),
        ]
    };
    let ty = FixedType { dtype: DType::U32, shape: vec![rows] };
    if !maxima {
        return plan("argmax", [rows, vocab_size], rows * slices * 8, ty, dispatches);
    }
    let mut plan = plan("argmax", [rows, vocab_size], rows * slices * 4, ty, dispatches);
    let ty = FixedType { dtype: DType::U32, shape: vec![rows * slices] };
    plan.slots[PARTIALS.0].kind = SlotKind::Input { name: "maxima".into(), role: Role::Caller, ty };
    plan
}

/// The `top` largest of `vocab_size` logits in each of `rows` rows, largest first, with the numbers that turn them into
/// probabilities. A row of the output `token` u32 `[rows, 2·top + 3]` has the ids, the bits of their logits, of the
/// maximum and of Σ exp((l − max) / temperature). Last comes the id at which the draw described by the step ends, as
/// far as the list and f32 can tell.
pub fn top_k(rows: usize, vocab_size: usize, top: usize, target: &Target) -> Plan {
    lists(rows, rows, vocab_size, top, target)
}

/// As [`top_k`], each row by dispatches and the step of its own sequence ([`Operand::StepOf`]).
pub fn top_k_batched(rows: usize, vocab_size: usize, top: usize, target: &Target) -> Plan {
    let mut plan = lists(rows, 1, vocab_size, top, target);
    let one = std::mem::take(&mut plan.dispatches);
    for sequence in 0..rows {
        let mut own = one.clone();
        let steps = own.iter_mut().flat_map(|dispatch| &mut dispatch.bindings).filter(|(_, operand)| operand.is_step());
        steps.for_each(|(_, operand)| *operand = Operand::StepOf(sequence));
        plan.dispatches.extend(own);
    }
    plan
}

/// As [`top_k`] of `rows` rows, `at_once` of them by a dispatch.
fn lists(rows: usize, at_once: usize, vocab_size: usize, top: usize, target: &Target) -> Plan {
    let slice = block_of(vocab_size);
    let slices = vocab_size.div_ceil(slice);
    let shared = vec![("R", at_once as f64), ("V", vocab_size as f64), ("SLICE", slice as f64), ("SLICES", slices as f64)];
    let merged = shared.iter().copied().chain([("TOP", top as f64)]).collect();
    let stage = |stage, overrides| Kernel { shader: "top_k", options: options(target, stage), overrides, hole: String::new() };
    let partials = 4 * at_once * slices;
    let first = dispatch(
        stage("slices", shared),
        vec![(0, LOGITS), (1, PARTIALS)],
        true,
        at_once * slices,
        at_once * vocab_size + partials,
    );
    // For each entry of the list one slice is looked through again.
    let looked_through = at_once * vocab_size.min(top * slice);
    let second = dispatch(
        stage("merge", merged),
        vec![(0, LOGITS), (1, RESULT), (2, PARTIALS)],
        true,
        at_once,
        partials + looked_through + at_once * (2 * top + 3),
    );
    let dispatches = vec![first, second];
    let ty = FixedType { dtype: DType::U32, shape: vec![rows, 2 * top + 3] };
    plan("top_k", [rows, vocab_size], at_once * slices * 16, ty, dispatches)
}

fn options(target: &Target, stage: &str) -> Vec<(&'static str, String)> {
    let (tier, lanes) = target.reduction_option();
    vec![("TIER", tier.into()), ("LANES", lanes.to_string()), ("STAGE", stage.into())]
}

fn dispatch(kernel: Kernel, slots: Vec<(u32, Slot)>, step: bool, count: usize, elements: usize) -> Dispatch {
    let mut bindings: Vec<(u32, Operand)> = slots.into_iter().map(|(n, slot)| (n, Operand::Slot(slot, 0))).collect();
    bindings.extend(step.then_some((8, Operand::Step)));
    Dispatch { label: "sample".into(), kernel, bindings, workgroups: grid(count, 1), work: Work::moves(4 * elements as u64) }
}

fn plan(name: &str, [rows, vocab_size]: [usize; 2], partials: usize, ty: FixedType, dispatches: Vec<Dispatch>) -> Plan {
    let logits = FixedType { dtype: DType::F32, shape: vec![rows, vocab_size] };
    let input = SlotKind::Input { name: "logits".into(), role: Role::Caller, ty: logits };
    let slots = vec![
        SlotInfo { bytes: (rows * vocab_size) as u64 * 4, kind: input },
        SlotInfo { bytes: partials as u64, kind: SlotKind::Scratch },
        SlotInfo { bytes: ty.len() as u64 * 4, kind: SlotKind::Scratch },
    ];
    Plan {
        name: name.into(),
        slots,
        dispatches,
        outputs: vec![PlanOutput { name: "token".into(), slot: RESULT, ty }],
        ..Plan::default()
    }
}
