//! The patches of a picture, in the order that towers take them.

use crate::gemma::vision::PatchGrid;

/// A picture cut into squares.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// `[rows · columns, 3 · p²]`, row-major over the grid. In SigLIP a patch is channel, row, column; in Gemma 3n and
    /// 4 row, column, channel.
    pub values: Vec<f32>,
    /// Rows of the grid.
    pub rows: usize,
    /// Columns of the grid.
    pub columns: usize,
}

impl Patches {
    /// The places of the patches, column and row, those of one soft token after the other: squares of `side` patches,
    /// row-major, and within a square row-major.
    pub(crate) fn by_square(&self, side: usize) -> Vec<[usize; 2]> {
        let squares = (0..self.rows / side).flat_map(|row| (0..self.columns / side).map(move |column| [column, row]));
        let within =
            |[column, row]: [usize; 2]| (0..side * side).map(move |at| [column * side + at % side, row * side + at / side]);
        squares.flat_map(within).collect()
    }

    /// Why a tower with this grid cannot take them.
    pub(crate) fn problem(&self, grid: PatchGrid, places: usize) -> Option<String> {
        let Self { values, rows, columns } = self;
        let width = 3 * grid.patch * grid.patch;
        let patches = rows.saturating_mul(*columns);
        if patches.checked_mul(width) != Some(values.len()) {
            return Some(format!("{rows}×{columns} patches of {width} numbers have {} of them", values.len()));
        }
        let squares = rows.is_multiple_of(grid.pooled) && columns.is_multiple_of(grid.pooled);
        if patches == 0 || patches > grid.most || !squares || *rows > places || *columns > places {
            let expected = format!("1 to {} in squares of {}, in at most {places} rows and columns", grid.most, grid.pooled);
            return Some(format!("{rows}×{columns} patches, expected {expected}"));
        }
        values.iter().any(|value| !value.is_finite()).then(|| "a pixel's value is not a number".to_string())
    }
}

#[cfg(test)]
mod tests;
