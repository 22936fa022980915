//! The targets of a schema's references.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{
    place::{self, Place},
    uri,
};

/// Where schemas are repeated whose places llguidance cannot name: it takes `/` in a name for a step.
pub(super) const TARGETS: &str = "x-targets";

/// A schema with an identifier of its own, to which pointers within it are relative.
struct Resource {
    id: String,
    place: Place,
}

/// The places that references name.
struct Index<'v> {
    root: &'v Value,
    resources: Vec<Resource>,
    /// Named places, each of a resource.
    anchors: HashMap<(usize, String), Place>,
    references: Vec<Reference<'v>>,
}

struct Reference<'v> {
    /// The schema that has it.
    place: Place,
    keyword: &'static str,
    text: &'v str,
    resource: usize,
}

/// The same schema with references that are pointers without escapes.
///
/// # Errors
/// The place of a reference that leads nowhere, and its fault.
pub(super) fn with_plain_references(mut schema: Value) -> Result<Value, (Place, String)> {
    let mut index = Index { root: &schema, resources: Vec::new(), anchors: HashMap::new(), references: Vec::new() };
    index.resources.push(Resource { id: String::new(), place: Place::default() });
    index.add(&Place::default(), &schema, 0);
    let mut targets: Vec<Place> = Vec::new();
    let mut replaced = Vec::new();
    let mut name = TARGETS.to_string();
    while schema.get(&name).is_some() {
        name.push('-');
    }
    for reference in &index.references {
        let at = |problem| (reference.place.join(&[reference.keyword]), problem);
        let target = index.resolve(reference).map_err(at)?;
        let is_plain = target.steps() != [""] && target.steps().iter().all(|step| !step.contains('/'));
        let text = if is_plain {
            std::iter::once("#").chain(target.steps().iter().map(String::as_str)).collect::<Vec<_>>().join("/")
        } else {
            let known = targets.iter().position(|known| *known == target);
            let number = known.unwrap_or_else(|| {
                targets.push(target);
                targets.len() - 1
            });
            format!("#/{name}/{number}")
        };
        replaced.push((reference.place.clone(), reference.keyword, text));
    }
    for (place, keyword, text) in replaced {
        if let Some(Value::Object(fields)) = place.find_mut(&mut schema) {
            fields.remove(keyword);
            fields.insert("$ref".into(), text.into());
        }
    }
    let copies: Map<String, Value> = targets
        .iter()
        .enumerate()
        .map(|(number, target)| (number.to_string(), target.find(&schema).cloned().unwrap_or_default()))
        .collect();
    if let (Value::Object(fields), false) = (&mut schema, copies.is_empty()) {
        fields.insert(name, Value::Object(copies));
    }
    Ok(schema)
}

impl<'v> Index<'v> {
    /// Takes in a schema of a resource, and all within it.
    fn add(&mut self, place: &Place, schema: &'v Value, mut resource: usize) {
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        if let Some(id) = text("$id").or(text("id")) {
            match id.strip_prefix('#') {
                Some("") => {}
                Some(anchor) => drop(self.anchors.insert((resource, anchor.to_string()), place.clone())),
                None => resource = self.add_resource(place, id, resource),
            }
        }
        for key in ["$anchor", "$dynamicAnchor"] {
            if let Some(anchor) = text(key) {
                self.anchors.insert((resource, anchor.to_string()), place.clone());
            }
        }
        for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
            if let Some(text) = text(keyword) {
                self.references.push(Reference { place: place.clone(), keyword, text, resource });
            }
        }
        for (steps, child) in place::children(schema) {
            self.add(&place.join(&steps), child, resource);
        }
    }

    fn add_resource(&mut self, place: &Place, id: &str, within: usize) -> usize {
        let id = uri::join(&self.resources[within].id, uri::split(id).0);
        if *place == Place::default() {
            self.resources[0].id = id;
            return 0;
        }
        self.resources.push(Resource { id, place: place.clone() });
        self.resources.len() - 1
    }

    /// The place that a reference means.
    fn resolve(&self, reference: &Reference) -> Result<Place, String> {
        let text = reference.text;
        if reference.keyword != "$ref" && self.resources.len() > 1 {
            return Err(format!("{} among several schemas with identifiers means another in each; use $ref", reference.keyword));
        }
        let schema = reference.place.find(self.root);
        if reference.keyword != "$ref" && schema.is_some_and(|schema| schema.get("$ref").is_some()) {
            return Err(format!("{} beside $ref is not supported; put one of them into an allOf", reference.keyword));
        }
        let (document, fragment) = uri::split(text);
        let resource = match document {
            "" => reference.resource,
            _ => {
                let id = uri::join(&self.resources[reference.resource].id, document);
                let known = self.resources.iter().position(|resource| resource.id == id);
                known.ok_or_else(|| format!("'{text}' refers to another document, and none is fetched; put it into $defs"))?
            }
        };
        let base = &self.resources[resource].place;
        let fragment = uri::unescaped(fragment)?;
        let place = match fragment.as_str() {
            "" => Some(base.clone()),
            pointer if pointer.starts_with('/') => {
                let steps = uri::steps(pointer)?;
                let found = base.join(&steps);
                found.find(self.root).map(|_| found.clone())
            }
            anchor => self.anchors.get(&(resource, anchor.to_string())).cloned(),
        };
        place.ok_or_else(|| format!("'{text}' leads nowhere in this schema"))
    }
}
