//! How the command ends when the disk is full or somebody presses Ctrl-C: with the right exit code, a
//! message that says what happened, and nothing half-written.
#![cfg(unix)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

fn root(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).to_str().unwrap().to_owned()
}

/// Text enough for a tokenizer and some windows.
const TEXT: &str = "crates/whit/src/methods";

/// Runs the command where no file may grow beyond a few kilobytes, which ends a write as a full disk does.
fn on_a_full_disk(arguments: &[&str]) -> Output {
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    let whit = env!("CARGO_BIN_EXE_whit");
    Command::new("sh").args(["-c", script, "sh", whit]).args(arguments).output().unwrap()
}

fn refused(output: &Output, path: &Path) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("write") && message.contains(path.to_str().unwrap()), "{message}");
}

fn names(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_full_disk_leaves_no_half_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("small.gguf");
    let model = root("models/rust-lm");
    refused(&on_a_full_disk(&["shrink", "--model", &model, "--out", out.to_str().unwrap()]), &out);
    assert_eq!(names(folder.path()), Vec::<PathBuf>::new());

    let out = folder.path().join("out.safetensors");
    let (model, input) = (root("tests/fixtures/llama"), root("tests/fixtures/llama/input.safetensors"));
    let forward = ["forward", "--model", &model, "--input", &input, "--out", out.to_str().unwrap()];
    refused(&on_a_full_disk(&forward), &out);
    assert_eq!(names(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_training_that_cannot_write_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (root(TEXT), folder.path().join("run"));
    let arguments = ["train", "rust-lm", "--steps", "1", "--data", &data];
    let output = on_a_full_disk(&[&arguments[..], &["--out", out.to_str().unwrap()]].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(out.to_str().unwrap()), "{message}");
    assert!(!out.join("tokenizer.json").exists(), "half a tokenizer");
}

fn spawn(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whit"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn press_ctrl_c(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < limit, "still running after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ctrl_c_ends_a_generation_with_what_it_has() {
    let model = root("models/rust-lm");
    let mut child =
        spawn(&["generate", "--model", &model, "-p", "fn main() {", "-n", "480", "--threads", "1"]);
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    press_ctrl_c(&child);
    assert_eq!(wait(&mut child, Duration::from_secs(60)).code(), Some(130));
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert!(message.contains("interrupted") && message.contains("tokens at"), "{message}");
}

#[test]
fn ctrl_c_ends_a_benchmark() {
    let mut child = spawn(&["bench", "text", "--rounds", "1000", "--prompt", "64", "-n", "64"]);
    std::thread::sleep(Duration::from_secs(2));
    press_ctrl_c(&child);
    assert_eq!(wait(&mut child, Duration::from_secs(60)).code(), Some(130));
}

#[test]
fn an_interrupted_training_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (root(TEXT), folder.path().join("run"));
    let arguments = ["train", "rust-lm", "--data", &data, "--out", out.to_str().unwrap()];
    let mut child = spawn(&arguments);
    let log = out.join("log.jsonl");
    until("a step", || fs::read_to_string(&log).is_ok_and(|text| text.lines().count() >= 2));
    press_ctrl_c(&child);
    assert_eq!(wait(&mut child, Duration::from_secs(60)).code(), Some(130));
    let steps = fs::read_to_string(&log).unwrap().lines().count();
    assert!(out.join("checkpoints").join(format!("step-{steps:08}")).is_dir());

    let mut child = spawn(&[&arguments[..], &["--resume"]].concat());
    until("another step", || fs::read_to_string(&log).unwrap().lines().count() > steps);
    press_ctrl_c(&child);
    assert_eq!(wait(&mut child, Duration::from_secs(60)).code(), Some(130));
}
