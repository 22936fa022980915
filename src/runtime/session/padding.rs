//! Arrays of a run between their own sizes and the sizes that a graph is compiled for.
//!
//! Every symbol of a size has a part of the dimension to itself, in the order of the sum; padding is at the end of each
//! part, and a number in the sum is the last part. So `past + T` is the cached rows, padding, the new rows, padding.

use crate::{
    Result,
    ir::{Data, DimBinding, Shape, Value},
};

/// Where the elements of an array lie in the larger one.
pub(super) struct Padding {
    /// For each dimension the index in the larger array of each of its own.
    places: Vec<Vec<usize>>,
    /// The larger array's dimensions.
    padded: Vec<usize>,
}

impl Padding {
    pub(super) fn new(shape: &Shape, live: &DimBinding, capacity: &DimBinding) -> Result<Self> {
        let mut places = Vec::new();
        for dim in &shape.0 {
            let mut place = Vec::new();
            let mut start = 0;
            for symbol in dim.symbols() {
                let size = live.get(symbol).unwrap_or(0);
                let room = capacity.get(symbol).unwrap_or(0);
                place.extend(start..start + size);
                start += room;
            }
            place.extend(start..start + dim.offset());
            places.push(place);
        }
        Ok(Self { places, padded: shape.bind(capacity)? })
    }

    /// Returns `true` if there is no padding.
    pub(super) fn is_none(&self) -> bool {
        self.places.iter().zip(&self.padded).all(|(place, room)| place.len() == *room)
    }

    /// The larger array; what is added holds `filler` in integers and 0 in floats.
    pub(super) fn pad(&self, value: &Value, filler: i32) -> Value {
        let len = self.padded.iter().product();
        let data = match &value.data {
            Data::F32(v) => Data::F32(self.spread(v, vec![0.0; len])),
            Data::F16(v) => Data::F16(self.spread(v, vec![Value::narrow(0.0); len])),
            Data::I32(v) => Data::I32(self.spread(v, vec![filler; len])),
            Data::U32(v) => Data::U32(self.spread(v, vec![0; len])),
            Data::Stored(_) => value.data.clone(),
        };
        Value { shape: self.padded.clone(), data }
    }

    /// The array's own elements out of the larger one.
    pub(super) fn crop(&self, value: &Value) -> Value {
        let data = match &value.data {
            Data::F32(v) => Data::F32(self.collect(v)),
            Data::F16(v) => Data::F16(self.collect(v)),
            Data::I32(v) => Data::I32(self.collect(v)),
            Data::U32(v) => Data::U32(self.collect(v)),
            Data::Stored(_) => value.data.clone(),
        };
        Value { shape: self.places.iter().map(Vec::len).collect(), data }
    }

    fn spread<T: Copy>(&self, from: &[T], mut into: Vec<T>) -> Vec<T> {
        let width = self.inner();
        self.runs().zip(from.chunks(width.max(1))).for_each(|(at, run)| into[at..at + run.len()].copy_from_slice(run));
        into
    }

    fn collect<T: Copy>(&self, from: &[T]) -> Vec<T> {
        let width = self.inner();
        self.runs().flat_map(|at| &from[at..at + width]).copied().collect()
    }

    /// Elements of the dimensions after the last that is padded: they stay together.
    fn inner(&self) -> usize {
        self.padded[self.outer()..].iter().product()
    }

    /// How many dimensions there are up to the last that is padded.
    fn outer(&self) -> usize {
        let padded = |d: &usize| self.places[*d].len() != self.padded[*d];
        (0..self.padded.len()).rev().find(padded).map_or(0, |d| d + 1)
    }

    /// Where each run of [`inner`](Self::inner) elements begins in the larger array, in the order of the array's own
    /// elements.
    fn runs(&self) -> impl Iterator<Item = usize> {
        let outer = self.outer();
        let starts = self.places[..outer].iter().enumerate().fold(vec![0], |starts, (d, place)| {
            let stride: usize = self.padded[d + 1..].iter().product();
            starts.iter().flat_map(|start| place.iter().map(move |p| start + p * stride)).collect()
        });
        starts.into_iter()
    }
}

#[cfg(test)]
mod tests;
