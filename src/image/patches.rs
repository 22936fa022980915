//! The patches of a picture, in the order that towers take them.

use crate::gemma::vision::PatchGrid;

/// A picture cut into squares.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// `[rows · columns, 3 · p²]`, row-major over the grid. In SigLIP a patch is channel, row, column; in Gemma 4 row,
    /// column, channel.
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
mod tests {
    use super::*;

    #[test]
    fn patches_of_a_square_are_neighbours() {
        let patches = Patches { values: vec![0.0; 4 * 6 * 12], rows: 4, columns: 6 };
        let order = patches.by_square(2);
        assert_eq!(order[..8], [[0, 0], [1, 0], [0, 1], [1, 1], [2, 0], [3, 0], [2, 1], [3, 1]]);
        assert_eq!(order[12], [0, 2]);
        let mut all = order.clone();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 24);
        let grid = |most| PatchGrid { patch: 2, pooled: 2, most };
        assert_eq!(patches.problem(grid(24), 6), None);
        for (grid, places) in
            [(grid(23), 6), (grid(24), 5), (PatchGrid { pooled: 4, ..grid(24) }, 6), (PatchGrid { patch: 3, ..grid(24) }, 6)]
        {
            assert!(patches.problem(grid, places).is_some());
        }
        let broken = Patches { values: vec![f32::NAN; 48], rows: 2, columns: 2 };
        assert!(broken.problem(grid(24), 6).is_some());
    }
}
