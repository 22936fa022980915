//! Every schema is refused with its place, or fulfilled whatever is drawn: random walks through what guides allow,
//! whose texts the crate `jsonschema` judges.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::*;

mod drawn;

fn guides() -> (Tokenizer, Guides) {
    let tokenizer = Tokenizer::from_file(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))).unwrap();
    let guides = Guides::new(&tokenizer, &[tokenizer.special_id("<eos>").unwrap()]).unwrap();
    (tokenizer, guides)
}

/// Numbers in no order (xorshift).
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Draws tokens until the answer ends: at first any, later those that lead to an end if there are such.
fn walk(guide: &Guide, tokenizer: &Tokenizer, draws: &mut Draws) -> Result<String, String> {
    const WILD: usize = 40;
    const MOST: usize = 1500;
    let mut guide = guide.clone();
    let closing: Vec<u32> =
        ["\"", "}", "]", "0", "e", "l"].iter().filter_map(|text| tokenizer.encode(text, false).ok()?.first().copied()).collect();
    let mut said = Vec::new();
    let text = |said: &[u32]| tokenizer.decode(said).unwrap();
    loop {
        let allowed = guide.allowed(&said).map_err(|e| format!("after {:?}: {e:#}", text(&said)))?;
        let all: Vec<u32> = allowed.iter().collect();
        let end = guide.guides.ends[0];
        let closes: Vec<u32> = closing.iter().copied().filter(|token| allowed.contains(*token)).collect();
        let next = match all.as_slice() {
            [] => return Err(format!("nothing may follow {:?}", text(&said))),
            _ if said.len() >= MOST => return Err(format!("no end after {:?}", text(&said[said.len() - 40..]))),
            _ if said.len() > WILD && allowed.contains(end) => end,
            _ if said.len() > WILD && !closes.is_empty() && draws.below(4) > 0 => *draws.of(&closes),
            _ => *draws.of(&all),
        };
        if next == end {
            return Ok(text(&said));
        }
        said.push(next);
    }
}

/// The outcome of a schema: the error, or texts that all fulfil it.
fn tried(schema: &Value, tokenizer: &Tokenizer, guides: &Guides, walks: u64) -> Result<Vec<String>, String> {
    let guide = guides.json_schema(&schema.to_string()).map_err(|error| error.to_string())?;
    let judge = jsonschema::options().should_validate_formats(true).build(schema).unwrap_or_else(|e| panic!("{schema}: {e}"));
    let texts = (1..=walks).map(|seed| {
        let text =
            walk(&guide, tokenizer, &mut Draws(seed * 0x9E37_79B9)).unwrap_or_else(|problem| panic!("{schema}: {problem}"));
        let value: Value = match serde_json::from_str(&text) {
            // JSON all the same: the format does not bound numbers.
            Err(error) if error.to_string().contains("number out of range") => return text,
            parsed => parsed.unwrap_or_else(|e| panic!("{schema}: {text:?}: {e}")),
        };
        // The judge's multiples are of f64.
        let exact = text.split(|c: char| !c.is_ascii_digit()).all(|digits| digits.len() < 16);
        if !exact && schema.to_string().contains("multipleOf") {
            return text;
        }
        judge.validate(&value).unwrap_or_else(|e| panic!("{schema}: {text}: {e}"));
        text
    });
    Ok(texts.collect())
}

