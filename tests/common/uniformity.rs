//! Whether barriers, subgroup operations and cooperative matrices stand in uniform control flow, which naga does not
//! check.
//!
//! A value varies if invocations of one workgroup may hold different ones; control flow varies where such a value
//! decides. A subgroup is asked for by itself: its number does not vary in it, and cooperative matrices need no more.
//! Workgroup memory read at an index that does not vary counts as uniform: a barrier lies between, or it would be a
//! race.

use std::collections::HashMap;

use naga::{
    AddressSpace, Block, BuiltIn, CollectiveOperation, Expression as E, Function, GatherMode, Handle, LocalVariable, Module,
    Statement as S, StorageAccess, SubgroupOperation,
};

/// Which invocations of a workgroup may hold different values, or take different ways.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Varies {
    /// None.
    #[default]
    Nowhere,
    /// Those of different subgroups.
    Between,
    /// Any two.
    Within,
}

use Varies::{Between, Nowhere, Within};

/// Checks the entry point of a module.
pub fn check(module: &Module) -> Result<(), String> {
    let main = &module.entry_points[0].function;
    let varies = |binding: &Option<naga::Binding>| match binding {
        Some(naga::Binding::BuiltIn(
            BuiltIn::WorkGroupId | BuiltIn::NumWorkGroups | BuiltIn::SubgroupSize | BuiltIn::NumSubgroups,
        )) => Nowhere,
        Some(naga::Binding::BuiltIn(BuiltIn::SubgroupId)) => Between,
        _ => Within,
    };
    let arguments = main.arguments.iter().map(|argument| varies(&argument.binding)).collect();
    Flow::run(module, main, arguments, Nowhere).map(|_| ())
}

type Locals = HashMap<Handle<LocalVariable>, Varies>;

struct Flow<'a> {
    module: &'a Module,
    function: &'a Function,
    arguments: Vec<Varies>,
    /// Of the expressions evaluated so far.
    varying: HashMap<Handle<E>, Varies>,
    locals: Locals,
    returned: Varies,
}

/// Where invocations that took another way have gone.
#[derive(Clone, Copy, Default)]
struct Left {
    /// Out of the function.
    function: Varies,
    /// Out of the iteration or the switch.
    iteration: Varies,
}

impl Left {
    fn or(self, other: Self) -> Self {
        Self { function: self.function.max(other.function), iteration: self.iteration.max(other.iteration) }
    }
}

impl<'a> Flow<'a> {
    /// Whether the function's result varies.
    fn run(module: &'a Module, function: &'a Function, arguments: Vec<Varies>, control: Varies) -> Result<Varies, String> {
        let mut flow = Self { module, function, arguments, varying: HashMap::new(), locals: Locals::new(), returned: Nowhere };
        flow.block(&function.body, control)?;
        Ok(flow.returned)
    }

