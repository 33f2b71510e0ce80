//! `whit world` from outside: the files that it writes, that they are the same again, and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use whit::world::Pictures;
use whit::world::folder::Folder;

fn world(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_whit"))
        .args(["world", "--out"])
        .arg(folder)
        .args(arguments)
        .output()
        .unwrap()
}

fn made(folder: &Path, arguments: &[&str]) -> Value {
    let output = world(folder, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metadata.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn scenes_are_written_read_again_and_repeat() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arguments = ["--level", "4", "--size", "32", "--count", "12", "--seed", "5"];
    let report = made(first.path(), &arguments);
    assert_eq!((report["samples"].as_u64(), report["kept"].as_u64()), (Some(12), Some(0)));
    made(second.path(), &arguments);
    let written = files(first.path());
    assert_eq!(written, files(second.path()));
    assert_eq!(written.len(), 12 * 4 + 4);

    let folder = Folder::open(first.path()).unwrap();
    let batch = folder.batch(&(0..12).collect::<Vec<_>>(), 32).unwrap();
    assert_eq!(batch.images.len(), 12 * 3 * 32 * 32);
    assert!(batch.labels.iter().all(Option::is_some) && batch.captions.iter().all(Option::is_some));
    for line in lines(first.path()) {
        let mask =
            image::open(first.path().join(line["mask_file_name"].as_str().unwrap())).unwrap().into_luma8();
        for (at, object) in line["objects"].as_array().unwrap().iter().enumerate() {
            let seen: Vec<_> = mask.enumerate_pixels().filter(|pixel| pixel.2.0[0] == at as u8 + 1).collect();
            assert_eq!(seen.len() as u64, object["pixels"].as_u64().unwrap());
            let sides: Vec<u32> = serde_json::from_value(object["box"].clone()).unwrap();
            assert!(
                seen.iter().all(|(x, y, _)| {
                    (sides[0]..sides[2]).contains(x) && (sides[1]..sides[3]).contains(y)
                })
            );
        }
        assert!(!line["questions"].as_array().unwrap().is_empty());
    }
}

#[test]
fn a_stopped_run_goes_on_and_more_can_be_added() {
    let (parts, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arguments = |count: &'static str| ["--size", "16", "--level", "1", "--count", count];
    made(parts.path(), &arguments("3"));
    fs::remove_file(parts.path().join("masks/000001.png")).unwrap();
    let report = made(parts.path(), &arguments("6"));
    assert_eq!(report["kept"].as_u64(), Some(3 * 4 - 1));
    made(whole.path(), &arguments("6"));
    assert_eq!(files(parts.path()), files(whole.path()));
}

#[test]
fn every_kind_is_written_whole() {
    for (kind, ends, count) in [
        ("videos", &["gif", "safetensors"][..], 2),
        ("pairs", &["png"][..], 4),
        ("shapes", &["obj", "ply", "safetensors", "png"][..], 2),
        ("volumes", &["safetensors", "png"][..], 2),
    ] {
        let folder = tempfile::tempdir().unwrap();
        made(folder.path(), &["--kind", kind, "--size", "32", "--count", "2", "--level", "3"]);
        let written = files(folder.path());
        for end in ends {
            let found = written.keys().filter(|name| name.ends_with(end) && name.contains('/')).count();
            assert_eq!(found, if kind == "pairs" { count } else { 2 }, "{kind} {end}");
        }
        for line in lines(folder.path()) {
            let named = line.as_object().unwrap().iter().filter(|(key, _)| key.ends_with("file_name"));
            named.for_each(|(_, name)| assert!(written.contains_key(name.as_str().unwrap()), "{name}"));
            assert!(!line["text"].as_str().unwrap().is_empty());
        }
        for (name, bytes) in written.iter().filter(|(name, _)| name.ends_with("safetensors")) {
            whit::load::Safetensors::open(&folder.path().join(name)).unwrap();
            assert!(bytes.len() > 1000);
        }
        assert_eq!(
            Folder::open(folder.path()).unwrap().batch(&[0, 1], 16).unwrap().images.len(),
            2 * 3 * 256
        );
    }
}

#[test]
fn what_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, part) in [
        (&["--level", "6"][..], "level 6"),
        (&["--size", "8"][..], "16 to 256"),
        (&["--kind", "pairs", "--size", "50"][..], "divides"),
    ] {
        let output = world(folder.path(), arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(part), "{error}");
        assert!(files(folder.path()).is_empty(), "a refusal writes nothing");
    }
    fs::write(folder.path().join("mine.txt"), "mine").unwrap();
    let output = world(folder.path(), &["--count", "1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("not made with these settings"));
    let used = tempfile::tempdir().unwrap();
    made(used.path(), &["--count", "1", "--size", "16"]);
    assert_eq!(world(used.path(), &["--count", "1", "--size", "16", "--seed", "9"]).status.code(), Some(2));
}
