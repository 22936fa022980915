//! Compiled graphs by their sizes: exact ones, one for all, or a ladder of buckets. All of them share the session's
//! pipelines and one set of resident weights; what a compiled graph has of its own is its inputs, its bind groups and a
//! share of the scratch.

use super::{
    CacheStats, CompileOptions, CompiledGraph, RunInput, Session,
    lru::Lru,
    scratch::ScratchPool,
    session::{capacity, sizes},
};
use crate::{
    Error, Result,
    cancel::CancelToken,
    error::GraphError,
    ir::{DimBinding, Graph, Symbol, Value},
};

/// The graph and options that every entry of a cache is compiled from.
#[derive(Debug)]
struct Template {
    session: Session,
    graph: Graph,
    options: CompileOptions,
    scratch: ScratchPool,
    compiles: u64,
}

impl Template {
    fn new(session: &Session, graph: &Graph, options: &CompileOptions) -> Self {
        let session = session.clone();
        let graph = graph.clone();
        let options = options.clone();
        Self { session, graph, options, scratch: ScratchPool::default(), compiles: 0 }
    }

    /// All sizes: as bound, else as in the options, else at their limits.
    fn dims(&self, bound: &DimBinding) -> Result<DimBinding> {
        let both = bound.iter().fold(self.options.dims.clone(), |dims, (symbol, value)| dims.with(symbol, value));
        capacity(&self.graph, &both)
    }

    fn compile(&mut self, dims: DimBinding) -> Result<CompiledGraph> {
        let options = self.options.clone().with_dims(dims);
        let graph = self.session.compile_into(&self.graph, &options, &mut self.scratch, &CancelToken::new())?;
        self.compiles += 1;
        Ok(graph)
    }

    /// The sizes that the inputs of a run have.
    fn sizes<'i, I>(&self, inputs: &'i [(&str, I)]) -> Result<DimBinding>
    where
        &'i I: Into<RunInput<'i>>,
    {
        let inputs: Vec<(&str, RunInput)> = inputs.iter().map(|(name, input)| (*name, input.into())).collect();
        sizes(&self.graph, &inputs, &self.dims(&DimBinding::new())?)
    }

    fn stats<'a>(&self, counted: CacheStats, entries: impl Iterator<Item = &'a CompiledGraph>) -> CacheStats {
        let own: u64 = entries.map(CompiledGraph::own_bytes).sum();
        CacheStats { compiles: self.compiles, bytes: own + self.scratch.bytes(), ..counted }
    }
}

/// Graphs compiled for exactly the sizes that they run at, the least recently used one going when there are more than
/// `capacity`.
///
/// An entry that goes gives its buffers back; its pipelines, some of which are for that size alone, stay with the
/// session.
#[derive(Debug)]
pub struct CompileCache {
    template: Template,
    entries: Lru<DimBinding, CompiledGraph>,
}

impl CompileCache {
    /// An empty cache of at most `capacity` compiled graphs.
    ///
    /// # Errors
    /// [`Error::Builder`] for a capacity of 0.
    pub fn new(session: &Session, graph: &Graph, options: &CompileOptions, capacity: usize) -> Result<Self> {
        match capacity {
            0 => Err(Error::Builder("the capacity of the CompileCache is 0, expected at least 1".into())),
            _ => Ok(Self { template: Template::new(session, graph, options), entries: Lru::new(capacity) }),
        }
    }

    /// The graph compiled for these sizes.
    ///
    /// # Errors
    /// As [`Session::compile_with`].
    pub fn get(&mut self, dims: &DimBinding) -> Result<&CompiledGraph> {
        Ok(self.entry(dims)?)
    }

    fn entry(&mut self, dims: &DimBinding) -> Result<&mut CompiledGraph> {
        let dims = self.template.dims(dims)?;
        self.entries.get_or_try_insert(&dims, || self.template.compile(dims.clone()))
    }

    /// Runs the graph compiled for the sizes that the inputs have.
    ///
    /// # Errors
    /// As [`Session::compile_with`] and [`CompiledGraph::run`].
    pub fn run<'i, I>(&mut self, inputs: &'i [(&str, I)]) -> Result<Vec<(String, Value)>>
    where
        &'i I: Into<RunInput<'i>>,
    {
        let dims = self.template.sizes(inputs)?;
        self.entry(&dims)?.run(inputs)
    }

    /// Counts of look-ups, and the memory of the entries.
    pub fn stats(&self) -> CacheStats {
        self.template.stats(self.entries.stats(), self.entries.values())
    }
}

/// One graph compiled once, for the most that it may have, that runs at every size up to that. A run of any size costs
/// the device little more than its own rows, but its memory is that of the largest.
#[derive(Debug)]
pub struct DynamicDimCompileCache {
    template: Template,
    compiled: CompiledGraph,
    runs: u64,
}

impl DynamicDimCompileCache {
    /// Compiles the graph for sizes up to those of the options; one that is not there is at the graph's own limit.
    ///
    /// # Errors
    /// As [`Session::compile_with`].
    pub fn new(session: &Session, graph: &Graph, options: &CompileOptions) -> Result<Self> {
        let mut template = Template::new(session, graph, options);
        let compiled = template.compile(options.dims.clone())?;
        Ok(Self { template, compiled, runs: 0 })
    }

