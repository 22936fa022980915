//! Pieces of an SVG picture.

use std::fmt::{Display, Write};

/// Elements one behind the other.
#[derive(Default)]
pub struct Svg(String);

impl Svg {
    /// A line of text. `style` is further attributes.
    pub fn text(&mut self, x: f64, y: f64, style: &str, content: impl Display) {
        let content = escape(content.to_string().trim());
        // Writing to a text cannot fail.
        let _ = writeln!(self.0, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{content}</text>");
    }

    /// A rectangle. `style` is further attributes.
    pub fn rect(&mut self, [x, y, width, height]: [f64; 4], style: &str) {
        let _ = writeln!(self.0, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" {style}/>");
    }

    /// The picture. `head` comes before the elements.
    pub fn finish(self, width: f64, height: f64, head: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n{head}{}</svg>\n",
            self.0
        )
    }
}

/// A text as XML has it; what XML cannot have is left out.
pub fn escape(text: &str) -> String {
    let legal = text.chars().filter(|c| !c.is_control());
    legal.collect::<String>().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
