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
    assert!(call(&["--with", "draft-model", "--draft-model", "layers:1"], output).contains("first 1 layers"));
    for (wrong, part) in [("layers:9", "1 to "), ("layers:0", "1 to "), ("layers:x", "layers:N")] {
        assert!(call(&["--with", "draft-model", "--draft-model", wrong], refusal).contains(part), "{wrong}");
    }
    let nothing = call(&["--with", "chimera", "--weights", "chimera=MODEL"], refusal);
    assert!(nothing.contains("trimlp"), "{nothing}");
}

#[test]
fn recall_refuses_what_it_would_not_feel() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/rust-lm");
    fn recall<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["bench", "recall", "-m", model, "--context", "64"], more].concat()
    }
    assert!(refusal(&recall(model, &["--with", "llmlingua2"])).contains("bench squeeze"));
    assert!(refusal(&recall(model, &["--with", "typical-acceptance"])).contains("bench text"));
    assert!(refusal(&recall(model, &["--with", "rtn"])).contains("whit shrink"));
    assert!(refusal(&recall(model, &["--task", "riddles"])).contains("many-keys"));
    let few = ["--samples", "2", "--windows", "1", "--with", "h2o:budget=8,slack=0", "--json"];
    let rows = json(&recall(model, &few));
    assert_ne!(rows[0]["loss"], rows[1]["loss"], "a cache of eight rows is felt");
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

/// Runs with this standard input.
fn fed(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whit"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn text_is_squeezed_from_standard_input_and_files() {
    let talk = "So, um, you know, the code of the harbor is 4711. It is as it was, I mean, like that.";
    let squeezed = fed(&["squeeze"], talk.as_bytes());
    let (left, said) = (text(&squeezed.stdout), text(&squeezed.stderr));
    assert!(left.contains("4711") && left.contains("harbor") && !left.contains("um"), "{left}");
    assert!(said.contains("tokens/s"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let [file, page] = ["talk.txt", "page.html"].map(|name| folder.path().join(name));
    fs::write(&file, talk).unwrap();
    let (file, page) = (file.to_str().unwrap(), page.to_str().unwrap());
    let report = json(&["squeeze", "--json", "--rate", "0.4", "--html", page, file]);
    let one = &report["texts"][0];
    assert!(one["tokens"].as_u64() < one["original_tokens"].as_u64());
    assert!(
        one["words"].as_array().unwrap().iter().any(|word| word["word"] == "4711" && word["kept"] == true)
    );
    assert!(fs::read_to_string(page).unwrap().contains(">4711</b>"));
    assert_eq!(json(&["squeeze", "--json", "--rate", "1", file])["texts"][0]["text"], talk);
    let empty = fed(&["squeeze", "--json"], b"");
    let empty: Value = serde_json::from_slice(&empty.stdout).unwrap();
    assert_eq!(
        (&empty["texts"][0]["text"], &empty["texts"][0]["ratio"]),
        (&Value::from(""), &Value::from(1.0))
    );
}

#[test]
fn what_cannot_be_squeezed_is_refused() {
    assert!(refusal(&["squeeze", "--rate", "0", "-"]).contains("fraction to keep"));
    assert!(refusal(&["squeeze", "--rate", "1.5", "-"]).contains("fraction to keep"));
    assert!(refusal(&["squeeze", "no-such-file.txt"]).contains("no-such-file.txt"));
    let latin = fed(&["squeeze"], b"caf\xe9");
    assert_eq!(latin.status.code(), Some(2));
    assert!(text(&latin.stderr).contains("byte 3"), "{}", text(&latin.stderr));
    let many: Vec<String> = (0..101).map(|at| format!("--force=x{at}")).collect();
    let arguments: Vec<&str> = ["squeeze", "-"].into_iter().chain(many.iter().map(String::as_str)).collect();
    assert!(refusal(&arguments).contains("101 force tokens"));
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
    let model = |name: &str| format!("{fixtures}/{name}");
    assert!(refusal(&["squeeze", "-", "-m", &model("bert-tokens-legacy")]).contains("tokenizer"));
    assert!(refusal(&["squeeze", "-", "-m", &model("gpt2")]).contains("no text encoder"));
    assert!(refusal(&["generate", "-m", &model("bert"), "-p", "x"]).contains("writes no text"));
}

#[test]
fn a_trace_shows_what_happened_and_changes_no_token() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/rust-lm");
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("trace.html");
    let code = "fn sum(values: &[u32]) -> u32 {\n    let mut total = 0;\n    for value in values {\n        total += value;\n    }\n    total\n}\n\nfn mean(values: &[u32]) -> u32 {\n";
    let plain: &[&str] = &[];
    for (with, section) in [
        (plain, "Nothing was dropped"),
        (&["h2o:budget=16,slack=4"], "What the cache kept"),
        (&["snapkv:budget=20,recent=8"], "What the cache kept"),
        (&["adakv:budget=20,recent=8"], "What the cache kept"),
        (&["ems:budget=12,recent=4,slack=4,tau=0.2"], "merged into another"),
        (&["tidaldecode:budget=8,start=1,correction=3"], "Which keys were read"),
        (&["token-recycling:tune=false"], "drafted and accepted"),
        (&["llmlingua2"], "What was cut from the prompt"),
        (&["llmlingua2", "h2o:budget=16", "token-recycling"], "What was cut from the prompt"),
    ] {
        let mut call = vec!["generate", "-m", model, "-p", code, "-n", "24", "--json"];
        with.iter().for_each(|with| call.extend(["--with", *with]));
        let untraced = json(&call);
        call.extend(["--trace", page.to_str().unwrap()]);
        let traced = json(&call);
        assert_eq!(traced["tokens"], untraced["tokens"], "{with:?}");
        let page = fs::read_to_string(&page).unwrap();
        assert!(page.contains(section), "{with:?}");
        assert_eq!(page.contains("Nothing was dropped"), with.is_empty(), "{with:?}");
        assert!(!page.contains("http") && page.len() < 2_000_000, "{with:?}");
    }
    let page = page.to_str().unwrap();
    let several = refusal(&["generate", "-m", model, "-p", "a", "-p", "b", "--trace", page]);
    assert!(several.contains("2 prompts"), "{several}");
    assert!(
        refusal(&["generate", "-m", model, "-p", "a", "-n", "1", "--trace", "no/such/folder/x.html"])
            .contains("no/such")
    );
}
