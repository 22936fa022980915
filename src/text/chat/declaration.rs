//! How a tool is declared to Gemma 4.

use serde_json::{Map, Value};

use super::Tool;
use super::layout::Layout;
use super::value::{Keys, list, quoted, sorted, value};

const TOOL: &str = "<|tool>";
const TOOL_END: &str = "<tool|>";

/// Keywords of a schema that are no properties, where an object's schema lists its properties in itself.
const KEYWORDS: [&str; 5] = ["description", "type", "properties", "required", "nullable"];

pub(super) fn declare(layout: &mut Layout, tool: &Tool) {
    layout.control(TOOL).text("declaration:").text(&tool.name);
    let mut fields = Fields::open(layout);
    quoted(fields.key("description"), &tool.description);
    if is_set(Some(&tool.parameters)) {
        parameters(fields.key("parameters"), &tool.parameters);
    }
    fields.close();
    layout.control(TOOL_END);
}

fn parameters(layout: &mut Layout, schema: &Value) {
    let mut fields = Fields::open(layout);
    if let Some(properties) = map(schema.get("properties")).filter(|map| !map.is_empty()) {
        list_properties(fields.key("properties"), properties, false);
    }
    required(&mut fields, schema);
    if is_set(schema.get("type")) {
        type_name(fields.key("type"), schema.get("type"));
    }
    fields.close();
}

/// `without_keywords`: the properties lie among the keywords of their object's schema.
fn list_properties(layout: &mut Layout, properties: &Map<String, Value>, without_keywords: bool) {
    let mut fields = Fields::open(layout);
    for (name, schema) in sorted(properties) {
        if !(without_keywords && KEYWORDS.contains(&name.as_str())) {
            property(fields.key(name), schema);
        }
    }
    fields.close();
}

fn property(layout: &mut Layout, schema: &Value) {
    let mut fields = Fields::open(layout);
    if let Some(description) = schema.get("description").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        quoted(fields.key("description"), description);
    }
    if is_of(schema, "string") {
        if let Some(choices) = schema.get("enum").filter(|choices| is_set(Some(choices))) {
            value(fields.key("enum"), choices, Keys::Quoted);
        }
    } else if is_of(schema, "array")
        && let Some(items) = map(schema.get("items")).filter(|map| !map.is_empty())
    {
        list_items(fields.key("items"), items);
    }
    if is_set(schema.get("nullable")) {
        fields.key("nullable").text("true");
    }
    if is_of(schema, "object")
        && let Some(whole) = map(Some(schema))
    {
        let named = map(schema.get("properties"));
        list_properties(fields.key("properties"), named.unwrap_or(whole), named.is_none());
        required(&mut fields, schema);
    }
    type_name(fields.key("type"), schema.get("type"));
    fields.close();
}

/// The schema of an array's items, every keyword of it.
fn list_items(layout: &mut Layout, schema: &Map<String, Value>) {
    let mut fields = Fields::open(layout);
    for (key, entry) in sorted(schema).into_iter().filter(|(_, entry)| !entry.is_null()) {
        let layout = fields.key(key);
        match (key.as_str(), entry) {
            ("properties", entry) => list_properties(layout, entry.as_object().unwrap_or(&Map::new()), false),
            ("required", Value::Array(names)) => list(layout, names, name),
            ("type", Value::String(name)) => quoted(layout, &name.to_uppercase()),
            ("type", Value::Array(names)) => list(layout, names, |layout, name| match name.as_str() {
                Some(name) => quoted(layout, &name.to_uppercase()),
                None => value(layout, name, Keys::Quoted),
            }),
            (_, entry) => value(layout, entry, Keys::Quoted),
        }
    }
    fields.close();
}

fn required(fields: &mut Fields, schema: &Value) {
    if let Some(names) = schema.get("required").and_then(Value::as_array).filter(|names| !names.is_empty()) {
        list(fields.key("required"), names, name);
    }
}

fn name(layout: &mut Layout, name: &Value) {
    quoted(layout, name.as_str().unwrap_or_default());
}

/// A type's name in capitals, nothing for none, and a list of names as the template's Python shows it.
fn type_name(layout: &mut Layout, name: Option<&Value>) {
    match name {
        None | Some(Value::Null) => quoted(layout, ""),
        Some(Value::Array(names)) => {
            let names: Vec<String> =
                names.iter().map(|name| format!("'{}'", name.as_str().unwrap_or_default().to_uppercase())).collect();
            quoted(layout, &format!("[{}]", names.join(", ")));
        }
        Some(name) => quoted(layout, &name.as_str().unwrap_or_default().to_uppercase()),
    }
}

/// Returns `true` if a schema's type is `name`.
fn is_of(schema: &Value, name: &str) -> bool {
    schema.get("type").and_then(Value::as_str).is_some_and(|found| found.eq_ignore_ascii_case(name))
}

fn map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// Returns `true` if Python would call the value true.
fn is_set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => *flag,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
    }
}

/// Fields between braces, with commas between them.
struct Fields<'a> {
    layout: &'a mut Layout,
    any: bool,
}

impl<'a> Fields<'a> {
    fn open(layout: &'a mut Layout) -> Self {
        layout.text("{");
        Self { layout, any: false }
    }

    /// Begins a field; its value comes next.
    fn key(&mut self, name: &str) -> &mut Layout {
        self.layout.text(if self.any { "," } else { "" }).text(name).text(":");
        self.any = true;
        self.layout
    }

    fn close(self) {
        self.layout.text("}");
    }
}
