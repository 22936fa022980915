//! The values of a GGUF file's metadata, read in place.

use std::collections::BTreeMap;

use super::cursor::Cursor;

macro_rules! value_types {
    ($($id:literal $variant:ident $name:literal $bytes:literal)+) => {
        /// The type of a metadata value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum ValueType { $($variant),+ }

        impl ValueType {
            pub(super) fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)+ _ => None }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The bytes that a value takes at least; of numbers exactly.
            pub(super) fn least_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes),+ }
            }
        }
    };
}

value_types! {
    0 U8 "u8" 1
    1 I8 "i8" 1
    2 U16 "u16" 2
    3 I16 "i16" 2
    4 U32 "u32" 4
    5 I32 "i32" 4
    6 F32 "f32" 4
    7 Bool "bool" 1
    8 Text "string" 8
    9 Array "array" 12
    10 U64 "u64" 8
    11 I64 "i64" 8
    12 F64 "f64" 8
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    /// An integer of any width.
    Integer(i128),
    /// A number of either width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// The bytes of a text.
    Text(&'a [u8]),
    /// An array, in place.
    Array(Array<'a>),
}

/// An array of values of one type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Array<'a> {
    element: ValueType,
    count: u64,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The elements in order. The header's reader has checked that they are all there.
    pub(crate) fn values(&self) -> impl Iterator<Item = Value<'a>> {
        let element = self.element;
        let mut cursor = Cursor::new(self.bytes, 0);
        (0..self.count).map_while(move |_| read(&mut cursor, element))
    }
}

/// Reads a value that the header's reader has passed over before; `None` where a truth value is neither 0 nor 1.
fn read<'a>(cursor: &mut Cursor<'a>, ty: ValueType) -> Option<Value<'a>> {
    if ty == ValueType::Array {
        let element = cursor.value_type().ok()?;
        let count = cursor.u64().ok()?;
        let start = cursor.clone();
        let first = cursor.position();
        match element {
            ValueType::Text | ValueType::Array => (0..count).try_for_each(|_| cursor.skip(element, 0)).ok()?,
            _ => drop(cursor.take(count.checked_mul(element.least_bytes())?).ok()?),
        }
        let bytes = start.clone().take((cursor.position() - first) as u64).ok()?;
        return Some(Value::Array(Array { element, count, bytes }));
    }
    if ty == ValueType::Text {
        return Some(Value::Text(cursor.string("", u64::MAX).ok()?));
    }
    let mut raw = [0; 8];
    let stored = cursor.take(ty.least_bytes()).ok()?;
    raw[..stored.len()].copy_from_slice(stored);
    let bits = u64::from_le_bytes(raw);
    Some(match ty {
        ValueType::I8 => Value::Integer((bits as i8).into()),
        ValueType::I16 => Value::Integer((bits as i16).into()),
        ValueType::I32 => Value::Integer((bits as i32).into()),
        ValueType::I64 => Value::Integer((bits as i64).into()),
        ValueType::F32 => Value::Float(f32::from_bits(bits as u32).into()),
        ValueType::F64 => Value::Float(f64::from_bits(bits)),
        ValueType::Bool if bits > 1 => return None,
        ValueType::Bool => Value::Bool(bits == 1),
        _ => Value::Integer(bits.into()),
    })
}

/// A file's metadata: the header's bytes, and where in them each key's value lies.
#[derive(Default)]
pub(crate) struct Metadata {
    bytes: Vec<u8>,
    places: BTreeMap<Box<str>, (ValueType, usize)>,
}

