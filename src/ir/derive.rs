//! Inputs that follow from others: positions, rotary rows, the last live token.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    Data, DimBinding, Graph, Value,
    ops::{DEAD_KEY, Input, PositionRule, Role, RopeTable, rope_row},
};
use crate::{Error, Result};

/// Inputs by name.
pub type Inputs = BTreeMap<String, Arc<Value>>;

/// Adds to what the caller gives the inputs that the runtime provides. Caches are not among them.
///
/// A rotary table `rope` or `rope_x` follows from the caller's own rows where the optional inputs `rope_cos` and
/// `rope_sin` (`rope_cos_x`, `rope_sin_x`) `[1, H/2]` are given.
///
/// # Errors
/// [`Error::Input`] names an input from which nothing can follow, and why.
pub fn derive(graph: &Graph, binding: &DimBinding, given: &mut Inputs) -> Result<()> {
    for (_, input) in graph.inputs() {
        let shape = input.ty.shape.bind(binding)?;
        let value = match &input.role {
            Role::Caller | Role::Optional | Role::SoftRows | Role::IsText | Role::Cache => continue,
            Role::Positions(rule) | Role::Visible { rule, .. } => {
                let positions = positions(rule, &shape[..2], given)?;
                let data = of_positions(&input.role, positions.into_iter(), &[]);
                Value { shape, data: data.unwrap_or(Data::I32(Vec::new())) }
            }
            Role::KeyPositions { rule, past } => {
                let past = past.bind(binding)?;
                let values = key_positions(rule, &shape, past, given)?;
                Value::i32(shape, values)
            }
            Role::LastToken(rule) => {
                let tokens = tokens(graph, binding)?;
                let values = last_live(&positions(rule, &[shape[0], tokens], given)?, tokens, rule)?;
                Value::u32(shape, values)
            }
            Role::TableRows(_) => return wrong(&input.name, "its rows are on the host, where only a generator looks them up"),
            Role::RopeTable(table) => {
                let data = rope(input, table, &shape, given)?;
                Value { shape, data }
            }
        };
        given.insert(input.name.clone(), Arc::new(value));
    }
    Ok(())
}

/// An input with one row for each new token that follows from the tokens' positions alone; `None` for any other. A
/// token at [`DEAD_KEY`] is padding: it sees nothing, and its rotary row is that of position 0. `pictures` are the
/// positions of each picture's soft tokens.
pub(crate) fn of_positions(role: &Role, positions: impl Iterator<Item = i32>, pictures: &[Range<usize>]) -> Option<Data> {
    match role {
        Role::Positions(_) => Some(Data::I32(positions.collect())),
        Role::Visible { mask, pictures: open, .. } => {
            let pictures = if *open { pictures } else { &[] };
            let visible = |position| {
                let [first, last] = mask.visible(position);
                [first, last.max(last_of_picture(position, pictures).unwrap_or(last))]
            };
            Some(Data::I32(positions.flat_map(visible).collect()))
        }
        Role::RopeTable(table) => Some(table.rows(positions)),
        _ => None,
    }
}

/// The last position of the picture that the token at `position` is of.
fn last_of_picture(position: i32, pictures: &[Range<usize>]) -> Option<i32> {
    let position = usize::try_from(position).ok()?;
    let picture = pictures.iter().find(|picture| picture.contains(&position))?;
    i32::try_from(picture.end - 1).ok()
}

impl RopeTable {
    fn rows(&self, positions: impl Iterator<Item = i32>) -> Data {
        let live = |position: i32| if position == DEAD_KEY { 0 } else { position as usize };
        Data::F32(positions.flat_map(|position| rope_row(&self.inv_freq, live(position))).collect())
    }
}

impl Role {
    /// How far the tokens of a run lie behind its first position, for an input that follows from positions.
    pub(crate) fn offset(&self) -> usize {
        let rule = match self {
            Role::Positions(rule) | Role::Visible { rule, .. } => rule,
            Role::RopeTable(table) => &table.rule,
            _ => return 0,
        };
        if let PositionRule::From(offset) = rule { *offset } else { 0 }
    }
}

fn wrong<T>(name: &str, problem: impl Into<String>) -> Result<T> {
    Err(Error::Input { name: name.into(), problem: problem.into() })
}

