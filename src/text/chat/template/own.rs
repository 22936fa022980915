//! A model's own chat template.

use serde_json::{Value, json};

use super::super::layout::{EOS, media_id, trim};
use super::super::{ChatParser, Content, Medium, Message, Part as Said, Tool, ToolCall, parser};
use super::files::Sources;
use super::guard::{self, Guard, Markers, Part};
use super::{jinja, media};
use crate::text::Tokenizer;
use crate::{
    Error, Result,
    prompt::{Modality, Prompt},
};

/// How messages' texts are given to a template. One with a picture or sound is always a list.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Given {
    /// As a text.
    Text,
    /// As a list of one part with a text, as multimodal models have it.
    Parts,
}

/// A template that is followed.
#[derive(Debug)]
pub(super) struct OwnTemplate {
    sources: Sources,
    markers: Markers,
    content: Given,
    /// Tokens that end the model's turn.
    ends: Vec<u32>,
}

/// A conversation rendered: the text, and the same with marks in what messages hold.
struct Rendering {
    plain: String,
    marked: String,
    mark: String,
}

impl OwnTemplate {
    /// # Errors
    /// The reason why the template is unusable.
    pub(super) fn new(tokenizer: &Tokenizer, mut sources: Sources) -> Result<Self, String> {
        for source in [&mut sources.default, &mut sources.tool_use].into_iter().flatten() {
            // As Jinja reads it.
            *source = without_generation_blocks(&source.replace("\r\n", "\n").replace('\r', "\n"));
        }
        let all = [&sources.default, &sources.tool_use].map(|source| source.as_deref().unwrap_or_default()).concat();
        let markers = Markers::of(&all, tokenizer)?;
        Ok(Self { sources, markers, content: Given::Text, ends: Vec::new() })
    }

    /// The same, once a conversation shows how it takes texts and how it ends turns.
    ///
    /// # Errors
    /// The reason why the template is unusable.
    pub(super) fn probed(mut self, tokenizer: &Tokenizer) -> Result<Self, String> {
        let [question, answer] = ["a question", "an answer"];
        let user = [Message::user(question)];
        let mut rendered = self.rendered(&user, true);
        if !rendered.as_ref().is_ok_and(|text| text.contains(question)) {
            self.content = Given::Parts;
            let as_parts = self.rendered(&user, true);
            rendered = if as_parts.is_ok() { as_parts } else { rendered };
        }
        let asked = rendered.map_err(|problem| format!("it refuses a user's question in plain text: {problem}"))?;
        let before = asked.split(question).next().filter(|before| before.len() < asked.len());
        let before = before.ok_or("it leaves out what the user says")?;
        let bos = self.token("bos_token").and_then(|name| self.markers.id(name));
        let begins = self.marker_ids(before).into_iter().next_back().filter(|id| Some(*id) != bos);
        let talk = [Message::user(question), Message::model(answer), Message::user("another")];
        let answered = [&talk[..], &talk[..2]].into_iter().find_map(|talk| self.rendered(talk, false).ok());
        let after = |text: &str, said: &str| text.split_once(said).map(|(_, after)| after.to_string());
        let behind = match &answered {
            Some(answered) => after(answered, answer).ok_or("it leaves out what the model says")?,
            // For one question and no more: turns end as the user's does.
            None => after(&asked, question).unwrap_or_default(),
        };
        let ends = self.marker_ids(&behind).into_iter().next();
        let ends = ends.ok_or_else(|| {
            let shown: String = behind.chars().take(40).collect();
            format!(
                "{shown:?}, with which it ends the model's turn, has no token of the vocabulary that an answer could end with"
            )
        })?;
        self.ends = [Some(ends), begins, self.markers.id(EOS), tokenizer.special_id(EOS)].into_iter().flatten().collect();
        self.ends.sort_unstable();
        self.ends.dedup();
        Ok(self)
    }

