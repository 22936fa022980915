//! Output that fulfils a JSON schema, a regular expression, or a grammar in the Lark syntax of the crate `llguidance`.
//!
//! ```no_run
//! use gemmaflow::{
//!     generate::{GemmaGenerator, SampleHooks, SampleOpts},
//!     guide::Guides,
//!     text::Tokenizer,
//! };
//!
//! # fn main() -> gemmaflow::Result<()> {
//! # fn loaded() -> gemmaflow::Result<(Tokenizer, GemmaGenerator)> { unreachable!() }
//! let (tokenizer, mut generator) = loaded()?;
//! let guides = Guides::new(&tokenizer, &[1, 106])?;
//! let guide = guides.json_schema(r#"{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}"#)?;
//! let mut hooks = SampleHooks::new().with_processor(guide);
//! generator.generate_hooked(100, &SampleOpts::greedy(), &mut hooks, |_| std::ops::ControlFlow::Continue(()))?;
//! # Ok(())
//! # }
//! ```

mod limits;
mod productive;
mod schema;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::Context;
use llguidance::{
    Matcher, ParserFactory,
    api::{GrammarInit, StopReason, TopLevelGrammar},
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};

use productive::Spelling;

use crate::{
    Error, Result,
    generate::{LogitChanges, LogitProcessor, TokenSet},
    text::{Piece, Tokenizer},
};

/// Makes guides for one vocabulary. Its construction looks at every token once, and guides share the result. Cloning is
/// cheap.
#[derive(Clone)]
pub struct Guides {
    factory: Arc<ParserFactory>,
    spelling: Arc<Spelling>,
    ends: Arc<[u32]>,
}

const _: () = {
    const fn sendable<T: Send + 'static>() {}
    const fn shareable<T: Send + Sync + 'static>() {}
    shareable::<Guides>();
    sendable::<Guide>();
};

impl Guides {
    /// For a tokenizer's vocabulary. `ends` are all tokens that end an answer, such as `<eos>` and `<end_of_turn>`:
    /// each is allowed where the grammar may end, and nothing else where it must. Other control tokens are never
    /// allowed.
    ///
    /// # Errors
    /// [`Error::Grammar`] for `ends` that are empty or outside of the vocabulary.
    pub fn new(tokenizer: &Tokenizer, ends: &[u32]) -> Result<Self> {
        let vocab_size = tokenizer.vocab_size();
        if ends.is_empty() || ends.iter().any(|end| *end as usize >= vocab_size) {
            return Err(Error::Grammar(format!("the end tokens are {ends:?}, expected at least one, each below {vocab_size}")));
        }
        let mut spelled = TokenSet::none(vocab_size);
        let spelling = |id: u32| match tokenizer.piece(id) {
            Piece::Text(text) => text.into_bytes(),
            Piece::Byte(byte) => vec![byte],
            Piece::Control | Piece::Unknown => Vec::new(),
        };
        let words: Vec<Vec<u8>> = (0..vocab_size as u32).map(spelling).collect();
        (0..).zip(&words).filter(|(_, word)| !word.is_empty()).for_each(|(id, _)| spelled.insert(id));
        ends.iter().for_each(|end| spelled.remove(*end));
        let made = limits::guarded(|| {
            let trie = TokTrie::from(&TokRxInfo::new(vocab_size as u32, ends[0]), &words).with_eos_tokens(ends);
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let slices = llguidance::earley::SlicedBiasComputer::general_slices();
            let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)?;
            factory.quiet();
            limits::quiet(factory.limits_mut());
            Ok(factory)
        })?;
        let spelling = Spelling::of(spelled, &words);
        Ok(Self { factory: Arc::new(made), spelling: Arc::new(spelling), ends: ends.into() })
    }

    /// A guide to JSON of a schema. The text has one space after each comma and colon between values and no other white
    /// space, so that a schema whose strings, numbers and arrays are bounded bounds the text.
    ///
    /// References lead to places, anchors and identifiers of the schema itself; their pointers may have the escapes of
    /// RFC 6901. Nothing is fetched.
    ///
    /// # Errors
    /// [`Error::Grammar`] with the place in the schema. The schema is no JSON, too large or too deep; a keyword cannot
    /// be enforced; a reference leads nowhere; or a text may begin a part that it cannot fulfil.
    pub fn json_schema(&self, schema: &str) -> Result<Guide> {
        limits::check(schema, "$ref")?;
        let schema = serde_json::from_str(schema).map_err(|e| Error::Grammar(format!("the schema is no JSON: {e}")))?;
        let schema = schema::prepared(schema)?;
        let made = self.guide(json_grammar(&schema));
        let Err(Error::Grammar(problem)) = made else { return made };
        let refused = |part: &serde_json::Value| self.guide(json_grammar(part)).err().map(|error| error.to_string());
        let place = schema::locate(&schema, &problem, refused);
        Err(Error::Grammar(format!("at {place}: {problem}")))
    }

    /// A guide to texts that a regular expression (syntax of the crate `regex`, without look-around) matches as a
    /// whole.
    ///
    /// # Errors
    /// [`Error::Grammar`] for an expression that cannot be read, that nothing matches, or that is too large.
    pub fn regex(&self, pattern: &str) -> Result<Guide> {
        limits::check(pattern, "(?")?;
        self.guide(TopLevelGrammar::from_regex(pattern))
    }

    /// A guide to texts of a grammar in llguidance's variant of the Lark syntax.
    ///
    /// # Errors
    /// As [`regex`](Self::regex).
    pub fn lark(&self, grammar: &str) -> Result<Guide> {
        limits::check(grammar, ":")?;
        self.guide(TopLevelGrammar::from_lark(grammar.to_string()))
    }

    fn guide(&self, grammar: TopLevelGrammar) -> Result<Guide> {
        let fresh = limits::with_room(|| {
            let limits = self.factory.limits();
            let (grammar, lexemes) =
                GrammarInit::Serialized(grammar).to_internal(Some(self.factory.tok_env().clone()), limits.clone())?;
            productive::check(&grammar, &lexemes, limits, &self.spelling)?;
            let init = GrammarInit::Internal(grammar, lexemes);
            let mut matcher = Matcher::new(self.factory.create_parser_from_init_default(init));
            // Finds a grammar that allows nothing, and errors that Matcher keeps.
            let mut first = matcher.clone();
            if first.is_stopped() && !first.is_error() {
                return Ok(matcher);
            }
            first.compute_mask().and_then(|_| matcher.is_accepting()).map(|_| matcher)
        })?;
        let state = State { matcher: fresh.clone(), consumed: Vec::new() };
        Ok(Guide { guides: self.clone(), fresh, state, start: None, thinking: None })
    }
}

