//! The command from outside: what it prints, what it refuses, how it exits.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn whit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_whit")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a call that succeeds.
fn output(arguments: &[&str]) -> String {
    let output = whit(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a call that is refused as bad input.
fn refusal(arguments: &[&str]) -> String {
    let output = whit(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}: a refusal prints nothing on standard output");
    text(&output.stderr)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&output(arguments)).unwrap()
}

#[test]
fn methods_are_listed_for_people_and_programs() {
    assert!(output(&["methods"]).contains("token-recycling"));
    let listed = json(&["methods", "--json"]);
    let method = &listed.as_array().unwrap()[0];
    for field in ["id", "title", "paper", "fidelity", "summary", "claims", "knobs", "models", "paper_reports"]
    {
        assert!(!method[field].is_null(), "{field}");
    }
}

#[test]
fn a_manual_has_its_sections() {
    let manual = output(&["explain", "token-recycling"]);
    for title in ["NAME", "IDEA", "WHEN IT PAYS", "KNOBS", "STACKING", "EXAMPLES", "PAPER", "FIDELITY"] {
        assert!(manual.lines().any(|line| line.starts_with(title)), "{title} is missing in\n{manual}");
    }
    assert_eq!(json(&["explain", "token-recycling", "--json"])["id"], "token-recycling");
}

#[test]
fn the_doctor_finds_this_machine() {
    let found = json(&["doctor", "--json", "--threads", "1"]);
    assert_eq!(found["threads"], 1);
    assert!(found["memory_read_gigabytes_per_second"].as_f64().unwrap() > 0.0);
    assert!(!found["kernels"].as_array().unwrap().is_empty());
    assert!(found["warnings"].is_array());
}

#[test]
fn slips_are_refused_with_a_hint() {
    let unknown = refusal(&["explain", "token-recyclin"]);
    assert_eq!(
        unknown,
        "error: there is no method `token-recyclin`\nhint: did you mean `token-recycling`?\n"
    );
    assert!(refusal(&["explian", "token-recycling"]).contains("explain"));
    assert!(refusal(&["methods", "--threads", "0"]).contains("--threads"));
    assert!(refusal(&["methods", "--threads", "many"]).contains("--threads"));
    assert!(refusal(&["methods", "--device", "abacus"]).contains("abacus"));
}

#[test]
fn docs_are_written_only_where_they_belong() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    assert!(refusal(&["docs", "--root", root]).contains("README.md"));
    fs::write(folder.path().join("README.md"), "no marks").unwrap();
    assert!(refusal(&["docs", "--root", root]).contains("table of methods"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a refusal leaves nothing behind");

    let marks = [whit::methods::page::TABLE_START, whit::methods::page::TABLE_END].join("\n");
    fs::write(folder.path().join("README.md"), marks).unwrap();
    output(&["docs", "--root", root]);
    let page = fs::read_to_string(folder.path().join("docs/methods/token-recycling.md")).unwrap();
    assert!(page.contains("# Token Recycling"));
}

#[test]
fn what_a_method_needs_is_asked_for_by_its_flag() {
    let fixture = |name: &str| format!("{}/../../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let (model, other) = (fixture("llama-text"), fixture("llama"));
    let dry = |more: &[&'static str]| -> Vec<String> {
        let first = ["generate", "--dry-run", "--model", &model];
        first.iter().chain(more).map(|part| part.replace("MODEL", &model).replace("OTHER", &other)).collect()
    };
    let call = |more: &[&'static str], run: fn(&[&str]) -> String| {
        let arguments = dry(more);
        run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(call(&["--with", "draft-model"], refusal).contains("--draft-model DIR"));
    assert!(call(&["--with", "chimera"], refusal).contains("--weights chimera=FILE"));
    assert!(call(&["--with", "draft-model", "--draft-model", "MODEL"], output).contains("drafts by"));
    let foreign = call(&["--with", "draft-model", "--draft-model", "OTHER"], refusal);
    assert!(foreign.contains(&model) && foreign.contains(&other), "{foreign}");
    let nothing = call(&["--with", "chimera", "--weights", "chimera=MODEL"], refusal);
    assert!(nothing.contains("trimlp"), "{nothing}");
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(output(&["completions", shell]).contains("explain"), "{shell}");
    }
}

#[test]
fn a_reader_may_leave_early() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_whit"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
