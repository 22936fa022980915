//! Whole numbers that are multiples of another within bounds, one by one: a grammar would let digits be begun that none
//! of them has.

use serde_json::Value;

use super::place::{self, Place};

/// Most numbers that are listed.
const MOST: i64 = 2_000;

/// Gives such schemas their numbers as an `enum`.
pub(super) fn list_multiples(schema: &mut Value) {
    let found: Vec<(Place, Vec<Value>)> =
        place::subschemas(schema).into_iter().filter_map(|(place, schema)| Some((place, multiples(schema)?))).collect();
    for (place, numbers) in found {
        if let Some(Value::Object(fields)) = place.find_mut(schema) {
            for key in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"] {
                fields.remove(key);
            }
            fields.insert("enum".into(), numbers.into());
        }
    }
}

/// The numbers that a schema of bounded multiples allows; `None` for other schemas.
fn multiples(schema: &Value) -> Option<Vec<Value>> {
    let whole = |key: &str| match schema.get(key) {
        None => Some(None),
        Some(value) => {
            let number = value.as_f64()?;
            (number.fract() == 0.0 && number.abs() < 2f64.powi(53)).then_some(Some(number as i64))
        }
    };
    if schema.get("type")?.as_str()? != "integer" || schema.get("enum").is_some() || schema.get("const").is_some() {
        return None;
    }
    let step = whole("multipleOf")??.abs();
    let least = [whole("minimum")?, whole("exclusiveMinimum")?.map(|bound| bound + 1)].into_iter().flatten().max()?;
    let most = [whole("maximum")?, whole("exclusiveMaximum")?.map(|bound| bound - 1)].into_iter().flatten().min()?;
    if step == 0 {
        return None;
    }
    let [first, last] = [least.div_euclid(step) + i64::from(least.rem_euclid(step) != 0), most.div_euclid(step)];
    (last - first < MOST).then(|| (first..=last).map(|factor| Value::from(factor * step)).collect())
}
