//! Soft tokens among what an application keeps as JSON or the like: whole, with their rows.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Modality, SoftTokens};
use crate::Result;

#[derive(Serialize)]
#[serde(rename = "SoftTokens")]
struct Written<'a> {
    modality: Modality,
    placeholder: u32,
    width: usize,
    values: &'a [f32],
}

#[derive(Deserialize)]
#[serde(rename = "SoftTokens", deny_unknown_fields)]
struct Read {
    modality: Modality,
    placeholder: u32,
    width: usize,
    values: Vec<f32>,
}

impl Serialize for SoftTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let modality = self.modality();
        let placeholder = self.placeholder();
        Written { modality, placeholder, width: self.width(), values: self.values() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SoftTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read { modality, placeholder, width, values } = Read::deserialize(deserializer)?;
        Self::new(modality, placeholder, width, values).map_err(D::Error::custom)
    }
}
