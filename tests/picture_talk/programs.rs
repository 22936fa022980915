//! The examples that take pictures, videos and sounds, as programs.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use super::shown;

#[path = "../common/program.rs"]
mod program;

#[path = "../../examples/common/dropped.rs"]
mod dropped;

#[path = "../../examples/common/frames.rs"]
mod frames;

/// Its success, stdout and stderr when these lines are typed.
fn run(name: &str, arguments: &[&str], lines: &str) -> (bool, String, String) {
    let mut command = Command::new(program::program(name));
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("an example, built by `cargo test` or `cargo build --examples`");
    // A program that has ended reads nothing.
    child.stdin.take().unwrap().write_all(lines.as_bytes()).ok();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn picture(number: usize) -> String {
    let path = shown::checkpoint("gemma3-vision").join(format!("inputs/two.{number}.png"));
    path.to_str().unwrap().into()
}

#[test]
fn describe_answers_a_question_about_pictures() {
    let folder = shown::folder("gemma3-vision");
    let model = folder.path().to_str().unwrap();
    let ask = |more: &[&str]| {
        let arguments = [&["--model", model, "--temperature", "0", "--max-tokens", "8", "--device", "cpu"], more].concat();
        run("describe", &arguments, "")
    };
    let (fine, said, told) = ask(&[&picture(0), "--question", "What is this?"]);
    assert!(fine && !said.trim().is_empty() && told.contains("files:    1 (a picture of 33 × 260)"), "{told}");
    let (_, other, _) = ask(&[&picture(1), "--question", "What is this?"]);
    assert_ne!(said, other, "it sees them");
    let (fine, _, told) = ask(&[&picture(0), &picture(1), "--budget", "70"]);
    assert!(fine && told.contains("files:    2"), "{told}");
    let (fine, _, told) = ask(&[&picture(0), "--crops"]);
    assert!(fine && told.contains("tokens:"), "{told}");
    let (fine, _, told) = ask(&["no/such.png"]);
    assert!(!fine && told.contains("no/such.png") && !told.contains("panicked"), "{told}");
    let (fine, _, told) = run("describe", &["--device", "cpu", &picture(0)], "");
    assert!(!fine && told.contains("vision_config"), "the demo model sees nothing: {told}");
}

#[test]
fn a_program_asks_a_model_of_what_it_has_drawn() {
    let folder = shown::folder("gemma3-vision");
    let model = folder.path().to_str().unwrap();
    let ask = ["--idle", "1", "--tokens", "4", "--ask", "What is this?"];
    let (fine, _, told) = run("embed_in_app", &[&["--model", model], &ask[..]].concat(), "");
    assert!(fine && told.contains("text:        4 tokens"), "{told}");
    let (fine, _, told) = run("embed_in_app", &ask, "");
    assert!(!fine && told.contains("vision_config"), "the demo model sees nothing: {told}");
}

#[test]
fn describe_hears_a_clip() {
    let folder = shown::folder("gemma4-audio");
    let model = folder.path().to_str().unwrap();
    let ask = |file: &str| {
        let file = shown::checkpoint("gemma4-audio").join("inputs").join(file);
        let ask = ["--model", model, "--temperature", "0", "--max-tokens", "8", "--device", "cpu", file.to_str().unwrap()];
        run("describe", &ask, "")
    };
    let (fine, said, told) = ask("two.0.wav");
    assert!(fine && !said.trim().is_empty() && told.contains("files:    1"), "{told}");
    let (_, other, _) = ask("two.1.wav");
    assert_ne!(said, other, "it hears them");
    let (fine, _, told) = run("describe", &["--model", model, "--device", "cpu", file!()], "");
    assert!(!fine && told.contains("WAV, FLAC, MP3"), "{told}");
}

/// A folder of so many wide frames, of two sorts by turns, and a file beside them.
fn film(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let frames = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/video");
    for at in 0..count {
        std::fs::copy(frames.join(format!("wide.0.{}.png", at % 2)), folder.path().join(format!("{at:03}.png"))).unwrap();
    }
    std::fs::write(folder.path().join("notes.txt"), "no frame").unwrap();
    folder
}

#[test]
fn describe_is_shown_frames_of_a_video() {
    let folder = shown::folder("gemma4-vision");
    let model = folder.path().to_str().unwrap();
    let ask = |film: &Path, more: &[&str]| {
        let arguments = ["--model", model, "--temperature", "0", "--max-tokens", "4", "--device", "cpu", "--video"];
        run("describe", &[&arguments[..], &[film.to_str().unwrap()], more].concat(), "")
    };
    let [two, many] = [film(2), film(33)];
    let (fine, said, told) = ask(two.path(), &[]);
    assert!(fine && told.contains("files:    1 (a video of 2 frames)") && !told.contains("equal distances"), "{told}");
    let (fine, slower, told) = ask(two.path(), &["--fps", "0.01"]);
    assert!(fine && slower != said, "the times are seen: {told}");
    let (fine, _, told) = ask(two.path(), &[&picture(0), "--budget", "70"]);
    assert!(fine && told.contains("files:    2 (a picture of 33 × 260, a video of 2 frames)"), "{told}");
    let (fine, _, told) = ask(many.path(), &[]);
    assert!(fine && told.contains("32 of 33 frames are shown, at equal distances"), "{told}");
    let refused = |film: &Path, more: &[&str], expected: &str| {
        let (fine, _, told) = ask(film, more);
        assert!(!fine && told.contains(expected) && !told.contains("panicked"), "{told}");
    };
    refused(Path::new("no/such"), &[], "no/such: expected a folder of frames");
    refused(film(0).path(), &[], "is a picture by its name");
    refused(two.path(), &["--fps", "0"], "expected a number above 0");
    refused(two.path(), &["--fps", "1e-30"], "give a larger --fps");
    let (fine, _, told) = run("describe", &["--fps", "2", "--device", "cpu", &picture(0)], "");
    assert!(!fine && told.contains("--video"), "{told}");
    let blind = shown::folder("gemma3-vision");
    let arguments = ["--model", blind.path().to_str().unwrap(), "--device", "cpu", "--video", two.path().to_str().unwrap()];
    let (fine, _, told) = run("describe", &arguments, "");
    assert!(!fine && told.contains("videos with a model that takes none"), "{told}");
}

#[test]
fn chat_shows_a_video_with_the_next_message() {
    let folder = shown::folder("gemma4-vision");
    let model = folder.path().to_str().unwrap();
    let film = film(2);
    let arguments = ["--model", model, "--temperature", "0", "--max-tokens", "6", "--device", "cpu"];
    let talk = |lines: &str| run("chat", &arguments, lines);
    let (fine, said, told) = talk(&format!("/video {}\nWhat happens?\n", film.path().display()));
    assert!(fine && told.contains("a video of 2 frames as 70 tokens"), "{told}");
    let (_, alone, _) = talk("What happens?\n");
    assert_ne!(said, alone);
    let (fine, same, told) = talk("/video no/such\nWhat happens?\n");
    assert!(fine && same == alone && told.contains("no/such: expected a folder of frames"), "{told}");
}

#[test]
fn frames_of_a_long_video_are_those_that_transformers_takes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/video/video.json");
    let oracle: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for (count, expected) in oracle["sampled"].as_object().unwrap() {
        assert_eq!(serde_json::json!(frames::shown(count.parse().unwrap())), *expected, "{count}");
    }
    assert_eq!(frames::shown(3), [0, 1, 2]);
}

