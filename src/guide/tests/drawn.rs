//! Schemas that are drawn.

use serde_json::{Map, Value, json};

use super::{Draws, guides, tried};

const NAMES: [&str; 6] = ["a", "b", "name", "x1", "é", "a/b~c"];
const WORDS: [&str; 7] = ["", "merry", "\"\\", "\n", "\u{1F600}", "é", "{\"a\": 1}"];
const PATTERNS: [&str; 9] = ["^a+$", "b", "^[a-z]{2,4}$", "^(ab|c)*d$", "^.$", "^\\d{3}-\\d{2}$", "^$", "[^a]", "^\\w+ \\w+$"];
const FORMATS: [&str; 10] = ["date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "hostname", "duration", "uri"];
const DEFINED: [&str; 3] = ["one", "two", "three"];

/// With references to those of `DEFINED`.
fn document(draws: &mut Draws) -> Value {
    let mut root = schema(draws, 3);
    if let Value::Object(fields) = &mut root {
        let defined: Map<String, Value> = DEFINED.iter().map(|name| (name.to_string(), schema(draws, 2))).collect();
        fields.insert("$defs".into(), defined.into());
    }
    root
}

fn schema(draws: &mut Draws, depth: usize) -> Value {
    let simple = 8;
    match draws.below(if depth == 0 { simple } else { simple + 7 }) {
        0 | 1 => string(draws),
        2 => number(draws, "integer", 1.0),
        3 => number(draws, "number", 0.25),
        4 => json!({"type": *draws.of(&["boolean", "null"])}),
        5 => json!({"const": value(draws)}),
        6 => json!({"enum": (0..1 + draws.below(4)).map(|_| value(draws)).collect::<Vec<_>>()}),
        7 => json!({"$ref": format!("#/$defs/{}", draws.of(&DEFINED))}),
        8..=10 => object(draws, depth - 1),
        11 | 12 => array(draws, depth - 1),
        13 => json!({"anyOf": several(draws, depth - 1)}),
        _ => json!({*draws.of(&["allOf", "oneOf"]): several(draws, depth - 1)}),
    }
}

fn several(draws: &mut Draws, depth: usize) -> Vec<Value> {
    (0..1 + draws.below(3)).map(|_| schema(draws, depth)).collect()
}

fn value(draws: &mut Draws) -> Value {
    match draws.below(5) {
        0 => Value::Null,
        1 => json!(draws.below(2) == 1),
        2 => json!(draws.below(200) as i64 - 100),
        3 => json!([1, "a"]),
        _ => json!(draws.of(&WORDS)),
    }
}

/// Sets `key` in about one of three schemas.
fn perhaps(draws: &mut Draws, fields: &mut Value, key: &str, of: impl FnOnce(&mut Draws) -> Value) {
    if draws.below(3) == 0 {
        fields[key] = of(draws);
    }
}

fn string(draws: &mut Draws) -> Value {
    let mut fields = json!({"type": "string"});
    perhaps(draws, &mut fields, "minLength", |draws| draws.below(5).into());
    perhaps(draws, &mut fields, "maxLength", |draws| draws.below(8).into());
    perhaps(draws, &mut fields, "pattern", |draws| (*draws.of(&PATTERNS)).into());
    perhaps(draws, &mut fields, "format", |draws| (*draws.of(&FORMATS)).into());
    fields
}

fn number(draws: &mut Draws, kind: &str, grain: f64) -> Value {
    let mut fields = json!({"type": kind});
    let bound = |draws: &mut Draws| {
        let number = (draws.below(400) as f64 - 200.0) * grain;
        if number.fract() == 0.0 { json!(number as i64) } else { json!(number) }
    };
    perhaps(draws, &mut fields, "minimum", bound);
    perhaps(draws, &mut fields, "maximum", bound);
    perhaps(draws, &mut fields, "exclusiveMinimum", bound);
    perhaps(draws, &mut fields, "exclusiveMaximum", bound);
    perhaps(draws, &mut fields, "multipleOf", |draws| json!(*draws.of(&[1, 2, 3, 7, 10])));
    fields
}

fn object(draws: &mut Draws, depth: usize) -> Value {
    let properties: Map<String, Value> =
        (0..draws.below(4)).map(|_| (draws.of(&NAMES).to_string(), schema(draws, depth))).collect();
    let mut fields = json!({"type": "object", "properties": properties});
    perhaps(draws, &mut fields, "required", |draws| {
        let mut names: Vec<&str> = (0..1 + draws.below(2)).map(|_| *draws.of(&NAMES)).collect();
        names.sort_unstable();
        names.dedup();
        json!(names)
    });
    perhaps(draws, &mut fields, "patternProperties", |draws| json!({*draws.of(&["^x", "[0-9]$", "b"]): schema(draws, depth)}));
    perhaps(draws, &mut fields, "minProperties", |draws| draws.below(4).into());
    perhaps(draws, &mut fields, "maxProperties", |draws| draws.below(4).into());
    match draws.below(3) {
        0 => {}
        1 => fields["additionalProperties"] = false.into(),
        _ => fields["additionalProperties"] = schema(draws, depth),
    }
    fields
}

fn array(draws: &mut Draws, depth: usize) -> Value {
    let mut fields = json!({"type": "array"});
    perhaps(draws, &mut fields, "prefixItems", |draws| several(draws, depth).into());
    perhaps(draws, &mut fields, "minItems", |draws| draws.below(4).into());
    perhaps(draws, &mut fields, "maxItems", |draws| draws.below(5).into());
    match draws.below(4) {
        0 => {}
        1 => fields["items"] = false.into(),
        _ => fields["items"] = schema(draws, depth),
    }
    fields
}

#[test]
fn drawn_schemas_are_fulfilled_or_refused() {
    let (tokenizer, guides) = guides();
    let count = 600;
    let taken = (1..=count).filter(|seed| {
        let schema = document(&mut Draws(seed * 0x9E37_79B9_7F4A_7C15));
        tried(&schema, &tokenizer, &guides, 2).is_ok()
    });
    let taken = taken.count() as u64;
    assert!(taken > count / 4, "{taken} of {count}");
}
