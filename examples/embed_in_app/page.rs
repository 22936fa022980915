//! Text laid out in the cells of the panel.

/// Pixels from one glyph to the next: their last column is empty.
const ADVANCE: u32 = 14;
/// Pixels from one line to the next.
const LINE: u32 = 20;
/// Pixels around the text.
const MARGIN: u32 = 28;
/// Pixels below the panel.
const BELOW: u32 = 80;

/// A glyph: left and top in pixels, its code, its style.
pub type Cell = [u32; 4];

/// How a text looks.
#[derive(Clone, Copy)]
pub enum Style {
    Body,
    Prompt,
    Note,
}

/// The text of the panel.
pub struct Page {
    size: [u32; 2],
    characters: Vec<(char, Style)>,
    note: String,
}

impl Page {
    pub fn new(size: [u32; 2]) -> Self {
        Self { size, characters: Vec::new(), note: String::new() }
    }

    pub fn push(&mut self, text: &str, style: Style) {
        self.characters.extend(text.chars().map(|c| (c, style)));
    }

    /// What stands below the text.
    pub fn set_note(&mut self, note: String) {
        self.note = note;
    }

    /// The glyphs of the last lines that fit.
    pub fn cells(&self) -> Vec<Cell> {
        if self.characters.is_empty() {
            return Vec::new();
        }
        let columns = ((self.size[0] - 2 * MARGIN) / ADVANCE) as usize;
        // The last line is the note's.
        let rows = ((self.size[1] - BELOW - MARGIN - 12) / LINE) as usize - 1;
        let lines = wrap(&self.characters, columns);
        let mut cells = Vec::new();
        for (row, line) in lines[lines.len().saturating_sub(rows)..].iter().enumerate() {
            place(&mut cells, row, line);
        }
        let note: Vec<_> = self.note.chars().take(columns).map(|c| (c, Style::Note)).collect();
        place(&mut cells, rows, &note);
        cells
    }
}

fn place(cells: &mut Vec<Cell>, row: usize, line: &[(char, Style)]) {
    let visible = (0..).zip(line).filter(|(_, (c, _))| !c.is_whitespace());
    cells.extend(visible.map(|(column, (c, style))| {
        let code = if c.is_ascii_graphic() { *c as u32 } else { '?' as u32 };
        [MARGIN + column * ADVANCE, MARGIN + row as u32 * LINE, code, *style as u32]
    }));
}

/// Lines of at most `columns` characters, broken at spaces where there are some.
fn wrap(characters: &[(char, Style)], columns: usize) -> Vec<Vec<(char, Style)>> {
    let mut lines = Vec::new();
    for line in characters.split(|(c, _)| *c == '\n') {
        let mut rest = line;
        while rest.len() > columns {
            let space = rest[..=columns].iter().rposition(|(c, _)| *c == ' ').filter(|at| *at > 0);
            lines.push(rest[..space.unwrap_or(columns)].to_vec());
            rest = &rest[space.map_or(columns, |at| at + 1)..];
        }
        lines.push(rest.to_vec());
    }
    lines
}