impl Metadata {
    /// `places` are of values that lie whole within `bytes`.
    pub(super) fn new(bytes: Vec<u8>, places: BTreeMap<Box<str>, (ValueType, usize)>) -> Self {
        Self { bytes, places }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// A truth value that is neither 0 nor 1.
    fn get(&self, key: &str) -> Result<Option<(ValueType, Value<'_>)>, String> {
        let Some((ty, at)) = self.places.get(key) else { return Ok(None) };
        match read(&mut Cursor::new(&self.bytes, *at), *ty) {
            Some(value) => Ok(Some((*ty, value))),
            None => Err(format!("{key} is a bool of another value than 0 and 1")),
        }
    }

    /// The value of a key by `wanted`; a value of another type is refused.
    fn typed<'a, T>(&'a self, key: &str, expected: &str, wanted: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<T>, String> {
        let Some((ty, value)) = self.get(key)? else { return Ok(None) };
        match wanted(value) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("{key} is {} ({}), expected {expected}", shown(value), ty.name())),
        }
    }

    /// The keys, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(AsRef::as_ref)
    }

    /// A count or size: a whole number of any type, or an array of nothing but it.
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, String> {
        self.typed(key, "an integer from 0 on", |value| lone(value, size))
    }

    /// A size, or an array of them; a lone size comes as an array of one.
    pub(crate) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, String> {
        self.typed(key, "integers from 0 on", |value| match value {
            Value::Array(array) if array.count > MAX_LIST => None,
            Value::Array(array) => array.values().map(size).collect(),
            lone => size(lone).map(|size| vec![size]),
        })
    }

    /// The tokens that a value names: an integer, or an array of them. Values that are none, such as the -1 that some
    /// files write, name nothing.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn token_ids(&self, key: &str) -> Vec<usize> {
        match self.get(key) {
            Ok(Some((_, Value::Array(array)))) if array.count <= MAX_LIST => array.values().filter_map(size).collect(),
            Ok(Some((_, lone))) => size(lone).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// A truth value.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.typed(key, "a bool", |value| if let Value::Bool(flag) = value { Some(flag) } else { None })
    }

    /// An array of truth values, or of integers that are 0 or 1.
    pub(crate) fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, String> {
        self.typed(key, "an array of bool", |value| match value {
            Value::Array(array) if array.count <= MAX_LIST => {
                let flags: Vec<bool> = array.values().map_while(flag).collect();
                (flags.len() as u64 == array.count).then_some(flags)
            }
            _ => None,
        })
    }

    /// True if the value of a key is an array.
    pub(crate) fn is_array(&self, key: &str) -> bool {
        self.places.get(key).is_some_and(|(ty, _)| *ty == ValueType::Array)
    }

    /// A number, or an array of nothing but it.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f32>, String> {
        self.typed(key, "a number", |value| lone(value, number))
    }

    /// The value of a key for a message, cut short.
    pub(crate) fn shown(&self, key: &str) -> String {
        self.get(key).ok().flatten().map(|(_, value)| shown(value)).unwrap_or_default()
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, String> {
        self.typed(key, "a text in UTF-8", utf8)
    }

    /// An array, each value of it by `of`.
    fn list<'a, T>(&'a self, key: &str, expected: &str, of: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<Vec<T>>, String> {
        self.typed(key, expected, |value| match value {
            Value::Array(array) => {
                let values: Vec<T> = array.values().map_while(&of).collect();
                (values.len() as u64 == array.count).then_some(values)
            }
            _ => None,
        })
    }

    /// An array of texts: a tokenizer's.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, String> {
        self.list(key, "an array of texts in UTF-8", utf8)
    }

    /// The places of texts in an array of them, each its first.
    pub(crate) fn places<const N: usize>(&self, key: &str, wanted: [&str; N]) -> [Option<usize>; N] {
        let mut found = [None; N];
        let Ok(Some((_, Value::Array(array)))) = self.get(key) else { return found };
        for (at, value) in array.values().enumerate() {
            let Value::Text(text) = value else { return found };
            if let Some(index) = wanted.iter().position(|wanted| wanted.as_bytes() == text) {
                found[index] = found[index].or(Some(at));
            }
        }
        found
    }

    /// The number of an array's values.
    pub(crate) fn count(&self, key: &str) -> Option<usize> {
        match self.get(key) {
            Ok(Some((_, Value::Array(array)))) => usize::try_from(array.count).ok(),
            _ => None,
        }
    }

    /// An array of numbers.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, String> {
        self.list(key, "an array of numbers", number)
    }
}

/// Lists that are read here have an entry a layer.
const MAX_LIST: u64 = 4096;

/// A value, or the one that all elements of an array are.
fn lone<T: PartialEq>(value: Value<'_>, of: impl Fn(Value<'_>) -> Option<T>) -> Option<T> {
    let Value::Array(array) = value else { return of(value) };
    if array.count == 0 || array.count > MAX_LIST {
        return None;
    }
    let mut values = array.values().map(of);
    let first = values.next()??;
    values.all(|value| value.as_ref() == Some(&first)).then_some(first)
}

/// A whole number that some writers have as a float.
fn size(value: Value<'_>) -> Option<usize> {
    match value {
        Value::Integer(value) => usize::try_from(value).ok(),
        Value::Float(value) if value.fract() == 0.0 && (0.0..9e15).contains(&value) => usize::try_from(value as u64).ok(),
        _ => None,
    }
}

fn flag(value: Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(flag),
        Value::Integer(bit @ 0..=1) => Some(bit == 1),
        _ => None,
    }
}

fn number(value: Value<'_>) -> Option<f32> {
    match value {
        Value::Float(number) => Some(number as f32),
        Value::Integer(number) => Some(number as f32),
        _ => None,
    }
}

fn utf8(value: Value<'_>) -> Option<&str> {
    match value {
        Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// A value for a message, cut short.
fn shown(value: Value<'_>) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Text(bytes) => format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)])),
        Value::Array(array) => format!("{} of {}", array.count, array.element.name()),
    }
}
