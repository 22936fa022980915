//! Names of modules, as PEFT's patterns mean them.

use fancy_regex::Regex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::fields::shown;

/// Numbers by pattern, in the order of the file: of several patterns that match the first counts.
#[derive(Default)]
pub(super) struct Numbers(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Numbers;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of numbers by pattern")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Numbers, A::Error> {
                let mut numbers = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    numbers.push(entry);
                }
                Ok(Numbers(numbers))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Numbers {
    /// The patterns ready to be asked.
    pub(super) fn compile(self, field: &str) -> Result<Pattern, String> {
        let compiled = self.0.into_iter().map(|(pattern, number)| Ok((regex(field, &format!("^(.*\\.)?({pattern})$"))?, number)));
        Ok(Pattern(compiled.collect::<Result<_, String>>()?))
    }
}

/// Numbers by compiled pattern.
pub(super) struct Pattern(Vec<(Regex, f64)>);

impl Pattern {
    /// The number of the first pattern that a whole name, or a name behind a dot, matches.
    pub(super) fn of(&self, module: &str) -> Result<Option<f64>, String> {
        for (pattern, number) in &self.0 {
            if matches(pattern, module)? {
                return Ok(Some(*number));
            }
        }
        Ok(None)
    }
}

fn regex(field: &str, pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|e| format!("{field} has a pattern that cannot be read ({e}): {pattern}"))
}

fn matches(pattern: &Regex, module: &str) -> Result<bool, String> {
    pattern.is_match(module).map_err(|e| format!("a pattern takes too long for '{module}' ({e}): {}", pattern.as_str()))
}

/// Names, or one expression for whole names.
enum Modules {
    All,
    Names(Vec<String>),
    Expression(Regex),
}

impl Modules {
    fn of(fields: &Map<String, Value>, field: &str) -> Result<Option<Self>, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(none)) if none.is_empty() => Ok(None),
            Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => Ok(Some(Self::All)),
            Some(Value::String(pattern)) => Ok(Some(Self::Expression(regex(field, &format!("^(?:{pattern})$"))?))),
            Some(Value::Array(list)) => match list.iter().map(text).collect() {
                Some(names) => Ok(Some(Self::Names(names))),
                None => Err(format!("{field} is {}, expected names of modules", shown(&Value::Array(list.clone())))),
            },
            Some(other) => Err(format!("{field} is {}, expected names of modules or an expression", shown(other))),
        }
    }

    fn name(&self, module: &str) -> Result<bool, String> {
        match self {
            Self::All => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| ends_with(module, name))),
            Self::Expression(pattern) => matches(pattern, module),
        }
    }
}

/// Returns `true` if a module is called `name`, or ends so behind a dot.
fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The modules that a configuration adapts.
pub(super) struct Targets {
    modules: Option<Modules>,
    excluded: Option<Modules>,
    layers: Option<Vec<u64>>,
    layer_patterns: Vec<Regex>,
    parameters: Vec<String>,
}

impl Targets {
    pub(super) fn of(fields: &Map<String, Value>) -> Result<Self, String> {
        let patterns = match fields.get("layers_pattern") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(one)) if one.is_empty() => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(list)) => list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect(),
            Some(other) => return Err(format!("layers_pattern is {}, expected names", shown(other))),
        };
        let expressions = if patterns.is_empty() {
            vec![r".*?\.[^.]*\.(\d+)\.".to_string()]
        } else {
            patterns.iter().map(|pattern| format!(r"(?:^|.*?\.){pattern}\.(\d+)\.")).collect()
        };
        let anchored = expressions.iter().map(|expression| regex("layers_pattern", &format!("^{expression}")));
        Ok(Self {
            modules: Modules::of(fields, "target_modules")?,
            excluded: Modules::of(fields, "exclude_modules")?,
            layers: layers(fields.get("layers_to_transform"))?,
            layer_patterns: anchored.collect::<Result<_, _>>()?,
            parameters: parameters(fields.get("target_parameters"))?,
        })
    }

    /// The field by which the configuration leaves a module out.
    pub(super) fn leave_out(&self, module: &str) -> Result<Option<&'static str>, String> {
        if let Some(excluded) = &self.excluded
            && excluded.name(module)?
        {
            return Ok(Some("exclude_modules"));
        }
        if self.parameters.iter().any(|parameter| ends_with(&format!("{module}.weight"), parameter)) {
            return Ok(None);
        }
        let Some(modules) = &self.modules else { return Ok(None) };
        if !modules.name(module)? {
            return Ok(Some("target_modules"));
        }
        let Some(layers) = self.layers.as_ref().filter(|layers| !layers.is_empty()) else { return Ok(None) };
        for pattern in &self.layer_patterns {
            let found = pattern.captures(module).map_err(|e| format!("layers_pattern takes too long for '{module}' ({e})"))?;
            if let Some(layer) = found.iter().flat_map(|found| found.iter().flatten().last()).next() {
                let named = layer.as_str().parse().is_ok_and(|layer| layers.contains(&layer));
                return Ok(if named { None } else { Some("layers_to_transform") });
            }
        }
        Ok(Some("layers_to_transform"))
    }
}

/// The names of `target_parameters`.
fn parameters(value: Option<&Value>) -> Result<Vec<String>, String> {
    let wrong = |value: &Value| format!("target_parameters is {}, expected names of parameters", shown(value));
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            let names: Option<Vec<String>> = list.iter().map(|name| name.as_str().map(str::to_owned)).collect();
            names.ok_or_else(|| wrong(&Value::Array(list.clone())))
        }
        Some(other) => Err(wrong(other)),
    }
}

fn layers(value: Option<&Value>) -> Result<Option<Vec<u64>>, String> {
    let wrong = |value: &Value| format!("layers_to_transform is {}, expected indices of layers", shown(value));
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => {
            let all: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
            all.map(Some).ok_or_else(|| wrong(&Value::Array(list.clone())))
        }
        Some(one) => one.as_u64().map(|layer| Some(vec![layer])).ok_or_else(|| wrong(one)),
    }
}