/// T, from the first input `[B, T]`.
fn tokens(graph: &Graph, binding: &DimBinding) -> Result<usize> {
    let first = graph.inputs().next().and_then(|(_, input)| input.ty.shape.0.get(1).copied());
    first.map_or_else(|| wrong("last_token_idx", "the graph's first input has no tokens"), |dim| dim.bind(binding))
}

/// The position of each of `[B, T]` new tokens.
fn positions(rule: &PositionRule, shape: &[usize], given: &Inputs) -> Result<Vec<i32>> {
    let batch = shape[0];
    let new = shape[1];
    let count = |from: usize| (from..from + new).map(|p| p as i32);
    match rule {
        PositionRule::From(start) => Ok((0..batch).flat_map(|_| count(*start)).collect()),
        PositionRule::Given(name) => Ok(starts(name, given)?.into_iter().flat_map(count).collect()),
        PositionRule::Mask(name) => match given.get(name) {
            None => Ok((0..batch).flat_map(|_| count(0)).collect()),
            Some(mask) => Ok(mask.to_f32()?.chunks(new.max(1)).flat_map(masked).collect()),
        },
    }
}

/// Counts the live entries; padding is at no position.
fn masked(mask: &[f32]) -> impl Iterator<Item = i32> {
    let mut next = 0;
    mask.iter().map(move |&live| {
        if live >= 0.5 {
            next += 1;
            next - 1
        } else {
            DEAD_KEY
        }
    })
}

fn starts(name: &str, given: &Inputs) -> Result<Vec<usize>> {
    given.get(name).map_or_else(|| wrong(name, "missing"), |value| value.to_indices())
}

/// The positions of the cached rows, then of the new tokens.
fn key_positions(rule: &PositionRule, shape: &[usize], past: usize, given: &Inputs) -> Result<Vec<i32>> {
    let batch = shape[0];
    let new = shape[1] - past;
    let live = match rule {
        PositionRule::From(start) => vec![(*start).min(past); batch],
        PositionRule::Given(name) => {
            let live = starts(name, given)?;
            if let Some(b) = live.iter().position(|rows| *rows > past) {
                let rows = live[b];
                return wrong(name, format!("entry {b} says {rows} live rows, the caller's cache has {past}"));
            }
            live
        }
        PositionRule::Mask(name) => return wrong(name, "padding and a cache of the caller do not go together"),
    };
    let own = positions(rule, &[batch, new], given)?;
    let rows = live.iter().zip(own.chunks(new.max(1))).flat_map(|(&live, own)| {
        let cached = (0..past).map(move |row| if row < live { row as i32 } else { DEAD_KEY });
        cached.chain(own.iter().copied())
    });
    Ok(rows.collect())
}

/// The index of each sequence's last token that is at a position.
fn last_live(positions: &[i32], tokens: usize, rule: &PositionRule) -> Result<Vec<u32>> {
    let last = |(b, row): (usize, &[i32])| match row.iter().rposition(|p| *p != DEAD_KEY) {
        Some(index) => Ok(index as u32),
        None => {
            let name = if let PositionRule::Mask(name) = rule { name } else { "last_token_idx" };
            wrong(name, format!("sequence {b} has no live token"))
        }
    };
    positions.chunks(tokens.max(1)).enumerate().map(last).collect()
}

/// The rows of a rotary table: the caller's own, or of the tokens' positions. Padding gets the row of position 0.
fn rope(input: &Input, table: &RopeTable, shape: &[usize], given: &Inputs) -> Result<Data> {
    let rows = shape[0] * shape[1];
    let [cos, sin] = ["rope_cos", "rope_sin"].map(|own| input.name.replacen("rope", own, 1));
    match (given.get(&cos), given.get(&sin)) {
        (Some(c), Some(s)) => Ok(Data::F32([c.to_f32()?.as_ref(), s.to_f32()?.as_ref()].concat().repeat(rows))),
        (Some(_), None) => wrong(&sin, format!("missing; '{cos}' is given, and one goes with the other")),
        (None, Some(_)) => wrong(&cos, format!("missing; '{sin}' is given, and one goes with the other")),
        (None, None) => {
            let positions = positions(&table.rule, &shape[..2], given)?;
            Ok(table.rows(positions.into_iter()))
        }
    }
}
