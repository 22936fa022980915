//! Keywords that llguidance enforces less strictly than a schema asks.

use serde_json::{Value, json};

use super::place::{self, Place};

/// Formats whose grammar in llguidance is too loose, and patterns that tighten it. Without them it takes the 29th of
/// February of any year, leap seconds at any time of the day, and names of mailboxes of over 64 bytes.
const PATTERNS: [(&str, &[&str]); 4] = [
    ("date", &[NO_SUCH_DAY]),
    ("date-time", &[NO_SUCH_DAY, "^[^:]*:[0-9]{2}:[0-5]"]),
    ("time", &["^[^:]*:[0-9]{2}:[0-5]"]),
    ("email", &["^[^@]{1,64}@"]),
];

const NO_SUCH_DAY: &str = concat!(
    "^([0-9]{4}-(0[13-9]|1[0-2])|[0-9]{4}-02-([01][0-9]|2[0-8])",
    "|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
);

/// Adds such patterns to a schema.
pub(super) fn tighten_formats(schema: &mut Value) {
    let found: Vec<(Place, &[&str])> = place::subschemas(schema)
        .into_iter()
        .filter_map(|(place, schema)| {
            let format = schema.get("format")?.as_str()?;
            let (_, patterns) = PATTERNS.iter().find(|(name, _)| *name == format)?;
            Some((place, *patterns))
        })
        .collect();
    for (place, patterns) in found {
        let Some(Value::Object(fields)) = place.find_mut(schema) else { continue };
        let parts = fields.entry("allOf").or_insert_with(|| json!([]));
        if let Value::Array(parts) = parts {
            parts.extend(patterns.iter().map(|pattern| json!({"pattern": pattern})));
        }
    }
}

/// Refuses keywords that cannot be tightened.
///
/// # Errors
/// The place, and its fault.
pub(super) fn check(schema: &Value) -> Result<(), (Place, String)> {
    for (place, schema) in place::subschemas(schema) {
        if let Some(problem) = repeated_names(schema).or_else(|| bound_let_through(schema)) {
            return Err((place, problem));
        }
    }
    Ok(())
}

/// A grammar cannot keep names that nobody listed from being the same.
fn repeated_names(schema: &Value) -> Option<String> {
    let least = schema.get("minProperties")?.as_u64()?;
    let required = schema.get("required").and_then(Value::as_array).map_or(0, Vec::len);
    let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false)) && schema.get("patternProperties").is_none();
    let told_apart = required as u64 + 1;
    (least > told_apart && !is_closed).then(|| {
        format!(
            "minProperties {least} cannot be held to, as names that are not listed may repeat: {told_apart} are told apart; list more \
             names in required, or set additionalProperties to false"
        )
    })
}

/// llguidance takes the whole number for a part of an interval that begins behind it and ends before the next.
fn bound_let_through(schema: &Value) -> Option<String> {
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    if schema.get("type")?.as_str()? == "integer" {
        return None;
    }
    let exclusive = [number("exclusiveMinimum"), number("exclusiveMaximum")];
    let least = [number("minimum"), exclusive[0]].into_iter().flatten().reduce(f64::max)?;
    let most = [number("maximum"), exclusive[1]].into_iter().flatten().reduce(f64::min)?;
    let [near, far] = if least.abs() <= most.abs() { [least, most] } else { [most, least] };
    let is_within = near * far >= 0.0 && near.fract() == 0.0 && (far - near).abs() < 1.0;
    (is_within && exclusive.contains(&Some(near))).then(|| {
        format!(
            "numbers between {least} and {most} cannot be held apart from {near} itself; allow it, or begin a little behind it"
        )
    })
}
