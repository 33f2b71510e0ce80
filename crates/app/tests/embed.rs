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
    let language = fixture("../../models/rust-lm");
    let cases: [(&[&str], &str, &str); 9] = [
        (&["classify", &image, "-m", &language], "", "images one of ViT"),
        (&["classify", broken, "-m", &vit], "", "broken.png"),
        (&["classify", empty.path().to_str().unwrap(), "-m", &vit], "", "no images"),
        (&["classify", &image, "-m", &sentence], "", "encoder of texts"),
        (&["classify", &image, "-m", &clip], "", "ForImageClassification"),
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

#[test]
fn what_became_of_patches_is_a_page_or_a_folder_of_maps() {
    let (model, images) = (fixture("embed/classifier"), fixture("images"));
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let plain = output(&["classify", &images, "-m", &model, "--json"], "");
    for method in ["tome:r=2", "evit", "diffrate:r=2", "top-k-prune", "random-drop", "token-transforming:r=2"]
    {
        let page = place("page.html");
        output(&["classify", &images, "-m", &model, "--with", method, "--trace", &page], "");
        let page = fs::read_to_string(page).unwrap();
        assert_eq!(page.matches("<section").count(), 6, "{method}");
        let shown =
            if method.contains("prune") || method.contains("drop") { "class=gone d=" } else { "data-p=" };
        assert!(page.contains(shown) && page.contains("of the plain multiplications"), "{method}");
    }
    let maps = place("maps/");
    assert_eq!(output(&["classify", &images, "-m", &model, "--json", "--trace", &maps], ""), plain);
    let named = |end: &str| {
        let files =
            fs::read_dir(&maps).unwrap().filter_map(|file| file.unwrap().file_name().into_string().ok());
        files.filter(|name| name.ends_with(end)).count()
    };
    assert_eq!((named("-patches.png"), named("-attention-mean.png"), named("index.html")), (6, 6, 1));

    let page = place("embed.html");
    output(&["embed", &images, "-m", &model, "--with", "tome:r=2", "--trace", &page], "");
    assert!(fs::read_to_string(page).unwrap().contains("data-p="));
    let nowhere = place("none/page.html");
    assert!(
        refusal(&["classify", &images, "-m", &model, "--trace", &nowhere], "").contains("no such folder")
    );
}

#[test]
fn methods_on_pictures_are_measured_over_their_paces() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let arguments = ["bench", "vision", "--with", "tome", "--with", "evit", "--share", "0.8,0.6"];
    let more = ["--sweep", "top-k-prune.keep=0.5", "--pictures", "8", "--html", page.to_str().unwrap()];
    let records = output(&[&arguments[..], &more, &["--format", "json"]].concat(), "");
    let records: Value = serde_json::from_str(&records).unwrap();
    let records = records.as_array().unwrap();
    let names: Vec<&str> = records.iter().map(|record| record["name"].as_str().unwrap()).collect();
    let wanted =
        ["baseline", "tome at 80 %", "tome at 60 %", "evit at 80 %", "evit at 60 %", "top-k-prune:keep=0.5"];
    assert_eq!(names, wanted);
    let saved = |at: usize| records[at]["saved"].as_f64().unwrap();
    assert!((saved(1) - 0.2).abs() < 0.02 && (saved(2) - 0.4).abs() < 0.02, "{} {}", saved(1), saved(2));
    assert!(records.iter().all(|record| record["pictures"] == 8 && record["accuracy"].is_f64()));
    assert_eq!(fs::read_to_string(page).unwrap().matches("<polyline class=front").count(), 2);

    let other = fixture("embed/classifier");
    assert!(refusal(&["bench", "vision", "-m", &other], "").contains("--data"));
    assert!(refusal(&["bench", "vision", "--with", "tome", "--share", "1.5"], "").contains("1.5"));
}

#[test]
fn an_index_is_searched_as_it_is_and_refused_with_another_temperature() {
    let (model, folder) = (fixture("embed/sentence"), tempfile::tempdir().unwrap());
    let texts = folder.path().join("texts.txt");
    fs::write(&texts, "a cat sat on the mat\nthe price of corn fell\n").unwrap();
    let lines = output(&["embed", texts.to_str().unwrap(), "-m", &model, "--jsonl"], "");
    let index = folder.path().join("index.jsonl");
    fs::write(&index, &lines).unwrap();
    let index = index.to_str().unwrap();
    let search = |from: &str| output(&["embed", from, "-m", &model, "--search", "corn", "--json"], "");
    let hits = |text: String| serde_json::from_str::<Vec<Value>>(&text).unwrap();
    let (stored, fresh) = (hits(search(index)), hits(search(texts.to_str().unwrap())));
    for (stored, fresh) in stored.iter().zip(&fresh) {
        assert_eq!(stored["name"], fresh["name"]);
        assert!((stored["cosine"].as_f64().unwrap() - fresh["cosine"].as_f64().unwrap()).abs() < 1e-5);
    }
    let cooler = ["embed", index, "-m", &model, "--search", "corn", "--with", "tempscale:tau=0.8"];
    let message = refusal(&cooler, "");
    assert!(message.contains("tempscale:tau=0.8") && message.contains("cannot be compared"), "{message}");
    let damaged = lines.replacen("\"embedding\":[", "\"embedding\":[null,", 1);
    fs::write(index, damaged).unwrap();
    assert!(refusal(&["embed", index, "-m", &model, "--search", "corn"], "").contains("damaged"));
}
