//! Inputs that belong to no layer: positions, masks, rotary tables.

use super::EmitContext;
use crate::{
    Error, Result,
    ir::{
        DType, Dim, MaskKind, NodeId, Op, Shape, Type,
        ops::{Input, Role, RopeTable},
    },
};

impl EmitContext<'_> {
    /// `[B, past + T]`.
    fn keys(&self, past: Dim) -> Result<Shape> {
        let keys = past.checked_add(self.seq);
        let keys = keys.ok_or_else(|| Error::Builder(format!("past {past} and {} new tokens make no size", self.seq)))?;
        Ok(Shape(vec![self.batch.into(), keys]))
    }

    /// The positions of the new tokens, `[B, T]` i32.
    ///
    /// # Errors
    /// [`Error::Builder`] where the name stands for something else.
    pub fn query_positions(&mut self) -> Result<NodeId> {
        let rule = self.positions.clone();
        let shape = self.shape(&[]);
        self.runtime_input("positions", Role::Positions(rule), DType::I32, shape)
    }

    /// The first and the last position that each new token sees by the rule `mask`, `[B, T, 2]` i32. With `pictures` the
    /// soft tokens of one picture also see the later ones of it.
    ///
    /// # Errors
    /// [`Error::Builder`] where the name stands for something else.
    pub fn visible_positions(&mut self, mask: MaskKind, pictures: bool) -> Result<NodeId> {
        let rule = self.positions.clone();
        let shape = self.shape(&[2]);
        let name = match mask {
            MaskKind::None | MaskKind::Custom | MaskKind::Bias => "visible_all".to_string(),
            MaskKind::Causal => "visible_causal".to_string(),
            MaskKind::SlidingWindow(window) => format!("visible_window_{window}"),
            MaskKind::SymmetricWindow(radius) => format!("visible_within_{radius}"),
        };
        self.runtime_input(&name, Role::Visible { rule, mask, pictures }, DType::I32, shape)
    }

    /// As [`visible_positions`](Self::visible_positions) without a mask, for padding too: it sees what live tokens see.
    /// In transformers' towers a mask drops keys and no query.
    ///
    /// # Errors
    /// [`Error::Builder`] where the name stands for something else.
    #[cfg(feature = "vision")]
    pub(crate) fn all_positions(&mut self) -> Result<NodeId> {
        let shape = self.shape(&[2]);
        let role = Role::Visible { rule: crate::ir::ops::PositionRule::From(0), mask: MaskKind::None, pictures: false };
        self.runtime_input("visible_all", role, DType::I32, shape)
    }

    /// The rows of soft tokens `[B, T, D]` f32, zero for other tokens; and 0 for soft tokens and 1 for others,
    /// `[B, T, 1]` f32.
    ///
    /// # Errors
    /// [`Error::Builder`] where a name stands for something else.
    pub(crate) fn soft_tokens(&mut self, width: usize) -> Result<[NodeId; 2]> {
        let rows = self.shape(&[width]);
        let flags = self.shape(&[1]);
        let rows = self.runtime_input("soft_tokens", Role::SoftRows, DType::F32, rows)?;
        let is_text = self.runtime_input("is_text", Role::IsText, DType::F32, flags)?;
        Ok([rows, is_text])
    }

    /// The positions of the keys of a caller's cache followed by those of the new tokens, `[B, past + T]` i32.
    ///
    /// # Errors
    /// [`Error::Builder`] where the name stands for something else.
    pub fn key_positions(&mut self, past: Dim) -> Result<NodeId> {
        let rule = self.positions.clone();
        let shape = self.keys(past)?;
        self.runtime_input("key_positions", Role::KeyPositions { rule, past }, DType::I32, shape)
    }

    /// The caller's mask over the keys, `[B, past + T]` f32.
    ///
    /// # Errors
    /// [`Error::Builder`] where the name stands for something else.
    pub fn key_mask(&mut self, past: Dim) -> Result<NodeId> {
        let shape = self.keys(past)?;
        self.runtime_input("mask", Role::Caller, DType::F32, shape)
    }

    /// Makes a rotary table known by its name: the rows of the new tokens, `[B, T, H]`, from H/2 inverse frequencies.
    ///
    /// # Errors
    /// [`Error::Builder`] where the name stands for something else.
    pub fn rope_table(&mut self, name: &str, inv_freq: &[f32]) -> Result<NodeId> {
        let rule = self.positions.clone();
        let shape = self.shape(&[inv_freq.len() * 2]);
        let role = Role::RopeTable(RopeTable { inv_freq: inv_freq.into(), rule });
        self.runtime_input(name, role, DType::F32, shape)
    }

    /// An f32 input that the caller may give, such as its own rotary rows; what is derived from it says how.
    ///
    /// # Errors
    /// [`Error::Builder`] where the name stands for something else.
    pub fn optional_input(&mut self, name: &str, shape: Shape) -> Result<NodeId> {
        self.runtime_input(name, Role::Optional, DType::F32, shape)
    }

    /// An input that belongs to no layer, whichever asks for it first; all must ask for the same.
    fn runtime_input(&mut self, name: &str, role: Role, dtype: DType, shape: Shape) -> Result<NodeId> {
        let input = Input { name: name.to_string(), role, ty: Type::new(dtype, shape) };
        if let Some(node) = self.find_shared(name) {
            return match &self.graph.node(node).op {
                Op::Input(found) if *found == input => Ok(node),
                _ => Err(Error::Builder(format!("'{name}' is there already and is something else; give yours another name"))),
            };
        }
        self.graph.set_scope("");
        let node = self.graph.input(name, input.role, dtype, input.ty.shape);
        self.graph.set_scope(self.scope.join("."));
        let node = node?;
        self.share(name, node);
        Ok(node)
    }
}
