//! Decode with a drafter beside decode without one, in turns.

use anyhow::{Result, bail};
use gemmaflow::generate::{Drafter, GemmaGenerator};
use serde_json::json;

use crate::{Arguments, common, tokens};

pub fn run(name: &str, plain: GemmaGenerator, drafter: Drafter, arguments: &Arguments) -> Result<()> {
    let drafter = match arguments.drafted {
        Some(count) => drafter.with_tokens(count)?,
        None => drafter,
    };
    let most = drafter.tokens();
    let drafting = plain.share_weights()?.with_drafter(drafter)?;
    let (vocab, prompt) = (plain.config().vocab_size, arguments.prompt[0]);
    let mut generators = [plain, drafting];
    let raced = common::race(&mut generators, &tokens(prompt, 0, vocab), arguments.generated, arguments.reps)?;
    if raced[0].tokens != raced[1].tokens {
        bail!("the drafter changed the text");
    }
    let stats = generators[1].draft_stats();
    let per_run = (stats.accepted + stats.runs) as f64 / stats.runs.max(1) as f64;
    let (before, after) = (raced[0].rate, raced[1].rate);
    if arguments.json {
        let report = json!({
            "model": name, "adapter": generators[0].stats().device, "prompt": prompt, "gen": arguments.generated, "drafted_at_once": most,
            "decode_tokens_per_s": before, "with_drafter_tokens_per_s": after, "ratio": after / before,
            "acceptance": stats.acceptance(), "tokens_per_run": per_run,
        });
        return Ok(common::print(&format!("{report}\n"))?);
    }
    let taken = stats.acceptance() * 100.0;
    Ok(common::print(&format!(
        "{name} on {}, greedy, {} tokens after {prompt}, medians of {}\n\
         decode               {before:8.2} tokens/s\n\
         with {most:2} tokens tried {after:8.2} tokens/s, {:.2} times as fast\n\
         taken                {taken:8.0} % of the tokens tried, {per_run:.2} tokens a run\n",
        generators[0].stats().device,
        arguments.generated,
        arguments.reps,
        after / before,
    ))?)
}