/// Returns `true` if a text or a name of a schema has control characters that JSON spells by `\u` alone.
fn has_controls(schema: &serde_json::Value) -> bool {
    let spells = |text: &str| text.chars().any(|c| c < ' ' && !matches!(c, '\n' | '\r' | '\t' | '\u{8}' | '\u{c}'));
    match schema {
        serde_json::Value::String(text) => spells(text),
        serde_json::Value::Array(items) => items.iter().any(has_controls),
        serde_json::Value::Object(fields) => fields.iter().any(|(name, value)| spells(name) || has_controls(value)),
        _ => false,
    }
}

/// The grammar of a schema.
fn json_grammar(schema: &serde_json::Value) -> TopLevelGrammar {
    // Without `\u` a name is spelt in one way only: llguidance takes `\u0061` for another name than `a`. A schema with
    // control characters of its own cannot do without.
    let escapes = if has_controls(schema) { "nrbtf\\\"u" } else { "nrbtf\\\"" };
    let mut schema = schema.clone();
    if let serde_json::Value::Object(fields) = &mut schema {
        let options = serde_json::json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ", "json_allowed_escapes": escapes,
        });
        fields.insert("x-guidance".into(), options);
    }
    TopLevelGrammar::from_json_schema(schema)
}

impl std::fmt::Debug for Guides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guides").field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// A [`LogitProcessor`] that allows the texts of a grammar alone.
///
/// The constrained text begins at the end of the history when the guide is first asked, or at
/// [`starting_at`](Self::starting_at); in a conversation with each answer. The guide follows rewinds, forks and changes
/// of the history behind that. A clone is independent.
#[derive(Clone)]
pub struct Guide {
    guides: Guides,
    /// The grammar before its first token.
    fresh: Matcher,
    state: State,
    start: Option<usize>,
    /// Tokens around the model's thoughts.
    thinking: Option<[u32; 2]>,
}

#[derive(Clone)]
struct State {
    matcher: Matcher,
    /// The answer's tokens that the matcher has seen.
    consumed: Vec<u32>,
}

