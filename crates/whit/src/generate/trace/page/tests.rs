use std::path::Path;

use serde_json::{Value, json};

use super::data::COLUMNS;
use super::*;
use crate::generate::cache::HeadRows;
use crate::methods::{Accepted, Looking, ModelFacts, Moved, Reading, Selection, TokenTree};

fn tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/rust-lm");
    Tokenizer::open(&folder.join("tokenizer.json")).unwrap()
}

fn plan(methods: &[&str]) -> Plan {
    Plan::new(&Selection::parse(methods).unwrap(), &ModelFacts::example()).unwrap()
}

fn head(positions: &[u32]) -> HeadRows {
    let mut head = HeadRows::with_capacity(1, positions.len());
    positions.iter().for_each(|&position| head.push(&[0.0], &[0.0], position));
    head
}

/// The data in a page.
fn data(page: &str) -> Value {
    let (_, data) = page.split_once("id=data>").unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_plain_run_says_that_nothing_was_dropped() {
    let mut trace = Trace::new(2);
    trace.begin(&[40, 41, 42], 9);
    trace.first(&[43]);
    let page = page(&trace, "a < b", &plan(&[]), &tokenizer());
    assert!(page.contains("Nothing was dropped and nothing was guessed") && page.contains("a &lt; b"));
    for section in ["cut from the prompt", "cache kept", "keys were read", "accepted"] {
        assert!(!page.contains(&format!("{section}</h2>")), "{section}");
    }
    assert!(!page.contains("http") && !page.contains(" src="));
    assert_eq!(data(&page)["rows"], Value::Null);
}

#[test]
fn a_page_holds_fates_readings_and_steps() {
    let mut trace = Trace::new(2);
    trace.begin(&[40, 41, 42, 43], 16);
    let moved = [vec![Moved { from: 1, into: 3 }], vec![]];
    trace.thinned(0, &[vec![0, 1, 2, 3], vec![0, 1, 2, 3]], &moved, &[head(&[0, 3]), head(&[0, 1, 2, 3])]);
    trace.first(&[44]);
    for (layer, reading) in [(0, Reading::AllScored), (1, Reading::Rows(&[Some(vec![0, 4]), Some(vec![4])]))]
    {
        trace.read(&Looking { layer, rows: 5, new: 1 }, &reading, &[0, 1, 2, 3, 4]);
    }
    let tree = TokenTree::new(vec![44, 45, 46], vec![None, Some(0), Some(0)]).unwrap();
    trace.left(1);
    trace.verified(&tree, &Accepted { path: vec![0, 1], next: 47 }, &[45, 47]);
    let page = page(&trace, "m", &plan(&["h2o", "token-recycling"]), &tokenizer());
    let data = data(&page);
    let rows = &data["rows"]["layers"];
    assert_eq!((&rows[0][0]["k"], &rows[0][0]["m"]), (&json!("900999"), &json!("090000")));
    assert_eq!(rows[0][0]["g"], json!([[1, 0, 4], [2, 0, 0]]));
    assert_eq!(rows[1][1]["k"], "999999");
    assert_eq!(data["reads"]["layers"], json!([[], ["50009"]]));
    let step = &data["steps"][1];
    assert_eq!(
        (&step["a"], &step["deep"], &step["l"], &step["n"]),
        (&json!(1), &json!(1), &json!(1), &json!(2))
    );
    assert!(page.contains("2 were drafted and 1 accepted") || page.contains("2 were drafted"));
    assert!(page.contains("<i class=d data-s=1>") && page.contains("<i class=m data-s=1>"));
    assert!(page.contains("H2O") && page.contains("Token Recycling"));
}

#[test]
fn cut_words_are_struck_out_and_markup_stays_text() {
    let cut = Cut {
        tokens: [9, 5],
        before: "<b>so um</b> it is".into(),
        after: "<b>so it".into(),
        stayed: Some(vec![0..5, 12..15]),
    };
    assert_eq!(struck(&cut), "<div class=text>&lt;b&gt;so<s> um&lt;/b&gt;</s> it<s> is</s></div>");
    assert!(struck(&Cut { stayed: None, ..cut }).contains("does not say"));
}

#[test]
fn a_page_of_a_long_run_stays_small_and_says_so() {
    let mut trace = Trace::new(4);
    let tokens: Vec<u32> = (0..50_000).map(|at| 40 + at % 50).collect();
    trace.begin(&tokens, 60_000);
    let all: Vec<u32> = (0..50_000).collect();
    for layer in 0..4 {
        trace.thinned(layer, &vec![all.clone(); 2], &[], &[head(&all[49_000..]), head(&all[..7])]);
    }
    trace.first(&[40]);
    let page = page(&trace, "m", &plan(&["h2o"]), &tokenizer());
    assert!(page.len() < 1_000_000, "{}", page.len());
    assert!(page.contains("neighbouring tokens share a column") && page.contains("tokens are not shown"));
    let rows = &data(&page)["rows"]["layers"][3];
    let count = |head: usize| rows[head]["k"].as_str().unwrap().matches(|digit| digit != '0').count();
    assert!(count(0) < 30 && count(1) == 1 && rows[0]["k"].as_str().unwrap().len() <= COLUMNS);
}
