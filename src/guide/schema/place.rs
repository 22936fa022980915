//! Places in a schema.

use std::fmt;

use serde_json::Value;

/// Keywords whose value is a schema.
const ONE: [&str; 12] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
/// Keywords whose value has schemas by name.
const NAMED: [&str; 6] = ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

/// Returns `true` if a keyword keeps schemas for references alone.
pub(super) fn is_store(keyword: &str) -> bool {
    matches!(keyword, "$defs" | "definitions")
}

/// The way from a schema's root to a value in it; shown as a JSON pointer in a fragment (RFC 6901).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::guide) struct Place(Vec<String>);

impl Place {
    pub(super) fn join<S: AsRef<str>>(&self, steps: &[S]) -> Self {
        let steps = steps.iter().map(|step| step.as_ref().to_string());
        Self(self.0.iter().cloned().chain(steps).collect())
    }

    pub(super) fn steps(&self) -> &[String] {
        &self.0
    }

    pub(super) fn find<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(root, |value, step| match value {
            Value::Object(fields) => fields.get(step),
            Value::Array(items) => items.get(index(step)?),
            _ => None,
        })
    }

    pub(super) fn find_mut<'v>(&self, root: &'v mut Value) -> Option<&'v mut Value> {
        self.0.iter().try_fold(root, |value, step| match value {
            Value::Object(fields) => fields.get_mut(step),
            Value::Array(items) => items.get_mut(index(step)?),
            _ => None,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("#")?;
        self.0.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

/// An index of an array: digits without leading zeros (RFC 6901, section 4).
fn index(step: &str) -> Option<usize> {
    let is_index = step == "0" || !step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit());
    step.parse().ok().filter(|_| is_index)
}

/// The schemas directly within a schema, and the way to each.
pub(super) fn children(schema: &Value) -> Vec<(Vec<String>, &Value)> {
    let Value::Object(fields) = schema else { return Vec::new() };
    let is_schema = |value: &Value| matches!(value, Value::Object(_) | Value::Bool(_));
    let mut found = Vec::new();
    for (key, value) in fields {
        match value {
            _ if ONE.contains(&key.as_str()) && is_schema(value) => found.push((vec![key.clone()], value)),
            Value::Array(items) if LIST.contains(&key.as_str()) => {
                let items = items.iter().enumerate();
                found.extend(items.map(|(index, item)| (vec![key.clone(), index.to_string()], item)));
            }
            Value::Object(named) if NAMED.contains(&key.as_str()) => {
                let named = named.iter().filter(|(_, value)| is_schema(value));
                found.extend(named.map(|(name, value)| (vec![key.clone(), name.clone()], value)));
            }
            _ => {}
        }
    }
    found
}

/// A schema and all within it, outer ones first.
pub(super) fn subschemas(root: &Value) -> Vec<(Place, &Value)> {
    let mut found = vec![(Place::default(), root)];
    let mut next = 0;
    while next < found.len() {
        let (place, schema) = found[next].clone();
        found.extend(children(schema).into_iter().map(|(steps, child)| (place.join(&steps), child)));
        next += 1;
    }
    found
}
