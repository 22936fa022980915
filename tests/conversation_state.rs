//! What conversations are made of: forks and bookmarks, saved ones, kept prompts, full contexts, recovery, threads,
//! steps together.

#[path = "common/talk.rs"]
mod talk;

use gemmaflow::{
    Error,
    conversation::{AnswerOptions, Conversation, Event, FinishReason, Model, Overflow},
    generate::{GeneratorOptions, MemoryPlan, SampleHooks, SampleOpts, Sampler},
    runtime::{Device, GpuOptions, Opened},
    text::Message,
};
use talk::{conversation, devices, end, events, events_of, greedy, open, text};

#[test]
fn a_fork_goes_on_beside_the_original_and_a_bookmark_leads_back() {
    for device in devices() {
        let model = open(&device, GeneratorOptions::default());
        let mut first = conversation(&model, 16);
        first.send("Who goes there?").unwrap();
        let start = first.bookmark();
        events_of(&mut first, 6);
        // In the middle of an answer.
        let mut second = first.fork().unwrap();
        let (a, b) = (text(&events(&mut first)), text(&events(&mut second)));
        assert_eq!(a, b, "{device}");
        assert_eq!(first.messages(), second.messages());
        second.send("A friend.").unwrap();
        events(&mut second);
        assert_eq!((first.messages().len(), second.messages().len()), (2, 4));
        let after = first.bookmark();
        first.send("Stand, ho!").unwrap();
        let answer = text(&events(&mut first));
        first.rewind(&after);
        assert_eq!(first.messages().len(), 2);
        first.send("Stand, ho!").unwrap();
        let told = events(&mut first);
        assert_eq!(text(&told), answer, "{device}");
        assert_eq!(end(&told).1.cached_tokens, end(&told).1.prompt_tokens - 1, "{device}: nothing is computed again");
        first.rewind(&start);
        assert_eq!(first.messages().len(), 1, "the user's message came before the bookmark");
    }
}

#[test]
fn a_saved_conversation_goes_on_in_the_middle_of_an_answer() {
    for device in devices() {
        let model = open(&device, GeneratorOptions::default());
        let mut original = conversation(&model, 30);
        original.push(Message::system("Speak as a king.")).unwrap();
        original.send("Who goes there?").unwrap();
        let told = text(&events_of(&mut original, 8));
        let mut bytes = Vec::new();
        original.save(&mut bytes).unwrap();
        let rest = events(&mut original);
        for other in devices() {
            let model = open(&other, GeneratorOptions::default());
            let mut restored = model.restore(&bytes[..]).unwrap();
            let gone_on = events(&mut restored);
            assert_eq!(text(&gone_on), text(&rest), "{device} to {other}: after {told:?}");
            assert_eq!(end(&gone_on), end(&rest));
            assert_eq!((restored.messages(), restored.options()), (original.messages(), original.options()));
        }
        for len in (0..bytes.len()).step_by(bytes.len() / 150) {
            assert!(matches!(model.restore(&bytes[..len]), Err(Error::Saved(_))), "cut at {len}");
            let mut wrong = bytes.clone();
            wrong[len] ^= 16;
            assert!(matches!(model.restore(&wrong[..]), Err(Error::Saved(_))), "changed at {len}");
        }
    }
}

#[test]
fn a_prompt_that_begins_as_an_earlier_one_is_not_computed_again() {
    for device in devices() {
        let model = open(&device, GeneratorOptions::default());
        let system = "You are a courtier of King Henry, and answer in blank verse. ".repeat(8);
        let ask = |question: &str| {
            let mut conversation = conversation(&model, 12);
            conversation.push(Message::system(system.as_str())).unwrap();
            conversation.send(question).unwrap();
            let told = events(&mut conversation);
            (text(&told), end(&told).1)
        };
        let (_, first) = ask("Who goes there?");
        assert_eq!(first.cached_tokens, 0);
        let (answer, second) = ask("Where is the Duke of York?");
        assert!(second.cached_tokens > 100 && second.cached_tokens < second.prompt_tokens, "{device}: {second:?}");
        assert!(model.kept_prompt_bytes() > 0);
        model.keep_prompts(0);
        assert_eq!(model.kept_prompt_bytes(), 0);
        let (anew, third) = ask("Where is the Duke of York?");
        assert_eq!((anew, third.cached_tokens), (answer, 0), "{device}");
    }
}