    pub(super) fn origin(&self) -> &str {
        &self.sources.origin
    }

    pub(super) fn stop_tokens(&self) -> Vec<u32> {
        self.ends.clone()
    }

    /// Reads answers: their end, and the thoughts and calls of the families whose tokens the template knows.
    pub(super) fn parser(&self, tokenizer: &Tokenizer) -> ChatParser {
        let all = [&self.sources.default, &self.sources.tool_use].map(|source| source.as_deref().unwrap_or_default());
        let known = |name: &str| all.iter().any(|source| source.contains(name)).then(|| self.markers.id(name)).flatten();
        ChatParser::with_marks(parser::marks_of_template(&self.ends, known), tokenizer)
    }

    fn token(&self, variable: &str) -> Option<&str> {
        self.sources.tokens.get(variable).and_then(Value::as_str)
    }

    fn marker_ids(&self, text: &str) -> Vec<u32> {
        let ids = self.markers.parts(text).into_iter();
        ids.filter_map(|part| if let Part::Marker(id) = part { Some(id) } else { None }).collect()
    }

    /// The text of a conversation, or what the template says against it.
    pub(super) fn rendered(&self, messages: &[Message], open_turn: bool) -> Result<String, String> {
        let plain = self.run(messages, open_turn, |value| value.clone())?;
        Ok(self.with_bos(plain))
    }

    fn with_bos(&self, text: String) -> String {
        match self.token("bos_token") {
            Some(bos) if self.sources.bos_in_front && !text.starts_with(bos) => format!("{bos}{text}"),
            _ => text,
        }
    }

    /// Runs the template; `texts` changes what messages and tools hold.
    fn run(&self, messages: &[Message], open_turn: bool, texts: impl Fn(&Value) -> Value) -> Result<String, String> {
        let tools: Vec<Value> = messages.iter().flat_map(tools).map(|tool| texts(&tool)).collect();
        let for_tools = self.sources.tool_use.as_ref().filter(|_| !tools.is_empty());
        let source = for_tools.or(self.sources.default.as_ref()).ok_or("it has none for conversations without tools")?;
        let mut variables = self.sources.tokens.clone();
        let bytes = tools.iter().map(|tool| tool.to_string().len()).sum::<usize>() + messages.iter().map(size).sum::<usize>();
        let declared: Vec<Value> = tools.into_iter().map(|tool| json!({"type": "function", "function": tool})).collect();
        variables.insert("messages".into(), messages.iter().filter_map(|message| self.message(message, &texts)).collect());
        variables.insert("add_generation_prompt".into(), open_turn.into());
        variables.insert("tools".into(), if declared.is_empty() { Value::Null } else { declared.into() });
        variables.insert("documents".into(), Value::Null);
        if messages.iter().any(thinks) {
            if !source.contains("enable_thinking") {
                return Err("it cannot let the model think first; leave thinking out".into());
            }
            variables.insert("enable_thinking".into(), true.into());
        }
        jinja::render(source, &Value::Object(variables), messages.len(), bytes)
    }

    /// A message as transformers has it; `None` for instructions that say nothing but declare tools.
    fn message(&self, message: &Message, texts: &impl Fn(&Value) -> Value) -> Option<Value> {
        let text = |text: &str| texts(&Value::from(text));
        let content = |said: &str| match self.content {
            Given::Text => text(said),
            Given::Parts => json!([{"type": "text", "text": text(said)}]),
        };
        Some(match message {
            Message::System(first) if first.text.is_empty() && (first.thinking || !first.tools.is_empty()) => return None,
            Message::System(instructions) => json!({"role": "system", "content": content(&instructions.text)}),
            Message::User(said) if self.content == Given::Text && said.media().next().is_none() => {
                json!({"role": "user", "content": text(&said.text())})
            }
            Message::User(said) => json!({"role": "user", "content": parts(said, text)}),
            Message::Tool(given) => {
                let response = given.response.as_str().map_or_else(|| given.response.to_string(), str::to_string);
                json!({"role": "tool", "name": text(&given.name), "content": content(&response)})
            }
            Message::Model(turn) => {
                let mut fields = json!({"role": "assistant", "content": content(&turn.text)});
                if !turn.thought.is_empty() {
                    fields["reasoning_content"] = text(&turn.thought);
                }
                let call = |call: &ToolCall| {
                    let arguments = texts(&Value::Object(call.arguments.clone()));
                    json!({"type": "function", "function": {"name": text(&call.name), "arguments": arguments}})
                };
                if !turn.tool_calls.is_empty() {
                    fields["tool_calls"] = turn.tool_calls.iter().map(call).collect();
                }
                fields
            }
        })
    }

