//! Tool calls as Gemma 4 writes them: `call:NAME{key:value,...}`.

use serde_json::{Map, Number, Value};

use super::ToolCall;
use super::value::QUOTE;

/// Lists and objects within each other.
const MAX_DEPTH: usize = 64;

/// The text between the tokens of a call, and the places of [`QUOTE`] tokens in it.
#[derive(Clone, Debug, Default)]
pub(super) struct CallText {
    text: String,
    /// Places in `text`, ascending.
    quotes: Vec<usize>,
}

impl CallText {
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub fn quote(&mut self) {
        self.quotes.push(self.text.len());
    }

    /// Bytes that [`spelled`](Self::spelled) has.
    pub fn len(&self) -> usize {
        self.text.len() + self.quotes.len() * QUOTE.len()
    }

    /// All of it as text, for eyes.
    pub fn spelled(&self) -> String {
        let mut out = String::with_capacity(self.len());
        let mut from = 0;
        for &at in &self.quotes {
            out.push_str(&self.text[from..at]);
            out.push_str(QUOTE);
            from = at;
        }
        out + &self.text[from..]
    }

    /// The call, or the reason why it cannot be read.
    pub fn read(&self) -> Result<ToolCall, String> {
        let mut reader = Reader { text: &self.text, quotes: &self.quotes, at: 0 };
        if reader.bare() != "call" || !reader.take(':') {
            return Err("it does not begin with 'call:'".into());
        }
        let name = reader.name();
        if name.is_empty() {
            return Err("it names no tool".into());
        }
        if !reader.take('{') {
            return Err(format!("expected '{{' after its name, {}", reader.found()));
        }
        let arguments = reader.object(0)?;
        reader.skip_space();
        if reader.rest().is_empty() && reader.quotes.is_empty() {
            Ok(ToolCall { name: name.into(), arguments })
        } else {
            Err(format!("its arguments have ended, {}", reader.found()))
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Those not passed yet.
    quotes: &'a [usize],
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Up to the next quote.
    fn unquoted(&self) -> &'a str {
        &self.text[self.at..self.quotes.first().copied().unwrap_or(self.text.len())]
    }

    fn skip_space(&mut self) {
        let unquoted = self.unquoted();
        self.at += unquoted.len() - unquoted.trim_start().len();
    }

    /// Passes a mark, if it is the next thing.
    fn take(&mut self, mark: char) -> bool {
        self.skip_space();
        let found = self.unquoted().starts_with(mark);
        self.at += if found { mark.len_utf8() } else { 0 };
        found
    }

    fn bare_until(&mut self, ends: &[char]) -> &'a str {
        let unquoted = self.unquoted();
        let bare = &unquoted[..unquoted.find(ends).unwrap_or(unquoted.len())];
        self.at += bare.len();
        bare.trim()
    }

    fn bare(&mut self) -> &'a str {
        self.bare_until(&[',', ':', '{', '}', '[', ']'])
    }

    /// A tool's name, which may have colons.
    fn name(&mut self) -> &'a str {
        self.bare_until(&['{', '}', '[', ']', ','])
    }

    /// A text between quotes, if one comes next.
    fn quoted(&mut self) -> Result<Option<&'a str>, String> {
        self.skip_space();
        let &[start, ref after @ ..] = self.quotes else { return Ok(None) };
        if start != self.at {
            return Ok(None);
        }
        let &[end, ref after @ ..] = after else { return Err("a text in it does not end".into()) };
        self.quotes = after;
        self.at = end;
        Ok(Some(&self.text[start..end]))
    }

    /// A text between quotation tokens, or between the marks of JSON or Python, which models fall back to within lists
    /// and objects.
    fn text(&mut self) -> Result<Option<String>, String> {
        if let Some(text) = self.quoted()? {
            return Ok(Some(text.into()));
        }
        let unquoted = self.unquoted();
        let Some(mark) = unquoted.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Ok(None) };
        let mut escaped = false;
        let ends = |c: char| {
            let ends = c == mark && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        };
        let inner = unquoted[1..].find(ends).map(|end| &unquoted[1..=end]).ok_or("a text in it does not end")?;
        self.at += inner.len() + 2;
        let json = match mark {
            '"' => inner.to_string(),
            _ => inner.replace("\\\"", "\"").replace('"', "\\\"").replace("\\'", "'"),
        };
        let text =
            serde_json::from_str(&format!("\"{json}\"")).map_err(|e| format!("the text {mark}{inner}{mark} in it: {e}"))?;
        Ok(Some(text))
    }

    /// The fields of an object that is open.
    fn object(&mut self, depth: usize) -> Result<Map<String, Value>, String> {
        let mut fields = Map::new();
        while !self.take('}') {
            if !fields.is_empty() && !self.take(',') {
                return Err(format!("expected ',' or '}}', {}", self.found()));
            }
            let key = match self.text()? {
                Some(key) => key,
                None => self.bare().to_string(),
            };
            if key.is_empty() || !self.take(':') {
                return Err(format!("expected a name and ':', {}", self.found()));
            }
            let value = self.value(depth + 1)?;
            if fields.insert(key.clone(), value).is_some() {
                return Err(format!("the argument '{key}' is there twice"));
            }
        }
        Ok(fields)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, String> {
        let mut items = Vec::new();
        while !self.take(']') {
            if !items.is_empty() && !self.take(',') {
                return Err(format!("expected ',' or ']', {}", self.found()));
            }
            items.push(self.value(depth + 1)?);
        }
        Ok(items)
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} lists and objects lie within each other"));
        }
        if let Some(text) = self.text()? {
            return Ok(Value::String(text));
        }
        if self.take('{') {
            return Ok(Value::Object(self.object(depth)?));
        }
        if self.take('[') {
            return Ok(Value::Array(self.list(depth)?));
        }
        match self.bare() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            // The second is how templates before July 2026 wrote it.
            "null" | "None" => Ok(Value::Null),
            "" => Err(format!("expected a value, {}", self.found())),
            other => number(other).map(Value::Number).ok_or_else(|| {
                format!("'{}' is no value; texts stand between {QUOTE} tokens", other.chars().take(40).collect::<String>())
            }),
        }
    }

    /// The next text, for an error message.
    fn found(&self) -> String {
        match (self.rest().chars().next(), self.quotes.first()) {
            (_, Some(&quote)) if quote == self.at => format!("found {QUOTE}"),
            (Some(c), _) => format!("found '{c}'"),
            (None, _) => "found its end".into(),
        }
    }
}

/// A number as JSON has it. `serde_json` rounds some floats to a neighbour, the standard library does not.
fn number(text: &str) -> Option<Number> {
    let read: Number = text.parse().ok()?;
    if read.is_f64() { Number::from_f64(text.parse().ok()?) } else { Some(read) }
}
