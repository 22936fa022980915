//! An adapter in a flow.

use std::sync::{Arc, PoisonError};

use anyhow::{Result, bail, ensure};

use super::{Lora, LoraPart, magnitude};
use crate::{
    flow::{EmitContext, FlowStage, Projection, ProjectionKind},
    gemma::{GemmaFlow, WeightPosition},
    ir::{
        NodeId,
        ops::{Cast, ExpertLinear, Gather},
    },
    weights::Tensor,
};

impl Lora {
    /// The flow with the adapter on every product that it adapts, whatever hooks make the layers.
    ///
    /// A target that the flow does not multiply, as in layers that a hook leaves out, and a part of another shape than
    /// the product's are errors when the flow is built.
    pub fn apply<'a>(self: &Arc<Self>, flow: GemmaFlow<'a>) -> GemmaFlow<'a> {
        let lora = self.clone();
        let same = self.clone();
        flow.adapted(move |context, projection| lora.adapt(context, projection))
            .at_end([FlowStage::custom("lora", move |context, x| same.check(context, x))])
    }

    /// The product with what the adapter adds.
    fn adapt(&self, context: &mut EmitContext, projection: &Projection) -> Result<NodeId> {
        let embed = WeightPosition::Embed.to_string();
        let head = projection.kind == ProjectionKind::Matrix && projection.name == embed;
        let target = if head { WeightPosition::Unembed.to_string() } else { projection.name.to_string() };
        let Some(part) = self.parts.get(&target) else { return Ok(projection.output) };
        self.compare(context, projection, &target)?;
        let delta = match projection.kind {
            ProjectionKind::Matrix => self.matrix(context, &target, projection, part)?,
            ProjectionKind::Rows { or_first } => self.rows(context, &target, projection, part, or_first)?,
            ProjectionKind::Experts { count, route } => self.experts(context, &target, projection, part, count, route)?,
        };
        context.graph.label(delta, "lora_b");
        let delta = match &part.bias {
            Some(bias) => {
                let bias = self.vector(context, &format!("{target}.lora_bias"), bias)?;
                context.graph.add(delta, bias)?
            }
            None => delta,
        };
        let scaled = context.graph.scale(delta, part.scale)?;
        let mut sum = context.graph.add(projection.output, scaled)?;
        if let Some(wanted) = &part.magnitude {
            let factors = self.factors(context, projection, &target, part, wanted)?;
            let factors = self.vector(context, &format!("{target}.lora_magnitude"), &factors)?;
            sum = context.graph.mul(sum, factors)?;
        }
        context.share(met(&target), sum);
        Ok(sum)
    }

    /// Refuses a model whose weight is not the one that came with the adapter.
    fn compare(&self, context: &EmitContext, projection: &Projection, target: &str) -> Result<()> {
        let (Some(copy), Some(own)) = (self.copies.get(target), context.taken_weight(projection.name)) else { return Ok(()) };
        let differs = || format!("{target} came with the adapter and is another than the model's; {}", super::MERGE);
        ensure!(copy.shape() == own.shape(), "{}: shapes {:?} and {:?}", differs(), copy.shape(), own.shape());
        const AT_ONCE: usize = 1 << 16;
        let [mut theirs, mut ours] = [vec![0.0; AT_ONCE], vec![0.0; AT_ONCE]];
        for start in (0..own.len()).step_by(AT_ONCE) {
            let count = AT_ONCE.min(own.len() - start);
            copy.read_f32(start, &mut theirs[..count])?;
            own.read_f32(start, &mut ours[..count])?;
            ensure!(theirs[..count] == ours[..count], "{}", differs());
        }
        Ok(())
    }

    /// DoRA's factors on a product, computed once for all flows.
    fn factors(
        &self,
        context: &EmitContext,
        projection: &Projection,
        target: &str,
        part: &LoraPart,
        wanted: &Tensor,
    ) -> Result<Tensor> {
        let mut known = self.factors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(factors) = known.get(target) {
            return Ok(factors.clone());
        }
        let Some(weight) = context.taken_weight(projection.name) else { bail!("there is no weight {}", projection.name) };
        let rows = weight.shape().first().copied().unwrap_or(1);
        ensure!(wanted.len() == rows, "lora_magnitude_vector has {} entries, {target} has {rows} rows", wanted.len());
        let factors = magnitude::factors(weight, part, wanted)?;
        known.insert(target.to_string(), factors.clone());
        Ok(factors)
    }

    /// Refuses targets that were met nowhere; the model's output passes through.
    fn check(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let met = |target: &&String| context.find_shared(&met(target)).is_some();
        // A graph that ends with hidden states has no head.
        let head = WeightPosition::Unembed.to_string();
        match self.parts.keys().find(|target| **target != head && !met(target)) {
            Some(target) => {
                let path = self.path.display();
                bail!("the adapter's target {target} is in no layer of this flow, it would have no effect ({path})")
            }
            None => Ok(x),
        }
    }

    /// A weight of this adapter. Products of one weight at several places, as Gemma 3n's router of streams is, share
    /// it.
    fn own(&self, context: &mut EmitContext, name: &str, tensor: &Tensor) -> Result<NodeId> {
        let shared = format!("{name} of {self:p}");
        Ok(context.shared(&shared, |context| context.own_weight(name, tensor.clone()))?)
    }

    /// A and B in the graph.
    fn weights(&self, context: &mut EmitContext, target: &str, part: &LoraPart) -> Result<[NodeId; 2]> {
        let a = self.own(context, &format!("{target}.lora_a"), &part.a)?;
        let b = self.own(context, &format!("{target}.lora_b"), &part.b)?;
        Ok([a, b])
    }

    /// A vector of the adapter's, in f32.
    fn vector(&self, context: &mut EmitContext, name: &str, values: &Tensor) -> Result<NodeId> {
        let values = self.own(context, name, values)?;
        Ok(context.graph.push(Cast, &[values])?)
    }

    fn matrix(&self, context: &mut EmitContext, target: &str, projection: &Projection, part: &LoraPart) -> Result<NodeId> {
        let rank = part.a.shape().first().copied().unwrap_or(0);
        check_shapes(target, part, [[rank, context.width(projection.input)?], [context.width(projection.output)?, rank]])?;
        let [a, b] = self.weights(context, target, part)?;
        let low = context.graph.linear(projection.input, a)?;
        context.graph.label(low, "lora_a");
        Ok(context.graph.linear(low, b)?)
    }

    fn rows(
        &self,
        context: &mut EmitContext,
        target: &str,
        projection: &Projection,
        part: &LoraPart,
        or_first: bool,
    ) -> Result<NodeId> {
        let rank = part.a.shape().last().copied().unwrap_or(0);
        let table = context.taken_weight(projection.name).and_then(|table| table.shape().first().copied());
        check_shapes(target, part, [[table.unwrap_or(0), rank], [context.width(projection.output)?, rank]])?;
        let [a, b] = self.weights(context, target, part)?;
        let low = context.graph.push(Gather { per_batch: false, or_first, first: 0 }, &[a, projection.input])?;
        context.graph.label(low, "lora_a");
        Ok(context.graph.linear(low, b)?)
    }

    fn experts(
        &self,
        context: &mut EmitContext,
        target: &str,
        projection: &Projection,
        part: &LoraPart,
        count: usize,
        route: NodeId,
    ) -> Result<NodeId> {
        let rank = part.b.shape().last().copied().unwrap_or(0);
        let inner = context.width(projection.input)?;
        let out = context.width(projection.output)?;
        check_shapes(target, part, [[count * rank, inner], [count * out, rank]])?;
        let [a, b] = self.weights(context, target, part)?;
        let op = ExpertLinear { experts: count };
        let low = context.graph.push(op.clone(), &[projection.input, a, route])?;
        context.graph.label(low, "lora_a");
        Ok(context.graph.push(op, &[low, b, route])?)
    }
}

/// The name by which the last stage knows that a target was met.
fn met(target: &str) -> String {
    format!("{target}.lora")
}

/// Refuses an A and B of other shapes than a product takes.
fn check_shapes(target: &str, part: &LoraPart, expected: [[usize; 2]; 2]) -> Result<()> {
    let shapes = [part.a.shape(), part.b.shape()];
    ensure!(shapes == expected, "A and B have shapes {shapes:?}, {target} takes {expected:?}");
    Ok(())
}
