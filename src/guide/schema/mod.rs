//! JSON schemas before they become a grammar: the places of their subschemas, the targets of their references.

mod document;
mod looseness;
mod numbers;
mod place;
mod uri;

use serde_json::Value;

use crate::{Error, Result};
pub(super) use place::Place;

/// A schema as llguidance reads it: references are pointers to places that it finds, keywords that ask for nothing are
/// left out.
///
/// # Errors
/// [`Error::Grammar`] with its place for a reference that leads nowhere, and for what a grammar would not keep out.
pub(super) fn prepared(schema: Value) -> Result<Value> {
    let at = |(place, problem): (Place, String)| Error::Grammar(format!("at {place}: {problem}"));
    let mut schema = document::with_plain_references(schema).map_err(at)?;
    looseness::check(&schema).map_err(at)?;
    drop_idle_keywords(&mut schema);
    looseness::tighten_formats(&mut schema);
    numbers::list_multiples(&mut schema);
    Ok(schema)
}

/// `uniqueItems: false` asks for nothing and is unknown to llguidance all the same.
fn drop_idle_keywords(schema: &mut Value) {
    let idle: Vec<Place> = place::subschemas(schema)
        .into_iter()
        .filter(|(_, schema)| schema.get("uniqueItems") == Some(&Value::Bool(false)))
        .map(|(place, _)| place)
        .collect();
    for place in idle {
        if let Some(Value::Object(fields)) = place.find_mut(schema) {
            fields.remove("uniqueItems");
        }
    }
}

/// The innermost subschema that `refused` has an error for, where the error of the whole schema names it as its cause.
pub(super) fn locate(schema: &Value, whole: &str, refused: impl Fn(&Value) -> Option<String>) -> Place {
    /// Compiling takes its time.
    const MOST_TRIALS: usize = 64;
    let mut trials = 0;
    let mut found = Place::default();
    let mut said = whole.to_string();
    loop {
        let Some(here) = found.find(schema) else { return found };
        let inner = place::children(here).into_iter().find_map(|(steps, _)| {
            trials += 1;
            let place = found.join(&steps);
            let problem = (trials <= MOST_TRIALS).then(|| refused(&focused(schema, &place)))??;
            let cause = problem.rsplit(": ").next().unwrap_or_default();
            said.contains(cause).then_some((place, problem))
        });
        match inner {
            Some((place, problem)) => {
                found = place;
                said = problem;
            }
            None => return found,
        }
    }
}

/// A schema that asks for what a place in another one does.
fn focused(schema: &Value, place: &Place) -> Value {
    let mut root = place.find(schema).cloned().unwrap_or_default();
    if let (Value::Object(fields), Value::Object(whole)) = (&mut root, schema) {
        // The targets of references.
        for (key, value) in whole {
            if !fields.contains_key(key) && (place::is_store(key) || key.starts_with(document::TARGETS)) {
                fields.insert(key.clone(), value.clone());
            }
        }
    }
    root
}
