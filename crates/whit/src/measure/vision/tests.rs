use super::*;
use crate::methods::reducers::testing::{plan, vision};

/// A model of random weights and 64 patches.
fn images() -> Images {
    Images::plain(vision(4))
}

fn pictures(count: usize) -> Vec<Picture> {
    let pixel = |at: usize| (at * at * 31 % 255) as u8;
    let picture =
        |number| Picture { width: 16, height: 16, rgb: (number..number + 768).map(pixel).collect() };
    (0..count).map(picture).collect()
}

fn measured(labels: bool) -> Vec<VisionRecord> {
    let model = images();
    let setting = Setting::here("m".into(), "native".into(), false, 0);
    let task = VisionTask { model: &model, setting };
    let variant = |method: &str| Variant { name: method.into(), plan: plan(method, 4).unwrap() };
    let plain = plan("tome:r=0", 4).unwrap();
    let scores = model.logits(&pictures(5), &mut |_| None).unwrap();
    let mut answers: Vec<usize> = scores.iter().map(|scores| best(scores)).collect();
    answers[4] = (answers[4] + 1) % 3;
    let mut batches = vec![pictures(5)];
    let mut next = || -> Result<Option<Labelled>, MethodError> {
        Ok(batches.pop().map(|batch| (batch, labels.then(|| answers.clone()))))
    };
    task.measure(plain, vec![variant("tome:r=8"), variant("random-drop:keep=0.5")], &mut next).unwrap()
}

#[test]
fn the_baseline_comes_first_and_every_variant_is_counted() {
    let records = measured(true);
    let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, [BASELINE, "tome:r=8", "random-drop:keep=0.5"]);
    let baseline = &records[0];
    assert_eq!((baseline.agreement, baseline.accuracy, baseline.saved), (1.0, Some(0.8), 0.0));
    assert_eq!((baseline.pictures, baseline.tokens.as_slice()), (5, &[65; 4][..]));
    assert_eq!(records[1].tokens, [57, 49, 41, 33]);
    assert!(records[1].saved > 0.2 && records[1].methods.starts_with("tome:r=8"));
    assert!(records.iter().all(|record| record.seconds.median > 0.0 && !record.warnings.is_empty()));
}

#[test]
fn without_classes_sameness_is_what_is_plotted() {
    let records = measured(false);
    assert!(records.iter().all(|record| record.accuracy.is_none()));
    let page = page("a & b", &records);
    assert_eq!(page.matches("<circle").count(), 6);
    assert!(page.contains("plain model's class") && page.contains("a &amp; b") && !page.contains("http"));
    assert!(write::csv(&records).lines().all(|line| line.split(',').count() >= VisionRecord::VALUES.len()));
}

#[test]
fn a_pace_is_found_for_a_cost() {
    let model = images();
    let plan = |list: &str| plan(&format!("tome:list={list}"), 4);
    for share in [0.8, 0.5] {
        let list = paced(&model, share, &plan).unwrap();
        let found =
            1.0 - VisionCost::of(model.model().config()).saved(&left(&model, &plan(&list).unwrap()).unwrap());
        assert!((found - share).abs() < 0.02, "{list}: {found}");
    }
    assert_eq!(even(10, 4), "2|3|2|3");
}