#[test]
fn frames_come_in_the_order_of_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["a2 b3.JPG", "a2 b11.webp", "a10 b1.png", "b.png"];
    for name in names.iter().rev().chain(&["readme.txt"]) {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    let found = frames::pictures(folder.path()).unwrap();
    assert_eq!(found, names.map(|name| folder.path().join(name)));
}

#[test]
fn chat_shows_pictures_with_the_next_message() {
    let folder = shown::folder("gemma3-vision");
    let model = folder.path().to_str().unwrap();
    let spaced = folder.path().join("my cat.png");
    std::fs::copy(picture(1), &spaced).unwrap();
    let arguments = ["--model", model, "--temperature", "0", "--max-tokens", "6", "--device", "cpu"];
    let talk = |lines: &str| run("chat", &arguments, lines);
    let lines = format!("/image {}\n/image '{}'\nWhat is this?\n/context\n", picture(0), spaced.display());
    let (fine, said, told) = talk(&lines);
    assert!(fine && said.lines().count() == 1, "{said} {told}");
    assert_eq!(told.matches("as 16 tokens").count(), 2, "{told}");
    let (_, alone, _) = talk("What is this?\n");
    assert_ne!(said, alone);
    // A file that is none is told, and nothing is shown.
    let (fine, same, told) = talk("/image no/such.png\nWhat is this?\n");
    assert!(fine && same == alone && told.contains("no/such.png"), "{told}");
}

