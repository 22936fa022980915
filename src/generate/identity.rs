//! What tells a model from others, and how its caches are laid out: what saved rows are checked against.

use std::collections::BTreeMap;

use super::{Model, Want};
use crate::{
    Result,
    checksum::Fnv,
    ir::{
        DType, DimBinding, FixedType,
        ops::{Input, Role},
        sym,
    },
    weights::WeightLoader,
};

/// Bytes of the beginning and of the end of each weight that a fingerprint looks at.
const SAMPLE: usize = 256;

/// A row of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheRow {
    /// Whether the cache is a ring.
    pub(crate) slides: bool,
    /// Bytes of a row.
    pub(crate) bytes: usize,
}

impl Model {
    /// A number that other weights, other shapes or another configuration change: the hash of the configuration and of each weight's
    /// name, type, shape, and first and last bytes.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub(crate) fn fingerprint(&self) -> Result<u64> {
        let mut weights = self.weights.clone();
        let mut sum = Fnv::new();
        sum.add(format!("{:?}", self.config).as_bytes());
        for name in self.weights.remaining_keys() {
            let tensor = weights.take(&name)?;
            sum.add(format!("{name} {:?} {:?} {:?}", tensor.dtype(), tensor.shape(), tensor.random()).as_bytes());
            if tensor.random().is_some() {
                continue;
            }
            let mut sample = vec![0; tensor.byte_len().min(SAMPLE)];
            for start in [0, tensor.byte_len() - sample.len()] {
                tensor.read_bytes(start, &mut sample)?;
                sum.add(&sample);
            }
        }
        Ok(sum.value())
    }

    /// Which caches of keys and values of type `kv` are rings, and the bytes of a row of each, by name.
    pub(crate) fn caches(&self, kv: DType) -> Result<BTreeMap<String, CacheRow>> {
        let built = self.built(true, Want::Nothing, kv)?;
        let one = DimBinding::new().with(sym::SEQ, 1).with(sym::CACHE, 1).with(sym::RING, 1);
        let caches = built.graph.inputs().map(|(_, input)| input).filter(|input| input.role == Role::Cache);
        let row = |input: &Input| -> Result<(String, CacheRow)> {
            let ty = FixedType { dtype: input.ty.dtype, shape: input.ty.shape.bind(&one)? };
            let slides = input.ty.shape.0.iter().any(|dim| dim.symbols().any(|symbol| symbol == sym::RING));
            Ok((input.name.clone(), CacheRow { slides, bytes: ty.byte_len().unwrap_or(0) }))
        };
        caches.map(row).collect()
    }
}
