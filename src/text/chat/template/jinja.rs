//! Chat templates rendered as transformers renders them, within bounds: whoever wrote one may mean harm.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

use super::super::layout::trim;
use crate::platform;

/// Steps of a rendering, or 64 bytes made each; more for a conversation that is long itself.
const FUEL: u64 = 500_000;
/// Steps that a message may take beyond that.
const FUEL_OF_A_MESSAGE: u64 = 2_000;
/// Macros and loops within each other.
const MOST_DEPTH: usize = 100;
/// Stack for rendering: what a template nests is dropped by calls of calls.
const STACK: usize = 256 << 20;
/// Most characters of what a template says when it refuses.
const MOST_SAID: usize = 500;

/// The text of a template for these variables, or what the template (or minijinja) says against them. `messages` and
/// `bytes` are the size of the conversation.
pub(super) fn render(source: &str, variables: &serde_json::Value, messages: usize, bytes: usize) -> Result<String, String> {
    let fuel = FUEL + FUEL_OF_A_MESSAGE * messages as u64 + bytes as u64;
    let run = || {
        let environment = environment(fuel);
        let template = environment.template_from_str(source)?;
        template.render(value_of(variables))
    };
    match platform::with_stack(STACK, run) {
        Ok(Ok(rendered)) => rendered.map_err(|error| said(&error)),
        Ok(Err(_)) => Err("it ended its renderer".into()),
        Err(error) => Err(format!("no thread for it: {error}")),
    }
}

/// A JSON value as templates have it.
fn value_of(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) => Value::from(value),
            (None, None) => Value::from(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(value_of).collect::<Vec<_>>().into(),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), value_of(value))))
        }
    }
}

fn said(error: &Error) -> String {
    let message = match error.kind() {
        ErrorKind::OutOfFuel => "it takes too many steps".to_string(),
        _ => error.detail().map_or_else(|| error.to_string(), str::to_string),
    };
    match message.char_indices().nth(MOST_SAID) {
        Some((end, _)) => format!("{} …", &message[..end]),
        None => message,
    }
}

fn environment<'source>(fuel: u64) -> Environment<'source> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|e| e.to_string()).unwrap_or_default());
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(MOST_DEPTH);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(format_as_python);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    environment.add_filter("trim", |text: String, of: Option<String>| stripped(&text, of.as_deref(), [true, true]).to_string());
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| {
        strftime(&format, platform::now()).map_err(|problem| Error::new(ErrorKind::InvalidOperation, problem))
    });
    environment
}

/// Python's methods; its `strip` knows more white space than Rust's.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let sides = match name {
        "strip" => Some([true, true]),
        "lstrip" => Some([true, false]),
        "rstrip" => Some([false, true]),
        _ => None,
    };
    match (sides, value.as_str(), arguments) {
        (Some(sides), Some(text), []) => Ok(stripped(text, None, sides).into()),
        (Some(sides), Some(text), [of]) if of.is_none() => Ok(stripped(text, None, sides).into()),
        (None, Some(separator), [items]) if name == "join" => joined(state, separator, items),
        _ => {
            if value.kind() != ValueKind::String && name == "count" {
                charge(state, value)?;
            }
            pycompat::unknown_method_callback(state, value, name, arguments)
        }
    }
}

/// Fuel for a text of so many bytes.
fn charge_bytes(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64 + 1)
}

/// Fuel for all that a value holds, before it is walked through: a list may be longer than memory, as items that are
/// made when they are asked for.
fn charge(state: &State, value: &Value) -> Result<(), Error> {
    charge_bytes(state, value.as_str().map_or(0, str::len))?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|item| charge(state, &item)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            charge(state, &key)?;
            charge(state, &value.get_item(&key)?)
        }),
        _ => Ok(()),
    }
}

/// `str.join`.
fn joined(state: &State, separator: &str, items: &Value) -> Result<Value, Error> {
    let mut out = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        charge(state, &item)?;
        let text = item.to_string();
        charge_bytes(state, text.len() + separator.len())?;
        out.push_str(if index > 0 { separator } else { "" });
        out.push_str(&text);
    }
    Ok(out.into())
}

