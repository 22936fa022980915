//! Tensors by name, and their file.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use gemmaflow::ir::{Data, Value};
use safetensors::{Dtype, tensor::TensorView};

/// Values by name.
pub type Tensors = Vec<(String, Value)>;

/// Writes the tensors, each as `{case}.{name}` where there is a case; numbers as F32, ids as I32.
pub fn write(path: &Path, case: Option<&str>, tensors: &Tensors) -> Result<()> {
    let mut views = Vec::new();
    for (name, value) in tensors {
        let name = case.map_or(name.clone(), |case| format!("{case}.{name}"));
        views.push((name, TensorView::new(dtype(value)?, value.shape.clone(), value.data.bytes())?));
    }
    safetensors::serialize_to_file(views, None, path).map_err(|e| anyhow!("--out: {}: {e}", path.display()))
}

fn dtype(value: &Value) -> Result<Dtype> {
    match &value.data {
        Data::F32(_) => Ok(Dtype::F32),
        Data::I32(_) | Data::U32(_) => Ok(Dtype::I32),
        Data::F16(_) | Data::Stored(_) => bail!("--out: a tensor of neither f32 nor ids"),
    }
}

/// `[n, rows, width]` of rows that each of n has, the most that any has; zeros behind those of others.
pub fn batch(each: Vec<Vec<f32>>, width: usize) -> Value {
    let most = each.iter().map(Vec::len).max().unwrap_or(0);
    let shape = [each.len(), most / width.max(1), width];
    let filled = each.into_iter().flat_map(|mut values| {
        values.resize(most, 0.0);
        values
    });
    Value::f32(shape, filled.collect::<Vec<f32>>())
}

/// `[rows, width]`, the rows of each after those before.
pub fn joined(each: Vec<Vec<f32>>, width: usize) -> Value {
    let values = each.concat();
    Value::f32([values.len() / width.max(1), width], values)
}

/// The values of an output of a tower, and its width.
pub fn output(outputs: &Tensors, name: &str) -> Result<(Vec<f32>, usize)> {
    let found = outputs.iter().find(|(found, _)| found == name);
    let (_, value) = found.ok_or_else(|| anyhow!("the tower has no output '{name}'"))?;
    Ok((value.to_f32()?.into_owned(), value.shape.last().copied().unwrap_or(1)))
}
