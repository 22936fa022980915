//! Experts: feed-forward blocks of which each token takes a few, beside the dense one (docs/gemma.md, Experts).

use super::{GeGluStage, GemmaArch, GemmaConfig, GemmaRmsNormStage, LayerWeight, Moe, WeightPosition};
use crate::{
    Result,
    flow::{BlockStage, EmitContext},
    ir::{
        Dim, NodeId,
        ops::{Gain, Route, Slice},
    },
};

/// The axis of a token's experts in `[B, T, k, …]`.
const CHOSEN: usize = 2;

/// The experts of a layer with their router and their norms, `[B, T, D]` to `[B, T, D]`: the value is the stream as it
/// is after attention.
///
/// The router sees `norm(x) ∘ scale / √D`, the experts another norm of x; of the softmax over all experts the `top_k`
/// largest count, made to a sum of 1, times a factor of each expert. An expert is `down · (gelu(gate · y) ∘ (up · y))`,
/// and what they give together is normed.
///
/// Adapters see the router's projection, and the experts' products as
/// [`ProjectionKind::Experts`](crate::flow::ProjectionKind).
#[derive(Debug, Clone)]
pub struct MoeFfnStage {
    prefix: String,
    experts: usize,
    top_k: usize,
    n_embd: usize,
    n_ff: usize,
    eps: f32,
}

impl MoeFfnStage {
    /// `experts` blocks from `n_embd` to `n_ff` and back, of which each token takes `top_k`. Their weights are those of
    /// a layer of Gemma 4 below the checkpoint's `prefix`, such as `layers.3`: `router.proj.weight`, `router.scale`,
    /// `router.per_expert_scale`, `experts.gate_up_proj`, `experts.down_proj`, `pre_feedforward_layernorm_2.weight` and
    /// `post_feedforward_layernorm_2.weight`. Norms add 1e-6 under their root.
    pub fn hf(prefix: impl Into<String>, experts: usize, top_k: usize, n_embd: usize, n_ff: usize) -> Self {
        Self { prefix: prefix.into(), experts, top_k, n_embd, n_ff, eps: 1e-6 }
    }

    /// Another number under the roots of the norms.
    pub fn with_eps(mut self, eps: f32) -> Self {
        self.eps = eps;
        self
    }

    /// The experts of a layer; `None` where the model has none.
    pub fn of(config: &GemmaConfig, layer: usize) -> Option<Self> {
        let Moe { num_experts, top_k_experts, intermediate_size } = config.moe?;
        let of = Self::hf(format!("layers.{layer}"), num_experts, top_k_experts, config.hidden_size, intermediate_size);
        Some(of.with_eps(config.rms_norm_eps))
    }

    /// A weight's name in the graph, and its key.
    fn names(&self, weight: &str) -> (String, String) {
        let key = format!("{}.{weight}", self.prefix);
        let position = WeightPosition::from_hugging_face(GemmaArch::Gemma4, &key);
        (position.map_or_else(|| key.clone(), |position| position.to_string()), key)
    }

    fn norm(&self, context: &mut EmitContext, x: NodeId, weight: &str) -> Result<NodeId> {
        let (name, key) = self.names(weight);
        let gain = context.weight(&name, &key, &[self.n_embd])?;
        let y = context.graph.rms_norm(x, gain, self.eps, Gain::Plain)?;
        Ok(context.graph.label(y, name.rsplit('.').next().unwrap_or(&name)))
    }

    /// Which experts each token takes and how much of each, `[B, T, 2, k]`.
    fn route(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let normed = self.norm(context, x, "router.scale")?;
        let (name, key) = self.names("router.proj.weight");
        let logits = context.project(normed, &name, &key, self.experts)?;
        // A factor on the operand is one on the product.
        let logits = context.graph.scale(logits, (self.n_embd as f32).sqrt().recip())?;
        let (name, key) = self.names("router.per_expert_scale");
        let scales = context.weight(&name, &key, &[self.experts])?;
        let route = context.graph.push(Route { k: self.top_k }, &[logits, scales])?;
        Ok(context.graph.label(route, "route"))
    }

    /// The products of `x` `[B, T, 1 or k, K]` with the chosen ones of a stack of matrices, `[B, T, k, out]`.
    fn product(&self, context: &mut EmitContext, [x, route]: [NodeId; 2], weight: &str, out: usize) -> Result<NodeId> {
        let (name, key) = self.names(weight);
        context.project_experts([x, route], &name, &key, [self.experts, out])
    }

    /// The sum of what the experts give, each by its share.
    fn sum(&self, context: &mut EmitContext, y: NodeId, route: NodeId) -> Result<NodeId> {
        let one = |context: &mut EmitContext, x, axis, start| context.graph.push(Slice { axis, start, len: Dim::from(1) }, &[x]);
        let shares = one(context, route, CHOSEN, 1)?;
        let mut total = None;
        for j in 0..self.top_k {
            let own = one(context, y, CHOSEN, j)?;
            let share = one(context, shares, CHOSEN + 1, j)?;
            let part = context.graph.mul(own, share)?;
            total = Some(match total {
                Some(total) => context.graph.add(total, part)?,
                None => part,
            });
        }
        let shape = context.shape(&[self.n_embd]);
        let total = context.graph.reshape(total.unwrap_or(y), shape)?;
        Ok(context.graph.label(total, "experts"))
    }
}

impl BlockStage for MoeFfnStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let route = self.route(context, x)?;
        let y = self.norm(context, x, "pre_feedforward_layernorm_2.weight")?;
        let one_operand = context.shape(&[1, self.n_embd]);
        let y = context.graph.reshape(y, one_operand)?;
        let both = self.product(context, [y, route], "experts.gate_up_proj", 2 * self.n_ff)?;
        let half = |context: &mut EmitContext, start| {
            context.graph.push(Slice { axis: CHOSEN + 1, start, len: Dim::from(self.n_ff) }, &[both])
        };
        let gate = half(context, 0)?;
        let up = half(context, self.n_ff)?;
        let gate = context.graph.gelu(gate)?;
        let h = context.graph.mul(gate, up)?;
        context.graph.label(h, "expert_geglu");
        let y = self.product(context, [h, route], "experts.down_proj", self.n_embd)?;
        let y = self.sum(context, y, route)?;
        self.norm(context, y, "post_feedforward_layernorm_2.weight")
    }
}

/// The dense block and the experts side by side, each with its norms before and after: `[B, T, D]` to `[B, T, D]`.
#[derive(Debug, Clone)]
pub(super) struct BesideExperts {
    norms: [GemmaRmsNormStage; 2],
    dense: GeGluStage,
    experts: MoeFfnStage,
}

impl BesideExperts {
    pub(super) fn new(config: &GemmaConfig, layer: usize, experts: MoeFfnStage) -> Self {
        let norms = [LayerWeight::PreFfwNorm, LayerWeight::PostDenseNorm];
        let norms = norms.map(|norm| GemmaRmsNormStage::hf_layer(config, layer, norm));
        Self { norms, dense: GeGluStage::hf_mlp(config, layer), experts }
    }
}

impl BlockStage for BesideExperts {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let dense = self.norms[0].emit(context, x)?;
        let dense = self.dense.emit(context, dense)?;
        let dense = self.norms[1].emit(context, dense)?;
        let chosen = self.experts.emit(context, x)?;
        context.graph.add(dense, chosen)
    }
}