/// The part of the answer that the history has reached.
enum Part<'a> {
    /// The model may think, or answer at once.
    Begin,
    /// It thinks.
    Thought,
    /// It answers, and has said this much.
    Answer(&'a [u32]),
}

impl Guide {
    /// Constrains the tokens of the history from this position on; a shorter history is not constrained.
    pub fn starting_at(mut self, position: usize) -> Self {
        self.start = Some(position);
        self
    }

    /// Lets the model think first: from the token `open`, if that is the first it says, to the token `close`, it may
    /// say anything but an end. The grammar holds from there on, and from the start where it does not think.
    pub fn after_thinking(mut self, open: u32, close: u32) -> Self {
        self.thinking = Some([open, close]);
        self
    }

    /// The part that the history ends in.
    fn part<'a>(&self, said: &'a [u32]) -> Part<'a> {
        match (self.thinking, said) {
            (Some(_), []) => Part::Begin,
            (Some([open, close]), [first, thought @ ..]) if *first == open => match thought.iter().position(|t| *t == close) {
                Some(end) => Part::Answer(&thought[end + 1..]),
                None => Part::Thought,
            },
            _ => Part::Answer(said),
        }
    }

    /// The tokens that may follow an answer.
    fn allowed(&mut self, answer: &[u32]) -> anyhow::Result<TokenSet> {
        let vocab_size = self.guides.spelling.tokens.vocab_size();
        let mut allowed = TokenSet::none(vocab_size);
        let ended = answer.iter().position(|token| self.guides.ends.contains(token));
        let answer = &answer[..ended.unwrap_or(answer.len())];
        let advanced = self.advance(answer);
        if advanced.is_err() {
            // The matcher is of no use any more.
            self.state = State { matcher: self.fresh.clone(), consumed: Vec::new() };
        }
        advanced?;
        let matcher = &mut self.state.matcher;
        let over = ended.is_some() || matcher.is_stopped();
        if !over {
            let mask = matcher.compute_mask()?;
            allowed = TokenSet::from_words(vocab_size, mask.as_slice().to_vec());
            allowed.intersect(&self.guides.spelling.tokens);
        }
        if over || matcher.is_accepting()? {
            self.guides.ends.iter().for_each(|end| allowed.insert(*end));
        }
        Ok(allowed)
    }

    /// Brings the matcher to the end of an answer.
    fn advance(&mut self, answer: &[u32]) -> anyhow::Result<()> {
        if !answer.starts_with(&self.state.consumed) {
            self.state = State { matcher: self.fresh.clone(), consumed: Vec::new() };
        }
        for token in &answer[self.state.consumed.len()..] {
            let at = self.state.consumed.len();
            let refused = || format!("the answer's token {token} (its {at}th) is not what the grammar allows there");
            anyhow::ensure!(self.state.matcher.stop_reason() == StopReason::NotStopped, "{}", refused());
            self.state.matcher.consume_token(*token).with_context(refused)?;
            self.state.consumed.push(*token);
        }
        Ok(())
    }
}

impl LogitProcessor for Guide {
    fn name(&self) -> &str {
        "Guide"
    }

    fn begin(&mut self, history: usize) {
        self.start = Some(history);
    }

    fn process(&mut self, history: &[u32], changes: &mut LogitChanges) -> anyhow::Result<()> {
        let start = *self.start.get_or_insert(history.len());
        let Some(said) = history.get(start..) else { return Ok(()) };
        let mut allowed = match self.part(said) {
            Part::Thought => {
                // A model may have fewer tokens than its tokenizer.
                let vocab_size = changes.vocab_size();
                self.guides.ends.iter().filter(|end| (**end as usize) < vocab_size).for_each(|end| changes.ban(*end));
                return Ok(());
            }
            Part::Begin => {
                let mut allowed = self.allowed(&[])?;
                self.thinking.iter().for_each(|[open, _]| allowed.insert(*open));
                allowed
            }
            Part::Answer(answer) => self.allowed(answer)?,
        };
        // A model's vocabulary may be larger than the tokenizer's, or smaller.
        allowed.resize(changes.vocab_size());
        changes.allow_only(allowed);
        Ok(())
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide")
            .field("start", &self.start)
            .field("thinking", &self.thinking)
            .field("consumed", &self.state.consumed.len())
            .finish_non_exhaustive()
    }
}
