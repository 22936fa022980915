//! Nothing of the crate writes to stdout or stderr: this program starts itself and listens while a model is loaded,
//! asked, cancelled and given what it cannot do.

use std::{
    ops::ControlFlow,
    path::Path,
    process::{Command, Stdio},
};

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    error::{CallbackError, DeviceError, PromptError},
    gemma::GemmaConfig,
    generate::{Drafter, GemmaGenerator, GeneratorOptions, LogitBias, SampleHooks, SampleOpts},
    guide::Guides,
    runtime::{Device, GpuOptions},
    text::Tokenizer,
};

/// The child's part.
const WORK: &str = "--work";
/// As [`WORK`], and writes where it should not.
const WRITE: [&str; 2] = ["--write-to-stdout", "--write-to-stderr"];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(WORK) => work(),
        Some(part) if part == WRITE[0] => println!(),
        Some(part) if part == WRITE[1] => eprint!(" "),
        // What test runners ask of a harness before they run it.
        Some("--list") => {}
        _ => {
            listen(WORK).unwrap_or_else(|heard| panic!("the crate writes: {heard}"));
            // The listener is not deaf.
            WRITE.iter().for_each(|part| assert!(listen(part).is_err(), "{part} was not heard"));
            println!("silence: ok");
        }
    }
}

/// Runs a part in a process of its own; an error is what it wrote.
fn listen(part: &str) -> Result<(), String> {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).arg(part).stdin(Stdio::null()).output().expect("started");
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    if output.status.success() && out.is_empty() && err.is_empty() {
        Ok(())
    } else {
        Err(format!("{} {out:?} {err}", output.status))
    }
}

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))
}

fn work() {
    let tokenizer = Tokenizer::from_file(demo()).unwrap();
    let prompt = tokenizer.encode("ROMEO:\nBut soft, what light", true).unwrap();
    for device in [Device::Gpu, Device::Cpu] {
        let mut generator = load(&device, GeneratorOptions { context: Some(80), ..GeneratorOptions::default() }).unwrap();
        use_all(&mut generator, &tokenizer, &prompt);
        mistakes(&device, &mut generator, &tokenizer);
    }
    for path in ["/no/such/folder", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")] {
        assert!(load_from_path(path).is_err() && Tokenizer::from_file(path).is_err() && GemmaConfig::from_file(path).is_err());
    }
    assert!(matches!(
        Device::Named("no such adapter".into()).open(&GpuOptions::default()),
        Err(Error::Device(DeviceError::NoAdapter(_)))
    ));
}

fn load(device: &Device, options: GeneratorOptions) -> gemmaflow::Result<GemmaGenerator> {
    let config = GemmaConfig::from_file(demo()).unwrap();
    GemmaGenerator::with_options(config, load_from_path(demo()).unwrap().as_mut(), device.clone(), options)
}

fn use_all(generator: &mut GemmaGenerator, tokenizer: &Tokenizer, prompt: &[u32]) {
    for opts in
        [SampleOpts::greedy(), SampleOpts::temperature(0.8, 1), SampleOpts::temperature(0.8, 1).with_repetition_penalty(1.2)]
    {
        generator.prefill(prompt).unwrap();
        let new = generator.generate_cached(8, &opts).unwrap();
        assert!(!tokenizer.decode(&new).unwrap().is_empty());
        let mut hooks = SampleHooks::new().with_processor(LogitBias::new().with(5, 1.0).banning([6])).with_logprobs(3);
        generator.generate_hooked(4, &opts, &mut hooks, |_| ControlFlow::Continue(())).unwrap();
    }
    let mut fork = generator.fork().unwrap().with_drafter(Drafter::prompt_lookup()).unwrap();
    fork.generate_cached(6, &SampleOpts::greedy()).unwrap();
}

fn mistakes(device: &Device, generator: &mut GemmaGenerator, tokenizer: &Tokenizer) {
    assert!(matches!(generator.prefill([2; 200]), Err(Error::ContextFull { .. })));
    assert!(matches!(generator.prefill([1 << 30]), Err(Error::Prompt(PromptError::TokenOutOfRange { .. }))));
    generator.prefill([2; 80]).unwrap();
    assert!(matches!(generator.generate_cached(20, &SampleOpts::temperature(1.0, 0)), Err(Error::ContextFull { .. })));
    generator.prefill([2, 3]).unwrap();
    let mut hooks = SampleHooks::new().with_processor(LogitBias::new().with(1 << 30, 1.0));
    assert!(matches!(generator.step_hooked(&SampleOpts::greedy(), &mut hooks), Err(Error::Callback(CallbackError::Hook { .. }))));
    let guides = Guides::new(tokenizer, &[1]).unwrap();
    assert!(
        guides.regex("(((").is_err() && guides.json_schema("{\"type\": 3}").is_err() && guides.lark("start: <nobody>").is_err()
    );
    if *device == Device::Gpu {
        let on_progress: Box<dyn FnMut(_) -> bool + Send> = Box::new(|_| false);
        let cancelled = load(device, GeneratorOptions { on_progress: Some(on_progress), ..GeneratorOptions::default() });
        assert!(matches!(cancelled, Err(Error::Cancelled(_))));
        let small = load(device, GeneratorOptions { memory_budget: Some(1 << 20), ..GeneratorOptions::default() });
        assert!(matches!(small, Err(Error::DoesNotFit(_))));
    }
}