    fn varies(&self, handle: Handle<E>) -> Varies {
        if let Some(&known) = self.varying.get(&handle) {
            return known;
        }
        let most = |handles: &[Handle<E>]| handles.iter().map(|h| self.varies(*h)).max().unwrap_or_default();
        match &self.function.expressions[handle] {
            E::FunctionArgument(index) => self.arguments[*index as usize],
            E::LocalVariable(_) | E::Literal(_) | E::Constant(_) | E::Override(_) | E::ZeroValue(_) | E::ArrayLength(_) => {
                Nowhere
            }
            E::GlobalVariable(global) if self.module.global_variables[*global].space == AddressSpace::Private => Within,
            E::GlobalVariable(_) => Nowhere,
            E::Load { pointer } => self.varies(*pointer).max(self.holds_varying(*pointer)),
            E::Access { base, index } => most(&[*base, *index]),
            E::AccessIndex { base, .. } | E::Splat { value: base, .. } | E::Swizzle { vector: base, .. } => self.varies(*base),
            E::Compose { components, .. } => most(components),
            E::Unary { expr, .. } | E::As { expr, .. } | E::Relational { argument: expr, .. } => self.varies(*expr),
            E::Binary { left, right, .. } => most(&[*left, *right]),
            E::Select { condition, accept, reject } => most(&[*condition, *accept, *reject]),
            E::Math { arg, arg1, arg2, arg3, .. } => {
                [Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten().map(|h| self.varies(h)).max().unwrap_or_default()
            }
            _ => Within,
        }
    }

    /// Whether a workgroup holds several subgroups, each with results of its own.
    fn several(&self) -> bool {
        let counts = |b: &Option<naga::Binding>| matches!(b, Some(naga::Binding::BuiltIn(BuiltIn::NumSubgroups)));
        self.module.entry_points[0].function.arguments.iter().any(|argument| counts(&argument.binding))
    }

    /// The local variable that a pointer leads into, if it is one.
    fn local(&self, pointer: Handle<E>) -> Option<Handle<LocalVariable>> {
        match &self.function.expressions[pointer] {
            E::LocalVariable(local) => Some(*local),
            E::Access { base, .. } | E::AccessIndex { base, .. } => self.local(*base),
            _ => None,
        }
    }

    fn holds_varying(&self, pointer: Handle<E>) -> Varies {
        match &self.function.expressions[pointer] {
            E::LocalVariable(local) => self.locals.get(local).copied().unwrap_or_default(),
            E::Access { base, .. } | E::AccessIndex { base, .. } => self.holds_varying(*base),
            E::GlobalVariable(global) => match self.module.global_variables[*global].space {
                AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Within,
                _ => Nowhere,
            },
            _ => Within,
        }
    }

    fn block(&mut self, block: &'a Block, control: Varies) -> Result<Left, String> {
        let mut left = Left::default();
        for statement in block {
            let control = control.max(left.function).max(left.iteration);
            let more = self.statement(statement, control)?;
            left = left.or(more);
        }
        Ok(left)
    }

    fn statement(&mut self, statement: &'a S, control: Varies) -> Result<Left, String> {
        let divergent = |what: &str| Err(format!("{what} in divergent control flow"));
        let guard = |what: &str| if control > Nowhere { divergent(what) } else { Ok(()) };
        // Each subgroup multiplies by itself.
        let guard_matrix = || if control > Between { divergent("a cooperative matrix") } else { Ok(()) };
        match statement {
            S::Emit(range) => {
                for handle in range.clone() {
                    if let E::CooperativeLoad { .. } | E::CooperativeMultiplyAdd { .. } = self.function.expressions[handle] {
                        guard_matrix()?;
                    }
                    self.varying.remove(&handle);
                    let varies = self.varies(handle);
                    self.varying.insert(handle, varies);
                }
            }
            S::Block(block) => return self.block(block, control),
            S::If { condition, accept, reject } => return self.branches(&[accept, reject], *condition, control),
            S::Switch { selector, cases } => {
                let blocks: Vec<&Block> = cases.iter().map(|case| &case.body).collect();
                let left = self.branches(&blocks, *selector, control)?;
                return Ok(Left { iteration: Nowhere, ..left });
            }
            S::Loop { body, continuing, break_if } => return self.repeat(body, continuing, *break_if, control),
            S::Break | S::Continue => return Ok(Left { iteration: control, function: Nowhere }),
            S::Return { value } => {
                let value = value.map_or(Nowhere, |value| self.varies(value));
                self.returned = self.returned.max(control).max(value);
                return Ok(Left { function: control, iteration: Nowhere });
            }
            S::Store { pointer, value } => self.store(*pointer, control.max(self.varies(*value))),
            // Which invocation finds what is for the device to choose.
            S::Atomic { pointer, result, .. } => {
                self.store(*pointer, Within);
                self.varying.extend(result.map(|result| (result, Within)));
            }
            S::ControlBarrier(_) => guard("a barrier")?,
            S::WorkGroupUniformLoad { result, .. } => {
                guard("a barrier")?;
                self.varying.insert(*result, Nowhere);
            }
            S::Call { function, arguments, result } => {
                let varying = arguments.iter().map(|a| self.varies(*a)).collect();
                let returned = Flow::run(self.module, &self.module.functions[*function], varying, control)?;
                arguments.iter().for_each(|a| self.store(*a, Within));
                self.varying.extend(result.map(|result| (result, returned)));
            }
            S::SubgroupCollectiveOperation { op, collective_op, result, .. } => {
                guard("a subgroup operation")?;
                let reduces = *collective_op == CollectiveOperation::Reduce || matches!(op, SubgroupOperation::All);
                let varies = if !reduces || self.several() { Within } else { Nowhere };
                self.varying.insert(*result, varies);
            }
            S::SubgroupGather { mode, result, .. } => {
                guard("a subgroup operation")?;
                let varies = match mode {
                    GatherMode::BroadcastFirst | GatherMode::Broadcast(_) => Nowhere,
                    GatherMode::Shuffle(index) => self.varies(*index),
                    _ => Within,
                };
                self.varying.insert(*result, varies);
            }
            S::SubgroupBallot { .. } => guard("a subgroup operation")?,
            S::CooperativeStore { .. } => guard_matrix()?,
            other => return Err(format!("no rule for {other:?}")),
        }
        Ok(Left::default())
    }

    /// A store into a whole variable replaces what it held; one into a part adds to it.
    fn store(&mut self, pointer: Handle<E>, varies: Varies) {
        if let Some(local) = self.local(pointer) {
            let whole = matches!(self.function.expressions[pointer], E::LocalVariable(_));
            let held = self.locals.entry(local).or_default();
            let kept = if whole { Nowhere } else { *held };
            *held = kept.max(varies).max(self.varying.get(&pointer).copied().unwrap_or_default());
        }
    }

    fn branches(&mut self, blocks: &[&'a Block], condition: Handle<E>, control: Varies) -> Result<Left, String> {
        let control = control.max(self.varies(condition));
        let before = self.locals.clone();
        let (mut after, mut left) = (Locals::new(), Left::default());
        for block in blocks {
            self.locals = before.clone();
            let more = self.block(block, control)?;
            left = left.or(more);
            join(&mut after, &self.locals);
        }
        self.locals = after;
        Ok(left)
    }

    fn repeat(&mut self, body: &'a Block, next: &'a Block, end: Option<Handle<E>>, control: Varies) -> Result<Left, String> {
        let mut inside = control;
        loop {
            let before = (self.locals.clone(), inside);
            let left = self.block(body, inside)?;
            self.block(next, inside.max(left.iteration))?;
            let end = end.map_or(Nowhere, |end| self.varies(end));
            inside = inside.max(left.iteration).max(left.function).max(end);
            join(&mut self.locals, &before.0);
            if (&self.locals, inside) == (&before.0, before.1) {
                return Ok(Left { function: left.function, iteration: Nowhere });
            }
        }
    }
}

fn join(into: &mut Locals, other: &Locals) {
    for (local, varies) in other {
        let held = into.entry(*local).or_default();
        *held = (*held).max(*varies);
    }
}
