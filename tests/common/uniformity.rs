//! Whether barriers, subgroup operations and cooperative matrices stand in uniform control flow, which naga does not check.
//!
//! A value varies if invocations of one workgroup may hold different ones; control flow varies where such a value decides.
//! Workgroup memory read at an index that does not vary counts as uniform: a barrier lies between, or it would be a race.

use std::collections::HashMap;

use naga::{
    AddressSpace, Block, BuiltIn, CollectiveOperation, Expression as E, Function, GatherMode, Handle, LocalVariable, Module,
    Statement as S, StorageAccess, SubgroupOperation,
};

/// Checks the entry point of a module.
pub fn check(module: &Module) -> Result<(), String> {
    let main = &module.entry_points[0].function;
    let uniform = |b: &Option<naga::Binding>| {
        matches!(b, Some(naga::Binding::BuiltIn(BuiltIn::WorkGroupId | BuiltIn::NumWorkGroups | BuiltIn::SubgroupSize)))
    };
    let arguments = main.arguments.iter().map(|a| !uniform(&a.binding)).collect();
    Flow::run(module, main, arguments, false).map(|_| ())
}

type Locals = HashMap<Handle<LocalVariable>, bool>;

struct Flow<'a> {
    module: &'a Module,
    function: &'a Function,
    arguments: Vec<bool>,
    /// Of the expressions evaluated so far.
    varying: HashMap<Handle<E>, bool>,
    locals: Locals,
    returned: bool,
}

/// Where invocations that took another way have gone.
#[derive(Clone, Copy, Default)]
struct Left {
    /// Out of the function.
    function: bool,
    /// Out of the iteration or the switch.
    iteration: bool,
}

impl<'a> Flow<'a> {
    /// Whether the function's result varies.
    fn run(module: &'a Module, function: &'a Function, arguments: Vec<bool>, control: bool) -> Result<bool, String> {
        let mut flow = Self { module, function, arguments, varying: HashMap::new(), locals: Locals::new(), returned: false };
        flow.block(&function.body, control)?;
        Ok(flow.returned)
    }

