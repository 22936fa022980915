//! The example `chat` as a program: it talks, saves, goes on, and Ctrl-C stops an answer.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
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

#[cfg(unix)]
#[test]
fn ctrl_c_stops_an_answer_and_then_the_program() {
    let mut child = start(&["--temperature", "0", "--max-tokens", "1900"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Who goes there?\n").unwrap();
    let mut first = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let interrupt = |child: &Child| {
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    interrupt(&child);
    stdin.write_all(b"/context\n/quit\n").unwrap();
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr).into_owned());
    assert!(status.success() && told.contains("stopped") && told.contains("of 2048 tokens"), "{told}");
    assert!(said.len() < 4000, "{} bytes", said.len());
    // Where nothing is being answered it ends the program.
    let mut idle = start(&GREEDY);
    let mut told = String::new();
    let mut byte = [0];
    while !told.contains("Ctrl-C") {
        idle.stderr.as_mut().unwrap().read_exact(&mut byte).unwrap();
        told.push(char::from(byte[0]));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    interrupt(&idle);
    assert_eq!(idle.wait().unwrap().code(), Some(130));
}