    pub(super) fn render(&self, messages: &[Message], open_turn: bool) -> Result<String> {
        self.checked(messages, open_turn).map(|rendering| rendering.plain)
    }

    pub(super) fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message], open_turn: bool) -> Result<Prompt> {
        let rendering = self.checked(messages, open_turn)?;
        let mut shown = media::of(messages).peekable();
        let places = if shown.peek().is_some() { media::places(&self.markers) } else { Vec::new() };
        let mut prompt = Prompt::new();
        let mut ids = Vec::new();
        let mut text = String::new();
        // Marks are in texts alone, so that what they are taken out of is plain text.
        for part in self.markers.parts(&rendering.marked) {
            match part {
                Part::Text(part) => text.push_str(&part.replace(&rendering.mark, "")),
                Part::Marker(id) => match places.iter().find(|(place, _)| *place == id).zip(shown.peek()) {
                    None => {
                        self.encode_onto(tokenizer, &mut text, &mut ids)?;
                        ids.push(id);
                    }
                    Some(((_, place), part)) => {
                        text.push_str(place.frame.around);
                        for (before, rows) in part.rows() {
                            let id = |name| media_id(tokenizer, name, rows.modality());
                            text.push_str(&before);
                            self.encode_onto(tokenizer, &mut text, &mut ids)?;
                            ids.push(id(place.frame.begin)?);
                            prompt.push(std::mem::take(&mut ids));
                            prompt.push(rows.clone());
                            ids.push(id(place.frame.end)?);
                        }
                        text.push_str(place.frame.around);
                        shown.next();
                    }
                },
            }
        }
        self.encode_onto(tokenizer, &mut text, &mut ids)?;
        prompt.push(ids);
        Ok(prompt)
    }

    /// Takes a text and appends its ids.
    fn encode_onto(&self, tokenizer: &Tokenizer, text: &mut String, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        tokenizer.encode_onto_without(&std::mem::take(text), self.markers.names(), self.markers.ids(), ids)
    }

    /// Renders a conversation with and without marks, and sees that nothing is lost and nothing becomes what it is not.
    fn checked(&self, messages: &[Message], open_turn: bool) -> Result<Rendering> {
        let chat = |problem: String| Error::Chat(format!("the model's chat template ({}) says: {problem}", self.origin()));
        if messages.is_empty() {
            return Err(Error::Chat("there is no message; a conversation starts with a user's".into()));
        }
        let plain = self.rendered(messages, open_turn).map_err(chat)?;
        for (number, message) in (1..).zip(messages) {
            let is_there = match message {
                Message::System(instructions) => plain.contains(trim(&instructions.text)),
                Message::User(said) => said.texts().all(|text| plain.contains(trim(text))),
                Message::Model(_) | Message::Tool(_) => true,
            };
            if !is_there {
                return Err(chat(format!("it leaves out message {number}, or rewrites it")));
            }
        }
        for tool in messages.iter().flat_map(tools) {
            let name = tool["name"].as_str().unwrap_or_default();
            if !plain.contains(name) {
                return Err(chat(format!("it leaves out the tool '{name}'")));
            }
        }
        let mark = guard::mark(&[&plain]);
        let guarded = |how: Guard| {
            let text = self.run(messages, open_turn, |value| self.markers.guard(value, &mark, how)).map_err(chat)?;
            Ok::<_, Error>(self.with_bos(text))
        };
        let marked = guarded(Guard::Names)?;
        if marked.replace(&mark, "") != plain {
            return Err(chat("it rewrites a message that spells its control tokens; rephrase the message".into()));
        }
        // A text that a template cuts may leave the name of a control token.
        let may_begin = messages.iter().any(|message| self.markers.may_begin_in(&format!("{message:?}")));
        if may_begin && self.marker_ids(&guarded(Guard::Beginnings)?) != self.marker_ids(&marked) {
            return Err(chat("it makes a control token of a message's text; rephrase the message".into()));
        }
        if !self.places_all(messages, &marked) {
            let problem = "it does not write one control token for each picture, sound and video, in their order; leave them out, \
                           or lay out turns by ChatTemplate::built_in";
            return Err(chat(problem.into()));
        }
        Ok(Rendering { plain, marked, mark })
    }

    /// True if a rendering has a place for each picture and sound, in their order, and no other.
    fn places_all(&self, messages: &[Message], marked: &str) -> bool {
        let wanted: Vec<Medium> = media::of(messages).filter_map(Said::medium).collect();
        if wanted.is_empty() {
            return true;
        }
        let places = media::places(&self.markers);
        let medium = |id: u32| places.iter().find(|(place, _)| *place == id).map(|(_, place)| place.medium);
        self.marker_ids(marked).into_iter().filter_map(medium).eq(wanted)
    }
}