    fn varies(&self, handle: Handle<E>) -> bool {
        if let Some(&known) = self.varying.get(&handle) {
            return known;
        }
        match &self.function.expressions[handle] {
            E::FunctionArgument(index) => self.arguments[*index as usize],
            E::LocalVariable(_) | E::Literal(_) | E::Constant(_) | E::Override(_) | E::ZeroValue(_) | E::ArrayLength(_) => false,
            E::GlobalVariable(global) => self.module.global_variables[*global].space == AddressSpace::Private,
            E::Load { pointer } => self.varies(*pointer) || self.holds_varying(*pointer),
            E::Access { base, index } => self.varies(*base) || self.varies(*index),
            E::AccessIndex { base, .. } | E::Splat { value: base, .. } | E::Swizzle { vector: base, .. } => self.varies(*base),
            E::Compose { components, .. } => components.iter().any(|c| self.varies(*c)),
            E::Unary { expr, .. } | E::As { expr, .. } | E::Relational { argument: expr, .. } => self.varies(*expr),
            E::Binary { left, right, .. } => self.varies(*left) || self.varies(*right),
            E::Select { condition, accept, reject } => [condition, accept, reject].iter().any(|h| self.varies(**h)),
            E::Math { arg, arg1, arg2, arg3, .. } => {
                [Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten().any(|h| self.varies(h))
            }
            _ => true,
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

    fn holds_varying(&self, pointer: Handle<E>) -> bool {
        match &self.function.expressions[pointer] {
            E::LocalVariable(local) => self.locals.get(local).copied().unwrap_or(false),
            E::Access { base, .. } | E::AccessIndex { base, .. } => self.holds_varying(*base),
            E::GlobalVariable(global) => match self.module.global_variables[*global].space {
                AddressSpace::Storage { access } => access.contains(StorageAccess::STORE),
                _ => false,
            },
            _ => true,
        }
    }

    fn block(&mut self, block: &'a Block, control: bool) -> Result<Left, String> {
        let mut left = Left::default();
        for statement in block {
            let control = control || left.function || left.iteration;
            let more = self.statement(statement, control)?;
            left.function |= more.function;
            left.iteration |= more.iteration;
        }
        Ok(left)
    }

    fn statement(&mut self, statement: &'a S, control: bool) -> Result<Left, String> {
        let guard = |what: &str| if control { Err(format!("{what} in divergent control flow")) } else { Ok(()) };
        match statement {
            S::Emit(range) => {
                for handle in range.clone() {
                    if let E::CooperativeLoad { .. } | E::CooperativeMultiplyAdd { .. } = self.function.expressions[handle] {
                        guard("a cooperative matrix")?;
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
                return Ok(Left { iteration: false, ..left });
            }
            S::Loop { body, continuing, break_if } => return self.repeat(body, continuing, *break_if, control),
            S::Break | S::Continue => return Ok(Left { iteration: control, function: false }),
            S::Return { value } => {
                self.returned |= control || value.is_some_and(|value| self.varies(value));
                return Ok(Left { function: control, iteration: false });
            }
            S::Store { pointer, value } => self.store(*pointer, control || self.varies(*value)),
            // Which invocation finds what is for the device to choose.
            S::Atomic { pointer, result, .. } => {
                self.store(*pointer, true);
                self.varying.extend(result.map(|result| (result, true)));
            }
            S::ControlBarrier(_) => guard("a barrier")?,
            S::WorkGroupUniformLoad { result, .. } => {
                guard("a barrier")?;
                self.varying.insert(*result, false);
            }
            S::Call { function, arguments, result } => {
                let varying = arguments.iter().map(|a| self.varies(*a)).collect();
                let returned = Flow::run(self.module, &self.module.functions[*function], varying, control)?;
                arguments.iter().for_each(|a| self.store(*a, true));
                self.varying.extend(result.map(|result| (result, returned)));
            }
            S::SubgroupCollectiveOperation { op, collective_op, result, .. } => {
                guard("a subgroup operation")?;
                let reduces = *collective_op == CollectiveOperation::Reduce || matches!(op, SubgroupOperation::All);
                self.varying.insert(*result, !reduces || self.several());
            }
            S::SubgroupGather { mode, result, .. } => {
                guard("a subgroup operation")?;
                let varies = match mode {
                    GatherMode::BroadcastFirst | GatherMode::Broadcast(_) => false,
                    GatherMode::Shuffle(index) => self.varies(*index),
                    _ => true,
                };
                self.varying.insert(*result, varies);
            }
            S::SubgroupBallot { .. } => guard("a subgroup operation")?,
            S::CooperativeStore { .. } => guard("a cooperative matrix")?,
            other => return Err(format!("no rule for {other:?}")),
        }
        Ok(Left::default())
    }

    /// A store into a whole variable replaces what it held; one into a part adds to it.
    fn store(&mut self, pointer: Handle<E>, varies: bool) {
        if let Some(local) = self.local(pointer) {
            let whole = matches!(self.function.expressions[pointer], E::LocalVariable(_));
            let held = self.locals.entry(local).or_default();
            *held = (*held && !whole) || varies || self.varying.get(&pointer).copied().unwrap_or(false);
        }
    }

    fn branches(&mut self, blocks: &[&'a Block], condition: Handle<E>, control: bool) -> Result<Left, String> {
        let control = control || self.varies(condition);
        let before = self.locals.clone();
        let (mut after, mut left) = (Locals::new(), Left::default());
        for block in blocks {
            self.locals = before.clone();
            let more = self.block(block, control)?;
            left = Left { function: left.function || more.function, iteration: left.iteration || more.iteration };
            join(&mut after, &self.locals);
        }
        self.locals = after;
        Ok(left)
    }

    fn repeat(&mut self, body: &'a Block, next: &'a Block, end: Option<Handle<E>>, control: bool) -> Result<Left, String> {
        let mut inside = control;
        loop {
            let before = (self.locals.clone(), inside);
            let left = self.block(body, inside)?;
            self.block(next, inside || left.iteration)?;
            inside |= left.iteration || left.function || end.is_some_and(|end| self.varies(end));
            join(&mut self.locals, &before.0);
            if (&self.locals, inside) == (&before.0, before.1) {
                return Ok(Left { function: left.function, iteration: false });
            }
        }
    }
}

fn join(into: &mut Locals, other: &Locals) {
    other.iter().for_each(|(local, varies)| *into.entry(*local).or_default() |= varies);
}
