//! Texts that end an answer, wherever tokens cut them.

/// Looks for stop texts in a text that comes in parts, and holds back what may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub(super) struct StopTexts {
    stops: Vec<String>,
    held: String,
}

impl StopTexts {
    pub(super) fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new() }
    }

    /// The texts that it looks for.
    pub(super) fn texts(&self) -> &[String] {
        &self.stops
    }

    /// Takes the next part: the text that is certain now, and the index of the stop text that ends it.
    pub(super) fn push(&mut self, part: &str) -> (String, Option<usize>) {
        self.held.push_str(part);
        let found = |(index, stop): (usize, &String)| Some((self.held.find(stop.as_str())?, index)).filter(|_| !stop.is_empty());
        if let Some((at, index)) = self.stops.iter().enumerate().filter_map(found).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), Some(index));
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let starts = self.held.char_indices().map(|(at, _)| at);
        // A beginning is shorter than its text.
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let certain = starts.filter(|at| self.held.len() - at < longest).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// Nothing more comes: what was held back is text.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests;
