//! Attention to the frames right before, with a learned row for each distance.

use rayon::prelude::*;

use super::{Broadcast, Concat, Lowering, OpDef, Reduce, ReduceFn, Reshape, Select, Slice, Softmax, expect_operands};
use crate::{
    Result,
    ir::{
        BinaryFn, Case, DType, Data, FixedType, Graph, NodeId, Shape, Type, Value,
        emit::Emit,
        expect_dtype,
        kernel::Kernel,
        tolerance::{Scale, Tolerance},
        work::Work,
    },
};

/// The score of a frame that is not kept: large and finite, as fast mathematics knows no infinity.
const MASKED: f32 = -1e30;

/// Scores of a row that a workgroup holds at most: 8 KiB.
const MOST_SCORES: usize = 2048;

/// `softmax_d(cap · tanh(q_t · (k_{t−d} + r_d) / cap)) · v_{t−d}` per head, over the distances d from 0 to W − 1: a frame
/// attends to itself and to the W − 1 before it, and its score has a part of the distance alone (Dai et al. 2019, arXiv
/// 1901.02860; `Gemma4AudioAttention` and `Gemma3nAudioAttention` in transformers).
///
/// Operands: q, k and v `[B, T, N, H]`, the rows of the distances r `[W, N, H]`, and a mask `[B, T]` whose entries below
/// 0.5 drop the frame as a key; all f32. Result `[B, T, N, H]`. A frame that sees no key gives zeros, unless there are
/// chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct RelativeAttention {
    /// The cap of the scores.
    pub softcap: f32,
    /// The frames of a block. A frame that sees no key then gives Σ v/(chunk + W) over its block and the W frames before
    /// it, as transformers has it for the padding of a batch; frames whose mask is below −0.5 are none.
    pub chunk: Option<usize>,
}

impl RelativeAttention {
    pub(super) fn example() -> Self {
        Self { softcap: 50.0, chunk: None }
    }

    fn definition(&self, g: &mut Graph, inputs: &[NodeId]) -> Result<NodeId> {
        let shape = g.shape(inputs[0]).clone();
        let window = g.shape(inputs[3]).0[0].fixed().unwrap_or(1);
        let column = |last: usize| Shape(vec![shape.0[0], shape.0[1], 1.into(), last.into()]);
        let keep = g.push(Reshape { shape: column(1) }, &[inputs[4]])?;
        let mut scores = Vec::new();
        let mut kept = Vec::new();
        for distance in 0..window {
            let row = g.push(Slice { axis: 0, start: distance, len: 1.into() }, &[inputs[3]])?;
            let keys = shifted(g, inputs[1], distance)?;
            let keys = g.add(keys, row)?;
            let products = g.mul(inputs[0], keys)?;
            scores.push(g.push(Reduce { f: ReduceFn::Sum }, &[products])?);
            kept.push(shifted(g, keep, distance)?);
        }
        let scores = concatenated(g, scores)?;
        let scores = g.softcap(scores, self.softcap)?;
        let wide = g.shape(scores).clone();
        let kept = concatenated(g, kept)?;
        let half = g.constant(0.5)?;
        let dropped = g.binary(BinaryFn::Less, kept, half)?;
        let dropped = g.push(Broadcast { shape: wide.clone() }, &[dropped])?;
        let masked = g.constant(MASKED)?;
        let masked = g.push(Broadcast { shape: wide }, &[masked])?;
        let scores = g.push(Select, &[dropped, masked, scores])?;
        let weights = g.push(Softmax, &[scores])?;
        let one = g.constant(1.0)?;
        let visible = g.binary(BinaryFn::Sub, one, dropped)?;
        let weights = g.mul(weights, visible)?;
        let mut sum = None;
        for distance in 0..window {
            let weight = g.push(Slice { axis: 3, start: distance, len: 1.into() }, &[weights])?;
            let values = shifted(g, inputs[2], distance)?;
            let part = g.mul(values, weight)?;
            sum = Some(match sum {
                Some(sum) => g.add(sum, part)?,
                None => part,
            });
        }
        sum.map_or(Ok(inputs[2]), Ok)
    }
}