#[test]
fn names_of_files_are_read_as_terminals_write_them() {
    for (line, expected) in [
        ("a.png", &["a.png"][..]),
        ("'my cat.png' \"your dog.png\"", &["my cat.png", "your dog.png"]),
        (r"my\ cat.png  b.png", &["my cat.png", "b.png"]),
        (r"'it'\''s.png'", &["it's.png"]),
        ("\"\"", &[""]),
        ("  ", &[]),
    ] {
        assert_eq!(dropped::words(line, false), expected, "{line}");
    }
    assert_eq!(dropped::words(r#""C:\my cat.png" D:\b.png"#, true), [r"C:\my cat.png", r"D:\b.png"]);
    let folder = tempfile::tempdir().unwrap();
    let spaced = folder.path().join("my own cat.png");
    std::fs::write(&spaced, "").unwrap();
    assert_eq!(dropped::files(&format!(" {} ", spaced.display())), [spaced.as_path()]);
    assert_eq!(dropped::files("b.png"), [Path::new("b.png")]);
    assert!(dropped::files(" ").is_empty());
}

#[test]
fn inspect_shows_the_towers() {
    let towers = |name: &str| {
        let model = shown::checkpoint(name);
        let (fine, said, told) = run("inspect", &["--towers", "--device", "portable", "--model", model.to_str().unwrap()], "");
        assert!(fine, "{name}: {told}");
        said
    };
    let gemma3 = towers("gemma3-vision");
    assert!(gemma3.starts_with("vision: SigLIP, 4 layers of 36") && gemma3.contains("a picture of   16 soft tokens"), "{gemma3}");
    let gemma4 = towers("gemma4-audio");
    assert!(gemma4.contains("audio: Gemma 4's Conformer, 3 layers") && gemma4.contains("a clip of 30 s"), "{gemma4}");
    assert_eq!(gemma4.matches("a picture of").count(), 5, "{gemma4}");
    let (fine, said, _) = run("inspect", &["--towers", "--device", "portable"], "");
    assert!(fine && said.contains("no tower"), "{said}");
}

#[test]
fn trace_looks_into_towers() {
    for (name, flag, file) in [("gemma4-vision", "--image", "tiny.0.png"), ("gemma3n-audio", "--audio", "short.0.wav")] {
        let model = shown::checkpoint(name);
        let file = model.join("inputs").join(file);
        let trace = |more: &[&str]| {
            let arguments = [&["--model", model.to_str().unwrap(), flag, file.to_str().unwrap()], more].concat();
            run("trace", &arguments, "")
        };
        let (fine, said, told) = trace(&["--tolerance", "1e-3"]);
        assert!(fine && said.contains("no node differs"), "{name}: {said}{told}");
        let (fine, said, _) = trace(&["--tolerance", "0"]);
        assert!(!fine && said.contains("first difference: "), "{name}: {said}");
    }
}