#[test]
fn drawn_text_is_the_same_with_and_without_a_kept_prompt() {
    let options = GeneratorOptions { deterministic: true, ..GeneratorOptions::default() };
    let model = open(&Device::Gpu, options);
    let ask = |question: &str| {
        let sampling = SampleOpts::temperature(1.3, 11);
        let options = AnswerOptions { sampling, max_tokens: Some(40), ..AnswerOptions::default() };
        let mut conversation = model.conversation().unwrap().with_options(options);
        conversation.push(Message::system("You are a courtier of King Henry. ".repeat(5))).unwrap();
        conversation.send(question).unwrap();
        let told = events(&mut conversation);
        (text(&told), end(&told).1.cached_tokens)
    };
    let (alone, none) = ask("Where is the Duke of York?");
    model.keep_prompts(64 << 20);
    ask("Who goes there?");
    let (after, cached) = ask("Where is the Duke of York?");
    assert_eq!((none, after), (0, alone));
    assert!(cached > 30, "{cached}");
}

#[test]
fn a_full_context_ends_the_answer_or_forgets_the_oldest() {
    for device in devices() {
        let options = || GeneratorOptions { context: Some(96), ..GeneratorOptions::default() };
        let model = open(&device, options());
        let mut strict = conversation(&model, 500);
        strict.send("Who goes there?").unwrap();
        let told = events(&mut strict);
        let (finish_reason, usage) = end(&told);
        assert_eq!((finish_reason, usage.prompt_tokens + usage.completion_tokens), (FinishReason::Length, 96), "{device}");
        assert!(strict.next_event().unwrap().is_none(), "{device}: it is over");
        assert_eq!(strict.tokens().len(), 96);
        let Some(Message::Model(turn)) = strict.messages().last() else { panic!("{device}: it answered") };
        assert_eq!(turn.text, text(&told), "{device}: what was said stays");
        let before = strict.messages().to_vec();
        assert!(matches!(strict.send("And now?"), Err(Error::ContextFull { .. })));
        assert_eq!(strict.messages(), before, "nothing was said");

        let mut forgetful = model.conversation().unwrap();
        forgetful.push(Message::system("Be brief.")).unwrap();
        for turn in 0..8 {
            let options = AnswerOptions { overflow: Overflow::Forget, ..greedy(20) };
            forgetful.set_options(options);
            forgetful.send(format!("Question {turn}: where is the king?")).unwrap();
            let (_, usage) = end(&events(&mut forgetful));
            assert!(usage.prompt_tokens + usage.completion_tokens <= 96, "{device}: {usage:?}");
        }
        assert_eq!(forgetful.messages().len(), 17, "the caller still has them all");
        // In the middle of an answer too: of text the oldest half goes.
        let mut story = model.conversation().unwrap();
        story.set_options(AnswerOptions { overflow: Overflow::Forget, ..greedy(300) });
        story.write("ROMEO:\n").unwrap();
        story.answer().unwrap();
        let told = events(&mut story);
        assert!(end(&told).1.completion_tokens > 96, "{device}");
        assert!(story.used() <= 96);
    }
}

#[test]
fn conversations_follow_their_model_to_another_device() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let mut undisturbed = conversation(&model, 40);
    undisturbed.send("Who goes there?").unwrap();
    let expected = text(&events(&mut undisturbed));
    let mut conversation = conversation(&model, 40);
    conversation.send("Who goes there?").unwrap();
    let mut told = text(&events_of(&mut conversation, 10));
    for device in [Device::Cpu, Device::Gpu] {
        model.recover(device).unwrap();
        told += &text(&events_of(&mut conversation, 5));
    }
    told += &text(&events(&mut conversation));
    assert_eq!(told, expected);
    assert!(!undisturbed.messages().is_empty());
    undisturbed.send("A friend.").unwrap();
    assert!(!text(&events(&mut undisturbed)).is_empty());
}