/// The frames `distance` earlier, zeros before the first.
fn shifted(g: &mut Graph, x: NodeId, distance: usize) -> Result<NodeId> {
    let frames = g.shape(x).0[1].fixed().unwrap_or(1);
    let distance = distance.min(frames);
    if distance == 0 {
        return Ok(x);
    }
    let mut before = g.shape(x).clone();
    before.0[1] = distance.into();
    let zero = g.constant(0.0)?;
    let zeros = g.push(Broadcast { shape: before }, &[zero])?;
    if distance == frames {
        return Ok(zeros);
    }
    let rest = g.push(Slice { axis: 1, start: 0, len: (frames - distance).into() }, &[x])?;
    g.push(Concat { axis: 1 }, &[zeros, rest])
}

fn concatenated(g: &mut Graph, columns: Vec<NodeId>) -> Result<NodeId> {
    let mut columns = columns.into_iter();
    let Some(first) = columns.next() else { return g.constant(0.0) };
    columns.try_fold(first, |all, column| g.push(Concat { axis: 3 }, &[all, column]))
}

impl OpDef for RelativeAttention {
    fn name(&self) -> &'static str {
        "relative_attention"
    }

    fn attributes(&self) -> String {
        match self.chunk {
            Some(chunk) => format!("{{softcap={}, chunk={chunk}}}", self.softcap),
            None => format!("{{softcap={}}}", self.softcap),
        }
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [q, k, v, distances, keep] = expect_operands(inputs)?;
        for (name, ty) in [("q", q), ("k", k), ("v", v), ("the distances", distances), ("the mask", keep)] {
            expect_dtype(name, ty, &[DType::F32])?;
        }
        if q.shape.rank() != 4 || k != q || v != q {
            return Err("expected q, k and v of one shape [B, T, N, H]".into());
        }
        if distances.shape.rank() != 3 || distances.shape.0[1..] != q.shape.0[2..] {
            return Err("expected distances [W, N, H]".into());
        }
        if keep.shape.0 != q.shape.0[..2] {
            return Err("expected a mask [B, T]".into());
        }
        if self.chunk == Some(0) {
            return Err("chunks of 0 frames, expected at least 1".into());
        }
        match (distances.shape.0[0].fixed(), q.shape.0[2].fixed()) {
            (Some(window), Some(heads)) if (1..=MOST_SCORES).contains(&(window * heads)) => Ok(q.clone()),
            _ => Err(format!("expected 1 to {MOST_SCORES} scores of a frame, which are as many as heads times distances")),
        }
    }

    fn decompose(&self, graph: &mut Graph, inputs: &[NodeId]) -> Option<Result<NodeId>> {
        // Which frames are blind, and what their blocks are, no graph of other ops says.
        self.chunk.is_none().then(|| self.definition(graph, inputs))
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let q = inputs[0].to_f32()?;
        let k = inputs[1].to_f32()?;
        let v = inputs[2].to_f32()?;
        let distances = inputs[3].to_f32()?;
        let keep = inputs[4].to_f32()?;
        let [_, frames, heads, width] = [0, 1, 2, 3].map(|axis| output.shape[axis]);
        let window = inputs[3].shape[0];
        let cap = f64::from(self.softcap);
        let mut out = vec![0.0; output.len()];
        out.par_chunks_mut(width.max(1)).enumerate().for_each(|(place, out)| {
            let frame = place / heads;
            let head = place % heads;
            let most = window.min(frame % frames + 1);
            let visible: Vec<usize> = (0..most).filter(|distance| keep[frame - distance] >= 0.5).collect();
            if let (true, Some(chunk)) = (visible.is_empty(), self.chunk) {
                let first = frame - frame % frames;
                let begin = first + (frame - first) / chunk * chunk;
                let block = begin.saturating_sub(window).max(first)..(begin + chunk).min(first + frames);
                let sum = |i: usize| -> f64 {
                    let values = block.clone().filter(|frame| keep[*frame] > -0.5);
                    values.map(|frame| f64::from(v[(frame * heads + head) * width + i])).sum()
                };
                out.iter_mut().enumerate().for_each(|(i, out)| *out = (sum(i) / (chunk + window) as f64) as f32);
                return;
            }
            let row = |distance: usize| ((frame - distance) * heads + head) * width;
            let score = |distance: &usize| {
                let keys = k[row(*distance)..].iter().zip(&distances[(distance * heads + head) * width..]);
                let terms = q[row(0)..row(0) + width].iter().zip(keys);
                let sum: f64 = terms.map(|(q, (k, r))| f64::from(*q) * (f64::from(*k) + f64::from(*r))).sum();
                cap * (sum / cap).tanh()
            };
            let scores: Vec<f64> = visible.iter().map(score).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            let mut mixed = vec![0.0; width];
            for (distance, score) in visible.iter().zip(&scores) {
                let weight = (score - largest).exp() / total;
                mixed.iter_mut().zip(&v[row(*distance)..]).for_each(|(mixed, v)| *mixed += weight * f64::from(*v));
            }
            out.iter_mut().zip(mixed).for_each(|(out, mixed)| *out = mixed as f32);
        });
        Ok(Data::F32(out))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let [batch, frames, heads, width] = [0, 1, 2, 3].map(|axis| emit.output.ty.shape[axis]);
        let window = emit.inputs[3].ty.shape[0];
        let sizes = [("T", frames), ("N", heads), ("H", width), ("W", window), ("ROWS", batch * frames)];
        let mut overrides: Vec<(&'static str, f64)> = sizes.into_iter().map(|(name, size)| (name, size as f64)).collect();
        overrides.push(("CAP", f64::from(self.softcap)));
        overrides.extend(self.chunk.map(|chunk| ("CHUNK", chunk as f64)));
        let blind = if self.chunk.is_some() { "mean" } else { "zeros" };
        let options = vec![("LANES", "64".into()), ("SCORES", (window * heads).to_string()), ("BLIND", blind.into())];
        let kernel = Kernel { shader: "relative_attention", options, overrides, hole: String::new() };
        let mut bindings = vec![(0, emit.output.operand())];
        bindings.extend((1..).zip(emit.inputs.iter().map(|input| input.operand())));
        let [elements, embedded] = [batch * frames * heads * width, window * heads * width].map(|count| count as u64);
        let bytes = 4 * (4 * elements + embedded + (batch * frames) as u64);
        emit.dispatch(kernel, bindings, [batch * frames, 1], Work::of(bytes, 5 * window as u64 * elements));
        Ok(())
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        // As of attention: a score is off by a sum's error, of keys that are sums themselves, and tanh by 1e-6 of the cap.
        let capped = f64::from(self.softcap) * 2e-6;
        Tolerance::new(32.0 * Tolerance::of_sum(case.width()) + capped, Scale::Largest(2), 0.0)
    }

    fn cases(&self) -> Vec<Case> {
        let with = |name: &str, shape: [usize; 4], window: usize, keep: Vec<f32>, chunk| {
            let [batch, frames, heads, width] = shape;
            let operands = vec![
                Case::values(&shape, 1, 2.0),
                Case::values(&shape, 2, 1.0),
                Case::values(&shape, 3, 1.0),
                Case::values(&[window, heads, width], 4, 1.0),
                Value::f32([batch, frames], keep),
            ];
            Case::new(name, RelativeAttention { softcap: 50.0, chunk }, operands)
        };
        let case = |name: &str, [frames, heads, width, window]: [usize; 4], kept: &dyn Fn(usize) -> bool| {
            let keep = (0..frames).map(|frame| f32::from(u8::from(kept(frame)))).collect();
            with(name, [1, frames, heads, width], window, keep, None)
        };
        // Clips of 9 and 3 frames in a batch of 9, with room for 14.
        let of_clip = |kept: usize| {
            (0..14).map(move |frame| {
                if frame < kept {
                    1.0
                } else if frame < 9 {
                    0.0
                } else {
                    -1.0
                }
            })
        };
        let batch = of_clip(9).chain(of_clip(3)).collect();
        vec![
            case("one frame", [1, 1, 8, 12], &|_| true),
            case("fewer frames than distances", [5, 4, 8, 12], &|_| true),
            case("20 frames, the last ones dropped", [20, 4, 8, 12], &|frame| frame < 17),
            case("no frame", [3, 2, 8, 2], &|_| false),
            case("heads of 33", [29, 3, 33, 3], &|frame| frame != 4),
            case("heads of 128", [40, 8, 128, 12], &|_| true),
            with("the padding of a batch, in blocks of 4", [2, 14, 2, 8], 3, batch, Some(4)),
            with("no frame, in a block longer than all", [1, 5, 2, 8], 7, vec![0.0; 5], Some(6)),
        ]
    }
}