/// Schemas that cannot be held to, and the place that the error names.
#[test]
fn what_cannot_be_fulfilled_is_refused_at_its_place() {
    let (tokenizer, guides) = guides();
    let refused = [
        (json!({"type": "integer", "minimum": 5, "maximum": 4}), "#"),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 4}}, "required": ["a"]}),
            "#/properties/a",
        ),
        (
            json!({"type": "object", "required": ["a/b"], "properties": {"a/b": {"type": "array", "minItems": 1,
                "items": {"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5}}}}),
            "#/properties/a~1b/items",
        ),
        (json!({"type": "number", "minimum": 1, "maximum": 4, "multipleOf": 5}), "#"),
        (json!({"type": "string", "enum": [1, 2]}), "#"),
        (json!({"type": "object", "properties": {"a": false}, "required": ["a"]}), "#/properties/a"),
        (json!({"allOf": [{"type": "string"}, {"type": "integer"}]}), "#"),
        (json!({"type": "string", "pattern": "^ab$", "minLength": 3}), "#"),
        (json!({"type": "string", "format": "poem"}), "#"),
        (json!({"type": "array", "minItems": 3, "maxItems": 2}), "#"),
        (json!({"type": "array", "items": false, "minItems": 1}), "#/items"),
        (json!({"anyOf": [{"type": "string"}, {"properties": {"x": {"not": {"type": "string"}}}}]}), "#/anyOf/1/properties/x"),
        (json!({"items": {"if": {"type": "string"}, "then": {"minLength": 2}}}), "#/items"),
        (json!({"type": "array", "uniqueItems": true}), "#"),
        (json!({"dependentRequired": {"a": ["b"]}}), "#"),
        (json!({"propertyNames": {"pattern": "a"}}), "#"),
        (json!({"contains": {"type": "string"}}), "#"),
        (json!({"unevaluatedProperties": false}), "#"),
        (json!({"$ref": "#"}), "#"),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "#/$defs/a"),
        (
            json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"], "additionalProperties": false}),
            "#",
        ),
        (
            json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/endless"}},
                "$defs": {"endless": {"type": "array", "items": {"$ref": "#/$defs/endless"}, "minItems": 1}}}),
            "#/properties/x",
        ),
        (json!({"properties": {"x": {"$ref": "http://example.com/schema.json"}}}), "#/properties/x/$ref"),
        (json!({"properties": {"x": {"$ref": "other.json#/a"}}}), "#/properties/x/$ref"),
        (json!({"properties": {"x": {"$ref": "#nowhere"}}}), "#/properties/x/$ref"),
        (json!({"properties": {"x": {"$ref": "#/$defs/a~2b"}}}), "#/properties/x/$ref"),
        (json!({"properties": {"x": {"type": "string", "pattern": "a(?=b)"}}}), "#/properties/x"),
        (json!({"properties": {"x": {"type": "string", "pattern": "(a)\\1"}}}), "#/properties/x"),
        (json!({"properties": {"x": {"type": "string", "pattern": "[b-a]"}}}), "#/properties/x"),
        (json!({"properties": {"x": {"type": "poem"}}}), "#/properties/x"),
        (json!({"properties": {"x": {"type": "string", "minLength": -1}}}), "#/properties/x"),
        (json!({"properties": {"x": 7}}), "#"),
        (json!({"type": "object", "required": ["a", "b"], "maxProperties": 1}), "#"),
        (json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false, "minProperties": 2}), "#"),
        (json!({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1}), "#"),
        (json!({"type": "number", "minimum": -45.25, "exclusiveMaximum": -45}), "#"),
        (json!({"items": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}}), "#/items"),
        (json!({"type": "object", "minProperties": 3}), "#"),
        (json!({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}), "#"),
    ];
    let mut wrong = Vec::new();
    for (schema, place) in &refused {
        match guides.json_schema(&schema.to_string()) {
            Ok(guide) => wrong.push(format!("{schema} was taken: {:?}", walk(&guide, &tokenizer, &mut Draws(7)))),
            Err(error) if !error.to_string().contains(&format!("at {place}: ")) => {
                wrong.push(format!("{schema}: not at {place}: {error}"))
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Schemas as they are in use.
#[test]
fn schemas_in_use_are_fulfilled() {
    let (tokenizer, guides) = guides();
    let many: Map<String, Value> = (0..400).map(|i| (format!("field{i}"), json!({"type": "integer"}))).collect();
    let words: Vec<String> = (0..3000).map(|i| format!("w{i}")).collect();
    let taken = [
        json!(true),
        json!({}),
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer",
            "minimum": 0, "maximum": 150}},
            "required": ["name", "age"], "additionalProperties": false}),
        json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}}, "required": ["value"],
            "additionalProperties": false}}}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a/b~c": {"type": "boolean"},
            "a b": {"type": "null"}, "%": {"const": 1}},
            "type": "object", "properties": {"x": {"$ref": "#/definitions/a~1b~0c"}, "y": {"$ref": "#/definitions/a%20b"},
            "z": {"$ref": "#/definitions/%25"}},
            "required": ["x", "y", "z"], "additionalProperties": false}),
        json!({"$id": "http://example.com/root.json", "$ref": "root.json#/$defs/a", "$defs": {"a": {"$anchor": "here",
            "enum": ["é", "\u{1F600}", "\"\\\n"]}}}),
        json!({"type": "array", "items": {"$ref": "#here"}, "minItems": 1, "maxItems": 2, "$defs": {"a": {"$anchor": "here",
            "enum": [1, 2.5, null, [1], {"b": "c"}]}}}),
        json!({"$defs": {"inner": {"$id": "http://example.com/inner", "$defs": {"b": {"const": "b"}}, "$ref": "#/$defs/b"},
            "b": {"const": "outer"}},
            "$ref": "#/$defs/inner"}),
        json!({"type": "object", "properties": {"$ref": {"type": "string", "maxLength": 2}}, "required": ["$ref"],
            "additionalProperties": false}),
        json!({"type": "object", "properties": {"": {"type": "null"}, "x": {"$ref": "#/properties/"}}, "required": ["x"],
            "additionalProperties": false}),
        json!({"$ref": "#/", "": {"type": "boolean"}}),
        json!({"type": "array", "prefixItems": [{"type": "string", "maxLength": 3}, {"type": "boolean"}], "items": false, "minItems": 2}),
        json!({"type": "object", "properties": many, "additionalProperties": false, "required": ["field7"]}),
        json!({"enum": words}),
        json!({"type": "array", "maxItems": 3, "uniqueItems": false, "items": {"enum": words}}),
        json!({"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"], "additionalProperties": false},
            {"type": "object", "properties": {"kind": {"const": "b"}, "n": {"type": "integer"}}, "required": ["kind"],
            "additionalProperties": false}]}),
        json!({"type": ["string", "null"], "pattern": "^[a-z]{2,5}$"}),
        json!({"type": "string", "pattern": "é+", "maxLength": 6}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "format": "email", "maxLength": 20}),
        json!({"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 90}),
        json!({"type": "number", "minimum": -1.5, "maximum": 2.25}),
        json!({"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer", "maximum": 9, "minimum": 0}},
            "additionalProperties": false}),
        json!({"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "boolean"}},
            "required": ["a"]}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
            "additionalProperties": true}),
        json!({"type": "object", "properties": {"a": {"type": "string", "const": "x"}, "b": false}, "additionalProperties": false}),
    ];
    let mut wrong = Vec::new();
    for schema in &taken {
        if let Err(error) = tried(schema, &tokenizer, &guides, 6) {
            wrong.push(format!("{schema}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