#[test]
fn conversations_of_many_threads_are_those_of_one() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let ask = |model: &Model, number: usize| {
        let sampling = SampleOpts::temperature(1.0, number as u64);
        let options = AnswerOptions { sampling, max_tokens: Some(25), ..AnswerOptions::default() };
        let mut conversation = model.conversation().unwrap().with_options(options);
        conversation.send(format!("Question {number}: who is king?")).unwrap();
        text(&events(&mut conversation))
    };
    let expected: Vec<String> = (0..6).map(|number| ask(&model, number)).collect();
    let found: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|number| (number, model.clone())).collect();
        let threads: Vec<_> = threads.into_iter().map(|(n, model)| scope.spawn(move || ask(&model, n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(found, expected);
}

#[test]
fn conversations_in_steps_together_say_what_they_say_alone() {
    for device in devices() {
        let model = open(&device, GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() });
        model.keep_prompts(0);
        let asked = |number: usize| {
            let mut conversation = conversation(&model, 10 + 3 * number);
            conversation.send("Speak. ".repeat(1 + 5 * number)).unwrap();
            conversation
        };
        let expected: Vec<String> = (0..5).map(|number| text(&events(&mut asked(number)))).collect();
        let mut waiting: Vec<usize> = (0..5).rev().collect();
        let mut all: Vec<(usize, Conversation, Vec<Event>)> = Vec::new();
        let mut ended = 0;
        // They come one by one and go when they have ended.
        while ended < 5 {
            all.extend(waiting.pop().map(|number| (number, asked(number), Vec::new())));
            let mut conversations: Vec<&mut Conversation> = all.iter_mut().map(|(_, conversation, _)| conversation).collect();
            for (outcome, (_, _, told)) in model.step(&mut conversations).into_iter().zip(&mut all) {
                told.extend(outcome.unwrap());
            }
            all.retain(|(number, conversation, told)| {
                let over = matches!(told.last(), Some(Event::End { .. }));
                if over {
                    assert_eq!(text(told), expected[*number], "{device} {number}");
                    assert!(conversation.messages().len() == 2);
                    ended += 1;
                }
                !over
            });
        }
    }
}

#[test]
fn a_conversation_is_saved_before_its_first_answer() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let mut original = conversation(&model, 12);
    original.push(Message::system("Speak as a king.")).unwrap();
    let mut bytes = Vec::new();
    original.save(&mut bytes).unwrap();
    let mut restored = model.restore(&bytes[..]).unwrap();
    for conversation in [&mut original, &mut restored] {
        conversation.send("Who goes there?").unwrap();
    }
    assert_eq!(text(&events(&mut restored)), text(&events(&mut original)));
    let mut empty = Vec::new();
    model.conversation().unwrap().save(&mut empty).unwrap();
    assert!(model.restore(&empty[..]).unwrap().messages().is_empty());
}

#[test]
fn options_change_with_the_next_token() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let mut one = conversation(&model, 30);
    one.send("Who goes there?").unwrap();
    events_of(&mut one, 6);
    let mut other = one.fork().unwrap();
    let sampling = SampleOpts::temperature(1.5, 3);
    for conversation in [&mut one, &mut other] {
        conversation.set_options(AnswerOptions { sampling, ..greedy(30) });
    }
    assert_eq!(text(&events(&mut one)), text(&events(&mut other)), "nothing was under way in the fork");
}

#[test]
fn a_bookmark_of_text_is_found_after_its_beginning_was_forgotten() {
    let model = open(&Device::Gpu, GeneratorOptions { context: Some(96), ..GeneratorOptions::default() });
    let mut story = model.conversation().unwrap().with_options(AnswerOptions { overflow: Overflow::Forget, ..greedy(60) });
    story.write("ROMEO:\n").unwrap();
    story.answer().unwrap();
    events(&mut story);
    let (bookmark, before) = (story.bookmark(), story.used());
    story.answer().unwrap();
    events(&mut story);
    assert!(story.used() < before + 60, "something was forgotten");
    let rest = story.tokens().to_vec();
    story.rewind(&bookmark);
    assert!(story.used() < before, "what was forgotten stays so");
    story.answer().unwrap();
    assert!(rest.starts_with(story.tokens()), "the text up to the bookmark, without what was forgotten");
}