/// A text without white space, or characters of a set, at its start and its end.
fn stripped<'t>(text: &'t str, of: Option<&str>, [start, end]: [bool; 2]) -> &'t str {
    let (from, to) = match of {
        Some(set) => {
            let rest = text.trim_start_matches(|c| set.contains(c));
            (text.len() - rest.len(), text.len() - rest.len() + rest.trim_end_matches(|c| set.contains(c)).len())
        }
        None => {
            let rest = trim(text);
            let from = if rest.is_empty() { text.len() } else { rest.as_ptr() as usize - text.as_ptr() as usize };
            (from, from + rest.len())
        }
    };
    match (start, end) {
        (true, true) => &text[from..to],
        (true, false) => &text[from..],
        // Of a text of white space alone nothing is left on either side.
        (false, _) if from == text.len() => "",
        (false, _) => &text[..to],
    }
}

/// Writes what `str` gives in Python: `True`, `None`, and containers as `repr` has them.
fn format_as_python(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let written = match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default()),
        _ => {
            charge(state, value)?;
            let mut text = String::new();
            repr(value, &mut text)?;
            out.write_str(&text)
        }
    };
    written.map_err(|_| Error::new(ErrorKind::WriteFailure, "its output ended"))
}

fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let escaped = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
            let escaped = if quote == '\'' { escaped.replace('\'', "\\'") } else { escaped };
            out.push(quote);
            out.push_str(&escaped);
            out.push(quote);
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&item, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&key, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        _ => write!(out, "{value}").map_err(|_| Error::new(ErrorKind::WriteFailure, "its output ended"))?,
    }
    Ok(())
}

/// `json.dumps`, with the options that transformers' filter has.
fn to_json(state: &mut State, value: Value, options: Kwargs) -> Result<Value, Error> {
    charge(state, &value)?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut parsed: serde_json::Value =
        serde_json::to_value(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    if sorted == Some(true) {
        parsed.sort_all_objects();
    }
    let [item, key] = match separators.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators of tojson are two")),
        None => [if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()],
    };
    let style = JsonStyle { item, key, indent: indent.map(|width| width.min(16)), ascii: ascii == Some(true) };
    let mut out = String::new();
    style.write(&parsed, 0, &mut out);
    Ok(out.into())
}

struct JsonStyle {
    item: String,
    key: String,
    indent: Option<usize>,
    ascii: bool,
}

impl JsonStyle {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::Array(items) => {
                self.list(['[', ']'], items.iter(), depth, out, |item, out| self.write(item, depth + 1, out))
            }
            serde_json::Value::Object(fields) => self.list(['{', '}'], fields.iter(), depth, out, |(name, value), out| {
                self.text(name, out);
                out.push_str(&self.key);
                self.write(value, depth + 1, out);
            }),
            serde_json::Value::String(text) => self.text(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn list<T>(
        &self,
        [open, close]: [char; 2],
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        out: &mut String,
        mut one: impl FnMut(T, &mut String),
    ) {
        out.push(open);
        let is_empty = items.len() == 0;
        let line = |depth: usize, out: &mut String| {
            if let Some(width) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width * depth));
            }
        };
        for (index, item) in items.enumerate() {
            out.push_str(if index > 0 { &self.item } else { "" });
            line(depth + 1, out);
            one(item, out);
        }
        if !is_empty {
            line(depth, out);
        }
        out.push(close);
    }

    fn text(&self, text: &str, out: &mut String) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            // Python escapes a delete character nowhere, as serde_json.
            return out.push_str(&quoted);
        }
        for unit in quoted.encode_utf16() {
            match u8::try_from(unit).ok().filter(u8::is_ascii) {
                Some(byte) => out.push(byte as char),
                None => drop(write!(out, "\\u{unit:04x}")),
            }
        }
    }
}

/// The date and time of seconds since 1970, in UTC, by the directives that chat templates use.
fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let days = seconds / 86_400;
    let weekday = DAYS[(days % 7) as usize];
    let [hour, minute, second] = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    // Days since 1 March of year 0, by which leap days come last (H. Hinnant, "chrono-compatible low-level date
    // algorithms").
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let (padded, directive) = match rest.next() {
            Some('-') => (false, rest.next()),
            directive => (true, directive),
        };
        let number = |value: u64| if padded { format!("{value:02}") } else { value.to_string() };
        out += &match directive {
            Some('d') => number(day),
            Some('m') => number(month),
            Some('H') => number(hour),
            Some('I') => number((hour + 11) % 12 + 1),
            Some('M') => number(minute),
            Some('S') => number(second),
            Some('y') => number(year % 100),
            Some('Y') => year.to_string(),
            Some('b') => name[..3].into(),
            Some('B') => name.into(),
            Some('a') => weekday[..3].into(),
            Some('A') => weekday.into(),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".into(),
            other => return Err(format!("strftime_now('{format}') has a directive {other:?} that is not known here")),
        };
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
