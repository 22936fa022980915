//! Refuses grammars with a part that can be begun and not ended.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use llguidance::{
    api::ParserLimits,
    earley::{
        CGrammar, CSymIdx, Grammar,
        lexerspec::{LexemeIdx, LexerSpec},
        regexvec::{LexemeSet, RegexVec},
    },
    toktrie::TokTrie,
};

use crate::generate::TokenSet;

/// The texts that a vocabulary can spell.
pub(super) struct Spelling {
    /// Tokens that have a text.
    pub(super) tokens: TokenSet,
    /// Texts of one byte or one character each, of which all texts can be made.
    units: Vec<Vec<u8>>,
    /// True if there is a token for every byte.
    is_whole: bool,
}

/// Most states that are looked at of one terminal: llguidance knows of larger ones that none is a dead end, but where
/// bytes are lacking.
const MOST_STATES: usize = 2_000;
const MOST_STATES_WITHOUT_BYTES: usize = 20_000;
/// Most that llguidance may count for a terminal's derivatives; as much as it allows a step.
const FUEL: u64 = 200_000;

impl Spelling {
    /// Of tokens by their bytes.
    pub(super) fn of(tokens: TokenSet, words: &[Vec<u8>]) -> Self {
        let is_char = |word: &[u8]| std::str::from_utf8(word).is_ok_and(|text| text.chars().count() == 1);
        let mut units: Vec<Vec<u8>> = words.iter().filter(|word| word.len() == 1 || is_char(word)).cloned().collect();
        units.sort_unstable();
        units.dedup();
        let is_whole = units.iter().filter(|unit| unit.len() == 1).count() == 256;
        if is_whole {
            units.retain(|unit| unit.len() == 1);
        }
        Self { tokens, units, is_whole }
    }
}

/// Refuses a grammar with a rule that no text fulfils, or no text that the vocabulary can spell: once begun it could
/// not end.
pub(super) fn check(grammar: &Grammar, lexemes: &LexerSpec, limits: &ParserLimits, spelling: &Spelling) -> Result<()> {
    let grammar = grammar.optimize().compile(lexemes.clone(), limits)?;
    let mut regexes = lexemes.to_regex_vec(&mut limits.clone())?;
    let symbols = reachable(&grammar);
    let mut productive: HashMap<usize, bool> = HashMap::with_capacity(symbols.len());
    for symbol in &symbols {
        let data = grammar.sym_data(*symbol);
        let at_once = match data.lexeme {
            Some(lexeme) if data.is_terminal => can_be_spelled(lexeme, lexemes, &mut regexes, spelling)?,
            _ => data.is_nullable || !data.cond_nullable.is_empty(),
        };
        productive.insert(symbol.as_index(), at_once);
    }
    loop {
        let mut changed = false;
        // Symbols that are found last are used by those that are found first.
        for symbol in symbols.iter().rev().filter(|symbol| !grammar.sym_data(**symbol).is_terminal) {
            let done = productive[&symbol.as_index()];
            let mut rules = grammar.rules_of(*symbol).iter().map(|rule| grammar.rule_rhs(*rule).0);
            if !done && rules.any(|parts| parts.iter().all(|part| productive[&part.as_index()])) {
                productive.insert(symbol.as_index(), true);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let barren: Vec<&str> = symbols
        .iter()
        .filter(|symbol| !productive[&symbol.as_index()])
        .map(|symbol| grammar.sym_data(*symbol).name.as_str())
        .collect();
    // References of a schema are names that its author knows.
    let named = barren.iter().find(|name| **name == "#" || name.starts_with("#/"));
    let named = named.map_or(String::new(), |name| format!(" '{name}'"));
    ensure!(barren.is_empty(), "some text could be begun and not ended, as nothing fulfils a part of it{named}");
    Ok(())
}

/// The symbols that texts of the grammar may have, its start first.
fn reachable(grammar: &CGrammar) -> Vec<CSymIdx> {
    let mut found = vec![grammar.start()];
    let mut known: std::collections::HashSet<usize> = found.iter().map(CSymIdx::as_index).collect();
    let mut next = 0;
    while next < found.len() {
        for rule in grammar.rules_of(found[next]) {
            found.extend(grammar.rule_rhs(*rule).0.iter().filter(|part| known.insert(part.as_index())));
        }
        next += 1;
    }
    found
}

/// Returns `true` if tokens can spell a terminal, whichever way they begin it.
fn can_be_spelled(lexeme: LexemeIdx, lexemes: &LexerSpec, regexes: &mut RegexVec, spelling: &Spelling) -> Result<bool> {
    let mut alone = LexemeSet::new(lexemes.lexemes.len());
    alone.add(lexeme);
    let initial = regexes.initial_state(&alone);
    if initial.is_dead() {
        return Ok(false);
    }
    if !regexes.transition(initial, TokTrie::SPECIAL_TOKEN_MARKER).is_dead() {
        // Tokens by their numbers.
        let terminal = lexemes.lexeme_spec(lexeme);
        return Ok(spelling.tokens.iter().any(|token| terminal.contains_token(token)));
    }
    // Derivatives of a large terminal are large themselves: their sizes count, not their number alone.
    regexes.set_fuel(FUEL);
    let mut states = vec![initial];
    let mut numbers = HashMap::from([(initial, 0)]);
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let mut next = 0;
    while next < states.len() {
        for unit in &spelling.units {
            if regexes.has_error() {
                break;
            }
            let to = unit.iter().fold(states[next], |state, byte| regexes.transition(state, *byte));
            if to.is_dead() {
                continue;
            }
            let number = *numbers.entry(to).or_insert(states.len());
            if number == states.len() {
                states.push(to);
                before.push(Vec::new());
            }
            before[number].push(next);
        }
        let most = if spelling.is_whole { MOST_STATES } else { MOST_STATES_WITHOUT_BYTES };
        if states.len() > most || regexes.has_error() {
            ensure!(spelling.is_whole, "a terminal is too large for a vocabulary that lacks bytes");
            return Ok(true);
        }
        next += 1;
    }
    let mut ends: Vec<usize> =
        (0..states.len()).filter(|state| regexes.state_desc(states[*state]).greedy_accepting.is_some()).collect();
    let mut ending = vec![false; states.len()];
    while let Some(state) = ends.pop() {
        if !std::mem::replace(&mut ending[state], true) {
            ends.extend(&before[state]);
        }
    }
    Ok(ending.iter().all(|ends| *ends))
}
