//! The example `chat` as a program: it talks, saves, goes on, and Ctrl-C stops an answer. And its parts: a lost device
//! ends neither it nor an answer.

#[path = "../examples/chat.rs"]
#[allow(dead_code)] // The program itself is started.
mod chat;

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use chat::{Arguments, Talk, UnderWay};
use clap::Parser;
use gemmaflow::{
    conversation::Model,
    generate::GeneratorOptions,
    runtime::{Device, GpuContext},
    text::Message,
};

/// `cargo test` builds the examples beside the tests; with `--test` it does not.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    folder.join("examples").join("chat").with_extension(std::env::consts::EXE_EXTENSION)
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the example, built by `cargo test` or `cargo build --examples`")
}

/// What it prints on stdout and stderr when these lines are typed.
fn talk(arguments: &[&str], lines: &str) -> (String, String) {
    let mut child = start(arguments);
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{arguments:?}: {stderr}");
    (String::from_utf8(stdout).unwrap(), stderr)
}

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

const GREEDY: [&str; 4] = ["--temperature", "0", "--max-tokens", "12"];

#[test]
fn a_conversation_is_saved_loaded_and_undone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.gemma");
    let file = file.to_str().unwrap();
    let (whole, _) = talk(&GREEDY, "Who goes there?\nA friend.\n/quit\n");
    assert_eq!(whole.lines().count(), 2, "{whole:?}");
    let (first, told) = talk(&GREEDY, &format!("Who goes there?\n/save {file}\n/context\n"));
    assert!(told.contains("saved 2 messages") && told.contains("of 2048 tokens") && told.contains("tokens/s"), "{told}");
    let (second, told) = talk(&GREEDY, &format!("/load {file}\nA friend.\n"));
    assert!(told.contains("2 messages"), "{told}");
    assert_eq!(format!("{first}{second}"), whole);
    // Undone and said again, the answer is the same; nothing of it is computed again.
    let (undone, told) =
        talk(&GREEDY, "Who goes there?\nA friend.\n/undo\nA friend.\n/undo\n/undo\n/undo\n/new\nWho goes there?\n");
    let lines: Vec<&str> = undone.lines().collect();
    assert_eq!([lines[0], lines[1]], [lines[3], lines[2]], "{undone:?}");
    assert!(told.contains("there is nothing to undo"), "{told}");
}

#[test]
fn mistakes_are_told_and_the_conversation_goes_on() {
    let (said, told) = talk(&GREEDY, "/load no/such/file\n/save\n/what\nWho goes there?\n");
    assert!(told.contains("no/such/file") && told.contains("/save FILE"), "{told}");
    assert_eq!(said.lines().count(), 1);
    let (said, told) = talk(&["--context", "24", "--temperature", "0"], &format!("{}\nHi!\n", "so much ".repeat(30)));
    assert!(told.contains("the capacity is 24"), "{told}");
    assert!(!said.is_empty());
}

/// A program to which nothing was said yet.
#[cfg(unix)]
fn idle(most_tokens: &str) -> Child {
    let mut idle = start(&["--temperature", "0", "--max-tokens", most_tokens]);
    let (mut told, mut byte) = (String::new(), [0]);
    while !told.ends_with("Ctrl-C stops an answer\n") {
        idle.stderr.as_mut().unwrap().read_exact(&mut byte).unwrap();
        told.push(char::from(byte[0]));
    }
    idle
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_an_answer_and_then_the_program() {
    let mut child = idle("1900");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Who goes there?\n").unwrap();
    let mut first = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    interrupt(&child);
    stdin.write_all(b"/context\n/quit\n").unwrap();
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr).into_owned());
    assert!(status.success() && told.contains("stopped") && told.contains("of 2048 tokens"), "{told}");
    assert!(said.len() < 4000, "{} bytes", said.len());
    // Where nothing is being answered it ends the program.
    let mut idle = idle("1900");
    interrupt(&idle);
    assert_eq!(idle.wait().unwrap().code(), Some(130));
}

/// However soon it comes, it stops the answer that was asked for and no other; before that was read it ends the
/// program.
#[cfg(unix)]
#[test]
fn ctrl_c_is_not_carried_over_to_the_next_answer() {
    let mut stopped = 0;
    for wait in [0, 1, 3, 10, 30] {
        let mut child = idle("300");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"Who goes there?\n").unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        interrupt(&child);
        // A program that has ended reads nothing.
        stdin.write_all(b"/new\nWho goes there?\n").ok();
        drop(stdin);
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let (said, told) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        if status.code() == Some(130) {
            assert!(said.is_empty() && !told.contains("tokens/s"), "{wait} ms: {said} {told}");
            continue;
        }
        assert!(status.success(), "{wait} ms: {told}");
        let ends: Vec<&str> = told.lines().filter(|line| line.contains("tokens/s")).collect();
        assert_eq!(ends.iter().map(|end| end.contains("stopped")).collect::<Vec<_>>(), [true, false], "{wait} ms: {told}");
        stopped += 1;
    }
    assert!(stopped > 0, "no answer had begun after 30 ms");
}

/// The conversation when three things are said and `lose` may lose the device before each of them; and how often the
/// model was loaded again.
fn talked(lose: impl Fn(usize, Arc<GpuContext>)) -> (Vec<Message>, usize) {
    let arguments = Arguments::parse_from(["chat", "--temperature", "0", "--max-tokens", "60", "--device", "gpu"]);
    let model = Model::open(DEMO, Device::Gpu, GeneratorOptions::default()).unwrap();
    let mut talk = Talk::new(&model, &arguments).unwrap();
    let mut recoveries = 0;
    for (index, said) in ["Who goes there?", "A friend.", "What news?"].into_iter().enumerate() {
        let before = model.gpu().unwrap();
        lose(index, before.clone());
        talk.send(said, &UnderWay::default()).unwrap();
        recoveries += usize::from(!Arc::ptr_eq(&before, &model.gpu().unwrap()));
    }
    (talk.conversation.messages().to_vec(), recoveries)
}

#[test]
fn a_lost_device_ends_neither_the_program_nor_the_answer() {
    let (whole, recoveries) = talked(|_, _| {});
    assert_eq!((whole.len(), recoveries), (6, 0));
    let between = |index: usize, context: Arc<GpuContext>| {
        if index == 1 {
            context.device().destroy();
        }
    };
    assert_eq!(talked(between), (whole.clone(), 1));
    // While each answer is under way: after its first submits.
    let amid = |_: usize, context: Arc<GpuContext>| {
        let begun = context.counters().snapshot().submits;
        std::thread::spawn(move || {
            while context.counters().snapshot().submits < begun + 12 {
                std::thread::yield_now();
            }
            context.device().destroy();
        });
    };
    assert_eq!(talked(amid), (whole, 3));
}