/// What a user says and shows, as transformers has it.
fn parts(content: &Content, text: impl Fn(&str) -> Value) -> Value {
    let part = |part: &Said| match part {
        Said::Text(said) => json!({"type": "text", "text": text(said)}),
        Said::Soft(rows) if rows.modality() == Modality::Audio => json!({"type": "audio"}),
        Said::Soft(_) => json!({"type": "image"}),
        Said::Video(_) => json!({"type": "video"}),
    };
    content.parts().iter().map(part).collect()
}

/// The tools that a message declares, as transformers has them within `function`.
fn tools(message: &Message) -> Vec<Value> {
    let Message::System(instructions) = message else { return Vec::new() };
    let declared = |tool: &Tool| {
        let mut fields = json!({"name": tool.name, "description": tool.description});
        if !tool.parameters.is_null() {
            fields["parameters"] = tool.parameters.clone();
        }
        fields
    };
    instructions.tools.iter().map(declared).collect()
}

fn thinks(message: &Message) -> bool {
    matches!(message, Message::System(instructions) if instructions.thinking)
}

/// About how many bytes a message has.
fn size(message: &Message) -> usize {
    match message {
        Message::System(instructions) => instructions.text.len(),
        Message::User(content) => content.texts().map(str::len).sum(),
        Message::Tool(given) => given.response.to_string().len(),
        Message::Model(turn) => {
            let calls: usize = turn.tool_calls.iter().map(|call| Value::Object(call.arguments.clone()).to_string().len()).sum();
            turn.text.len() + turn.thought.len() + calls
        }
    }
}

/// A template without the tags that mark in transformers which part an assistant said: they say nothing to a reader.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let body = tag.trim_start_matches(['-', '+']);
        let sign = &tag[..tag.len() - body.len()];
        let word = body.trim_start();
        let plain = [("endgeneration", "endif"), ("generation", "if true")].into_iter().find(|(name, _)| {
            word.strip_prefix(name).is_some_and(|after| after.trim_start().trim_start_matches(['-', '+']).starts_with("%}"))
        });
        if let Some((name, plain)) = plain {
            out.push_str(sign);
            out.push_str(&format!(" {plain} "));
            rest = &word[name.len()..];
        }
    }
    out + rest
}
