//! Floating-point numbers for serde. Formats such as JSON have no infinities and nothing that is no number: there these
//! are the texts `inf`, `-inf` and `NaN`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// A number that is as it was when it is read again.
struct Number(f32);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() || !serializer.is_human_readable() {
            serializer.serialize_f32(self.0)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(NumberOrText).map(Self)
        } else {
            f32::deserialize(deserializer).map(Self)
        }
    }
}

struct NumberOrText;

impl Visitor<'_> for NumberOrText {
    type Value = f32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or one of the texts inf, -inf and NaN")
    }

    fn visit_f64<E>(self, value: f64) -> Result<f32, E> {
        Ok(value as f32)
    }

    fn visit_i64<E>(self, value: i64) -> Result<f32, E> {
        Ok(value as f32)
    }

    fn visit_u64<E>(self, value: u64) -> Result<f32, E> {
        Ok(value as f32)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<f32, E> {
        let known = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN].into_iter().find(|number| number.to_string() == text);
        known.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

/// A field that is a number.
pub(super) mod one {
    use super::{Deserialize, Deserializer, Number, Serialize, Serializer};

    pub(in crate::generate) fn serialize<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        Number(*value).serialize(serializer)
    }

    pub(in crate::generate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        Number::deserialize(deserializer).map(|number| number.0)
    }
}

/// A field that is a number or nothing.
pub(super) mod any {
    use super::{Deserialize, Deserializer, Number, Serialize, Serializer};

    pub(in crate::generate) fn serialize<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Number).serialize(serializer)
    }

    pub(in crate::generate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
        Ok(Option::<Number>::deserialize(deserializer)?.map(|number| number.0))
    }
}

/// A field that is a list of tokens with a number each.
pub(super) mod pairs {
    use super::{Deserialize, Deserializer, Number, Serializer};

    pub(in crate::generate) fn serialize<S: Serializer>(value: &[(u32, f32)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(value.iter().map(|(token, number)| (token, Number(*number))))
    }

    pub(in crate::generate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(u32, f32)>, D::Error> {
        let pairs = Vec::<(u32, Number)>::deserialize(deserializer)?;
        Ok(pairs.into_iter().map(|(token, number)| (token, number.0)).collect())
    }
}

#[cfg(test)]
mod tests;