#[test]
fn text_goes_on_behind_what_was_said_and_not_behind_a_stop_text() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let mut plain = conversation(&model, 40);
    plain.write("ROMEO:\n").unwrap();
    plain.answer().unwrap();
    let whole = text(&events(&mut plain));
    let stop = whole.chars().skip(20).take(3).collect::<String>();
    let at = whole.find(&stop).unwrap();
    let mut stopped = model.conversation().unwrap().with_options(AnswerOptions { stop: vec![stop], ..greedy(40) });
    stopped.write("ROMEO:\n").unwrap();
    stopped.answer().unwrap();
    events(&mut stopped);
    stopped.write("!").unwrap();
    stopped.answer().unwrap();
    let seen = model.tokenizer().decode(stopped.tokens()).unwrap();
    assert_eq!(seen, format!("ROMEO:\n{}!", &whole[..at]));
}

#[test]
fn a_model_under_a_budget_has_one_cache_a_conversation() {
    let context = match Device::Gpu.open(&GpuOptions::default()).unwrap() {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    };
    let options = |budget| GeneratorOptions { context: Some(512), memory_budget: budget, ..GeneratorOptions::default() };
    let config = gemmaflow::gemma::GemmaConfig::from_file(talk::DEMO).unwrap();
    let mut loader = gemmaflow::checkpoint::load_from_path(talk::DEMO).unwrap();
    let plan = MemoryPlan::for_options(config, loader.as_mut(), context.capabilities(), &options(Some(1 << 30))).unwrap();
    let model = Model::open(talk::DEMO, Device::Context(context.clone()), options(Some(plan.peak()))).unwrap();
    let mut conversation = conversation(&model, 8);
    conversation.send("Who goes there?").unwrap();
    events(&mut conversation);
    context.wait_idle("a test").unwrap();
    context.release_staging();
    let live = context.counters().snapshot().bytes_live;
    assert!(live <= plan.peak(), "{live} bytes of {}", plan.peak());
}

#[test]
fn more_room_for_prompts_keeps_those_that_are_there() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let mut conversation = conversation(&model, 4);
    conversation.send("Who goes there? ".repeat(6)).unwrap();
    events(&mut conversation);
    let kept = model.kept_prompt_bytes();
    model.keep_prompts(512 << 20);
    assert_eq!(model.kept_prompt_bytes(), kept);
    model.keep_prompts(kept - 1);
    assert!(kept > 0 && model.kept_prompt_bytes() == 0);
}

/// A sampler that recovers the model while a conversation of the old device is at work.
struct Recovers(Option<Model>);

impl Sampler for Recovers {
    fn name(&self) -> &str {
        "recovers"
    }

    fn choose(&mut self, _: &[f32], _: &[u32]) -> anyhow::Result<u32> {
        self.0.take().map_or(Ok(()), |model| model.recover(Device::Cpu))?;
        Ok(700)
    }
}

#[test]
fn a_prompt_of_the_device_before_a_recovery_is_not_kept() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let before = model.gpu().unwrap();
    let hooks = SampleHooks::new().with_sampler(Recovers(Some(model.clone())));
    let mut first = conversation(&model, 4).with_hooks(hooks);
    first.send("Who goes there? ".repeat(6)).unwrap();
    events(&mut first);
    assert_eq!(model.kept_prompt_bytes(), 0);
    let mut second = conversation(&model, 4);
    second.send("Who goes there? ".repeat(6)).unwrap();
    let submits = before.counters().snapshot().submits;
    events(&mut second);
    assert_eq!(before.counters().snapshot().submits, submits, "it runs on the new device");
}

#[test]
fn the_parts_of_a_prompt_are_told_once() {
    let model = open(&Device::Gpu, GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() });
    let mut conversation = conversation(&model, 2);
    conversation.send("Speak, or I shall call the watch. ".repeat(6)).unwrap();
    let told = events(&mut conversation);
    let parts: Vec<usize> =
        told.iter().filter_map(|event| if let Event::Prompt { done, .. } = event { Some(*done) } else { None }).collect();
    assert!(parts.len() > 3 && parts.windows(2).all(|pair| pair[0] < pair[1]), "{parts:?}");
}
