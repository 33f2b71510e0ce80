//! `whit classify` and `whit embed` from outside.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name).to_str().unwrap().to_owned()
}

fn whit(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_whit"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn output(arguments: &[&str], input: &str) -> String {
    let output = whit(arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refusal(arguments: &[&str], input: &str) -> String {
    let output = whit(arguments, input);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn images_are_classified_one_by_one_and_by_folder() {
    let (model, images) = (fixture("embed/classifier"), fixture("images"));
    let classes: Value =
        serde_json::from_str(&output(&["classify", &images, "-m", &model, "--top", "2", "--json"], ""))
            .unwrap();
    let classes = classes.as_array().unwrap();
    assert_eq!(classes.len(), 6, "five PNG files and a WebP");
    assert!(classes.iter().all(|image| image["classes"].as_array().unwrap().len() == 2));
    let table = output(&["classify", &format!("{images}/rgb.png"), "-m", &model], "");
    assert!(table.contains("stone") && table.contains(" %"), "{table}");

    let clip = fixture("embed/clip");
    let labelled =
        ["classify", &format!("{images}/rgb.png"), "-m", &clip, "--labels", "dog,red square", "--json"];
    let classes: Value = serde_json::from_str(&output(&labelled, "")).unwrap();
    let sum: f64 = classes[0]["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-5, "{classes}");
}

#[test]
fn lines_of_json_go_in_and_come_out_with_their_fields() {
    let model = fixture("embed/sentence");
    let input = "{\"id\": 7, \"text\": \"a red square\"}\n\n\"blue circle\"\n";
    let lines = output(&["embed", "-", "-m", &model, "--jsonl", "--batch", "1"], input);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["id"], &lines[1]["text"]), (&json!(7), &json!("blue circle")));
    assert_eq!(lines[0]["embedding"].as_array().unwrap().len(), 16);
    let together = output(&["embed", "-", "-m", &model, "--jsonl"], input);
    assert_eq!(
        together.lines().next().map(|line| serde_json::from_str::<Value>(line).unwrap()),
        Some(lines[0].clone())
    );
}

#[test]
fn a_folder_is_ranked_by_a_query() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("dog.txt", "the photo of a dog"), ("stone.md", "grey stone"), ("other.rs", "dog")] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let (model, path) = (fixture("embed/sentence"), folder.path().to_str().unwrap());
    // The model's files put "the photo of " before a query.
    let hits: Value =
        serde_json::from_str(&output(&["embed", path, "-m", &model, "--search", "a dog", "--json"], ""))
            .unwrap();
    assert_eq!(hits.as_array().unwrap().len(), 2);
    assert!(hits[0]["name"].as_str().unwrap().ends_with("dog.txt"));
    assert!((hits[0]["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{hits}");

    let (clip, images) = (fixture("embed/clip"), fixture("images"));
    let table = output(&["embed", &images, "-m", &clip, "--search", "red square", "--top", "3"], "");
    assert_eq!(
        table.lines().filter(|line| line.contains(".png") || line.contains(".webp")).count(),
        3,
        "{table}"
    );
}

#[test]
fn what_cannot_be_embedded_is_refused_with_a_reason() {
    let (sentence, clip, vit) =
        (fixture("embed/sentence"), fixture("embed/clip"), fixture("embed/classifier"));
    let image = fixture("images/rgb.png");
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.png");
    fs::write(&broken, "no image").unwrap();
    let (broken, empty) = (broken.to_str().unwrap(), tempfile::tempdir().unwrap());
    let cases: [(&[&str], &str, &str); 8] = [
        (&["classify", broken, "-m", &vit], "", "broken.png"),
        (&["classify", empty.path().to_str().unwrap(), "-m", &vit], "", "no images"),
        (&["classify", &image, "-m", &sentence], "", "encoder of texts"),
        (&["classify", &image, "-m", &clip], "", "--labels"),
        (&["classify", &image, "-m", &vit, "--labels", "a,b"], "", "CLIP"),
        (&["embed", "-", "-m", &sentence], "\n", "nothing to embed"),
        (&["embed", "-", "-m", &vit], "a text\n", "no texts"),
        (&["embed", "-", "-m", &sentence, "--jsonl"], "{\"a\": 1}\n", "line 1"),
    ];
    for (arguments, input, wanted) in cases {
        let error = refusal(arguments, input);
        assert!(error.contains(wanted), "{error}");
    }
}
