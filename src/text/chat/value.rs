//! Arguments, responses and schemas in Gemma 4's notation: JSON without quotation marks, but with texts between two
//! [`QUOTE`] tokens.

use serde_json::{Map, Number, Value};

use super::layout::Layout;

/// The control token at both ends of a text. No text can spell it, so none can end early.
pub(super) const QUOTE: &str = "<|\"|>";

/// How the names of an object's fields stand.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Keys {
    /// As they are: in calls and responses.
    Bare,
    /// As texts: in declarations.
    Quoted,
}

pub(super) fn quoted(layout: &mut Layout, text: &str) {
    layout.control(QUOTE).text(text).control(QUOTE);
}

pub(super) fn value(layout: &mut Layout, value: &Value, keys: Keys) {
    let bare = match value {
        Value::String(text) => return quoted(layout, text),
        Value::Array(items) => return list(layout, items, |layout, item| self::value(layout, item, keys)),
        Value::Object(fields) => return object(layout, fields, keys),
        Value::Number(number) => shown(number),
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
    };
    layout.text(&bare);
}

pub(super) fn list<T>(layout: &mut Layout, items: &[T], write: impl Fn(&mut Layout, &T)) {
    layout.text("[");
    for (index, item) in items.iter().enumerate() {
        layout.text(if index > 0 { "," } else { "" });
        write(layout, item);
    }
    layout.text("]");
}

pub(super) fn object(layout: &mut Layout, fields: &Map<String, Value>, keys: Keys) {
    layout.text("{");
    for (index, (key, field)) in sorted(fields).into_iter().enumerate() {
        layout.text(if index > 0 { "," } else { "" });
        if keys == Keys::Quoted {
            quoted(layout, key);
        } else {
            layout.text(key);
        }
        layout.text(":");
        value(layout, field, keys);
    }
    layout.text("}");
}

/// Fields by name without regard to case, as the templates' `dictsort` has them.
pub(super) fn sorted(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by_cached_key(|(key, _)| key.to_lowercase());
    sorted
}

/// A number as Python shows it: the exponents of floats have a sign and two digits.
fn shown(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.to_string();
    };
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |positive| ('-', positive));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}