    /// Runs at the sizes that the inputs have.
    ///
    /// # Errors
    /// As [`CompiledGraph::run`].
    pub fn run<'i, I>(&mut self, inputs: &'i [(&str, I)]) -> Result<Vec<(String, Value)>>
    where
        &'i I: Into<RunInput<'i>>,
    {
        let outputs = self.compiled.run(inputs)?;
        self.runs += 1;
        Ok(outputs)
    }

    /// Counts and memory: one compile, and a hit for every run.
    pub fn stats(&self) -> CacheStats {
        let counted = CacheStats { hits: self.runs, ..CacheStats::default() };
        self.template.stats(counted, std::iter::once(&self.compiled))
    }
}

/// Graphs compiled for a ladder of one size, each serving the sizes down to the rung below.
///
/// With a ladder of powers of two the inputs of all rungs together have less than twice the bytes of the top rung's
/// (and the parts that do not grow once a rung). Scratch is shared by all rungs and has at most four times the bytes of
/// the largest.
#[derive(Debug)]
pub struct BucketedCompileCache {
    session: Session,
    buckets: Vec<usize>,
    serves: Option<Served>,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Served {
    template: Template,
    symbol: Symbol,
    compiled: Vec<Option<CompiledGraph>>,
}

impl BucketedCompileCache {
    /// Rungs `min`, 2·`min`, 4·`min`, … and `max` on a device: from 1 on they serve the sizes 1, 2, 3–4, 5–8, ….
    ///
    /// # Errors
    /// [`Error::Builder`] for a `min` of 0 or above `max`.
    pub fn power_of_two_ladder(session: &Session, min: usize, max: usize) -> Result<Self> {
        if min == 0 || min > max {
            return Err(Error::Builder(format!(
                "a ladder from {min} to {max}: expected a first rung of at least 1 and at most the last"
            )));
        }
        let below = std::iter::successors(Some(min), |rung| rung.checked_mul(2)).take_while(|rung| *rung < max);
        let buckets = below.chain([max]).collect();
        Ok(Self { session: session.clone(), buckets, serves: None, hits: 0, misses: 0 })
    }

    /// Serves `graph`, whose size `symbol` the ladder is for; other symbolic sizes are as in the options, else at their
    /// limits. A ladder that goes past the graph's limit ends there. Nothing is compiled yet.
    pub fn for_graph(mut self, graph: &Graph, symbol: Symbol, options: &CompileOptions) -> Self {
        if let Some(most) = graph.limits().get(&symbol) {
            let below = self.buckets.iter().take_while(|rung| *rung < most).count();
            if below < self.buckets.len() {
                self.buckets.truncate(below);
                self.buckets.push(*most);
            }
        }
        let compiled = self.buckets.iter().map(|_| None).collect();
        self.serves = Some(Served { template: Template::new(&self.session, graph, options), symbol, compiled });
        self
    }

    /// The rungs, the smallest first.
    pub fn buckets(&self) -> &[usize] {
        &self.buckets
    }

    /// The smallest rung that holds `size`; `None` past the top.
    pub fn bucket_for(&self, size: usize) -> Option<usize> {
        self.buckets.iter().copied().find(|rung| *rung >= size)
    }

    /// The graph compiled for the rung that holds `size`.
    ///
    /// # Errors
    /// [`Error::ContextFull`] past the top rung, [`Error::Builder`] where no graph is served, and as
    /// [`Session::compile_with`].
    pub fn get(&mut self, size: usize) -> Result<&CompiledGraph> {
        Ok(self.entry(size)?)
    }

    fn entry(&mut self, size: usize) -> Result<&mut CompiledGraph> {
        let top = self.buckets.last().copied().unwrap_or(0);
        let rung = self.buckets.iter().position(|rung| *rung >= size);
        let index = rung.ok_or(Error::ContextFull { needed: size, capacity: top })?;
        let served = self.serves.as_mut().ok_or_else(no_graph)?;
        if served.compiled[index].is_some() {
            self.hits += 1
        } else {
            self.misses += 1;
            let dims = DimBinding::new().with(served.symbol, self.buckets[index]);
            served.compiled[index] = Some(served.template.compile(dims)?);
        }
        served.compiled[index].as_mut().ok_or_else(|| lost(&served.template.graph))
    }

    /// Runs in the rung that holds the size that the inputs have.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`CompiledGraph::run`].
    pub fn run<'i, I>(&mut self, inputs: &'i [(&str, I)]) -> Result<Vec<(String, Value)>>
    where
        &'i I: Into<RunInput<'i>>,
    {
        let served = self.serves.as_ref().ok_or_else(no_graph)?;
        let size = served.template.sizes(inputs)?.get(served.symbol).unwrap_or(0);
        self.entry(size)?.run(inputs)
    }

    /// Counts of look-ups, and the memory of the entries.
    pub fn stats(&self) -> CacheStats {
        let counted = CacheStats { hits: self.hits, misses: self.misses, ..CacheStats::default() };
        self.serves.as_ref().map_or(counted, |s| s.template.stats(counted, s.compiled.iter().flatten()))
    }
}

fn no_graph() -> Error {
    Error::Builder("the BucketedCompileCache serves no graph; name one with for_graph".into())
}

/// The error of a missing compiled form. It is for the type's sake: the form stays until it is dropped with its cache.
fn lost(graph: &Graph) -> Error {
    Error::Graph(GraphError::Malformed { graph: graph.name.clone(), problem: "its compiled form is gone".into() })
}
