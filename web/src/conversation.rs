//! One conversation with a model.

use std::{cell::OnceCell, rc::Rc};

use gemmaflow::{
    audio::{Audio, AudioLimits},
    conversation::{Event, FinishReason},
    generate::{CancelToken, SampleHooks},
    guide::Guides,
    image::{Image, ImageLimits},
    text::{Content, Message, Part},
};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

use crate::{
    Cancel, Fault,
    options::{self, Answering},
    to_js,
};

#[wasm_bindgen]
pub struct Conversation {
    conversation: gemmaflow::Conversation,
    guides: Rc<OnceCell<Guides>>,
    answering: Answering,
}

impl Conversation {
    pub(crate) fn new(model: &gemmaflow::Model, guides: Rc<OnceCell<Guides>>, answering: Answering) -> Result<Self, Fault> {
        let mut new = Self { conversation: model.conversation()?, guides, answering: Answering::default() };
        new.answer_as(answering)?;
        Ok(new)
    }

    fn answer_as(&mut self, answering: Answering) -> Result<(), Fault> {
        if answering.schema != self.answering.schema {
            let hooks = answering.schema.as_ref().map(|schema| self.guided(schema)).transpose()?;
            self.conversation.set_hooks(hooks);
        }
        let recommended = self.conversation.model().recommended_sampling();
        self.conversation.set_options(answering.options(recommended));
        self.answering = answering;
        Ok(())
    }

    /// Hooks that allow what fulfils the schema alone.
    fn guided(&self, schema: &Value) -> Result<SampleHooks, Fault> {
        let guides = match self.guides.get() {
            Some(guides) => guides,
            None => {
                let model = self.conversation.model();
                let mut ends = model.config().eos_token_ids.clone();
                ends.extend(model.chat_template().stop_tokens(model.tokenizer()));
                ends.sort_unstable();
                ends.dedup();
                let made = Guides::new(model.tokenizer(), &ends)?;
                self.guides.get_or_init(|| made)
            }
        };
        Ok(SampleHooks::new().with_processor(guides.json_schema(&schema.to_string())?))
    }

    /// A part of a message: pictures and sounds as the towers make them.
    async fn part(&self, part: JsValue, cancel: &CancelToken) -> Result<Part, Fault> {
        let field = |name: &str| js_sys::Reflect::get(&part, &name.into());
        let kind = field("type")?.as_string().unwrap_or_default();
        let data = || Ok::<_, Fault>(js_sys::Uint8Array::new(&field("data")?).to_vec());
        let model = self.conversation.model();
        match kind.as_str() {
            "text" => {
                let text = field("text")?.as_string();
                Ok(Part::Text(text.ok_or_else(|| Fault::input("a part of type 'text' has no text"))?))
            }
            "image" => {
                let image = Image::from_bytes(&data()?, &ImageLimits::default())?;
                Ok(Part::Soft(model.vision_async(cancel).await?.encode_async(&image).await?))
            }
            "audio" => {
                let clip = Audio::from_bytes(&data()?, &AudioLimits::default())?;
                Ok(Part::Soft(model.hearing_async(cancel).await?.encode_async(&clip).await?))
            }
            other => Err(Fault::input(format!("a part has type '{other}', expected 'text', 'image' or 'audio'"))),
        }
    }
}

#[wasm_bindgen]
impl Conversation {
    /// Changes the options, from the next answer on.
    #[wasm_bindgen(js_name = setOptions)]
    pub fn set_options(&mut self, options: JsValue) -> Result<(), Fault> {
        self.answer_as(options::read(&options)?)
    }

    /// Says something, a text or an array of parts, and opens the answer, which ends when `cancel` is cancelled.
    pub async fn send(&mut self, content: JsValue, cancel: &Cancel) -> Result<(), Fault> {
        let content = match content.as_string() {
            Some(text) => Content::from(text),
            None => {
                let mut parts = Vec::new();
                for part in js_sys::Array::from(&content).iter() {
                    parts.push(self.part(part, &cancel.token()).await?);
                }
                Content::from(parts)
            }
        };
        if let Some(system) = self.answering.system.as_ref().filter(|_| self.conversation.messages().is_empty()) {
            self.conversation.push(Message::system(system))?;
        }
        self.conversation.send(content)?;
        cancel.ends(self.conversation.cancel_token());
        Ok(())
    }

    /// The next event of the answer; `undefined` after its end.
    pub async fn next(&mut self) -> Result<JsValue, Fault> {
        match self.conversation.next_event_async().await? {
            Some(event) => to_js(&plain(event)),
            None => Ok(JsValue::UNDEFINED),
        }
    }

    /// The messages so far.
    pub fn messages(&self) -> Result<JsValue, Fault> {
        let plain = |message: &Message| match message {
            Message::System(instructions) => json!({ "role": "system", "text": instructions.text }),
            Message::User(content) => json!({ "role": "user", "text": content.text() }),
            Message::Model(turn) => json!({ "role": "model", "text": turn.text }),
            Message::Tool(response) => json!({ "role": "tool", "text": response.response.to_string() }),
        };
        to_js(&self.conversation.messages().iter().map(plain).collect())
    }
}

/// An event as JavaScript has it.
fn plain(event: Event) -> Value {
    match event {
        Event::Prompt { done, total } => json!({ "type": "prompt", "done": done, "total": total }),
        Event::Text(text) => json!({ "type": "text", "text": text }),
        Event::Thought(text) => json!({ "type": "thought", "text": text }),
        Event::ToolCall(call) => json!({ "type": "toolCall", "name": call.name, "arguments": call.arguments }),
        Event::BrokenToolCall { text, problem } => json!({ "type": "brokenToolCall", "text": text, "problem": problem }),
        Event::End { finish_reason, usage } => {
            let reason = match finish_reason {
                FinishReason::ToolResponse => "toolResponse",
                FinishReason::Stop(_) => "stop",
                FinishReason::Length => "length",
                FinishReason::Cancelled => "cancelled",
                _ => "turn",
            };
            let tokens = json!({
                "promptTokens": usage.prompt_tokens,
                "cachedTokens": usage.cached_tokens,
                "completionTokens": usage.completion_tokens,
            });
            json!({ "type": "end", "reason": reason, "usage": tokens })
        }
        _ => json!({ "type": "text", "text": "" }),
    }
}
