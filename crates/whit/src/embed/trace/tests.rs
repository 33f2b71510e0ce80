use super::*;
use crate::embed::Guess;
use crate::methods::Plan;
use crate::methods::reducers::testing::{plan, vision};
use crate::methods::reducers::{Part, TokenMap};

fn guess(label: &str, probability: f32) -> Guess {
    Guess { label: label.into(), probability, logit: 0.0 }
}

/// Of 64 patches behind a class token, the first two share a token, the last is gone.
fn trace() -> Trace {
    let part = |source: usize| Part::whole(source, source.saturating_sub(usize::from(source > 1)), 1.0);
    let map = TokenMap::new(65, 63, (0..64).map(part).collect()).unwrap();
    let history = History {
        protected: 1,
        tokens: 65,
        left: vec![65, 63],
        steps: vec![(1, map)],
        attention: vec![vec![1.0 / 65.0; 65]; 2],
    };
    let picture = Picture { width: 16, height: 16, rgb: (0..768).map(|at| (at % 251) as u8).collect() };
    let classes = [vec![guess("a <b>", 0.8)], vec![guess("c", 0.6), guess("a <b>", 0.3)]];
    let image = Traced { name: "x/y <z>.png".into(), picture, history, classes };
    Trace { model: "m".into(), config: vision(2).config().clone(), images: vec![image] }
}

#[test]
fn patches_stand_in_groups_or_are_gone() {
    let trace = trace();
    let stages = trace.images[0].stages();
    let cells = Cells::of(&stages[1], [8, 8]);
    assert_eq!(
        (cells.dropped.as_slice(), cells.groups.len(), &cells.groups[0].patches),
        (&[63][..], 1, &vec![0, 1])
    );
    assert_eq!(cells.outline(&cells.groups[0]).len(), 6, "the border of two squares side by side");
    assert!(Cells::of(&stages[0], [8, 8]).groups.is_empty());
}

#[test]
fn maps_tint_what_is_merged_grey_what_is_gone_and_leave_the_rest() {
    let trace = trace();
    let picture = &trace.images[0].picture;
    let stages = trace.images[0].stages();
    let plain = Cells::of(&stages[0], [8, 8]).paint(picture);
    let map = Cells::of(&stages[1], [8, 8]).paint(picture);
    assert_eq!((map.width, map.height), (256, 256));
    let pixel = |map: &Picture, x: usize, y: usize| map.rgb[3 * (y * 256 + x)..][..3].to_vec();
    assert_eq!(pixel(&map, 100, 100), pixel(&plain, 100, 100));
    assert_ne!(pixel(&map, 16, 16), pixel(&plain, 16, 16));
    let gone = pixel(&map, 250, 250);
    assert!(gone[0] == gone[1] && gone[1] == gone[2], "{gone:?}");
}

#[test]
fn a_page_is_one_file_with_every_map_and_no_word_of_it_is_code() {
    let trace = trace();
    let page = page(&trace, &plan("tome:r=1", 2).unwrap()).unwrap();
    assert_eq!(page.matches("<svg class=map").count(), 2 + 1 + 2, "two maps, the mean and two heads");
    assert_eq!((page.matches("data-p=").count(), page.matches("class=gone d=").count()), (1, 1));
    assert!(page.contains("a &lt;b&gt;") && !page.contains("<z>") && page.contains("another"));
    assert!(page.contains("80.0 %") && page.contains("30.0 %") && page.contains("63 of 65"));
    assert!(!page.contains("http") && !page.contains("url(") && page.contains("data:image/png;base64,"));
}

#[test]
fn a_plain_run_has_a_page_too() {
    let mut trace = trace();
    trace.images[0].history.steps.clear();
    trace.images[0].history.left = vec![65; 2];
    let plain: Plan = plan("tome:r=0", 2).unwrap().live().unwrap();
    let page = page(&trace, &plain).unwrap();
    assert!(page.contains("No method was on") && !page.contains("another"));
    assert!((trace.cost(&trace.images[0]) - 1.0).abs() < 1e-9);
}

#[test]
fn files_are_pictures_with_names_that_say_what_they_show() {
    let files = trace().files().unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = ["patches", "tokens-block-02", "attention-mean", "attention-head-01", "attention-head-02"]
        .map(|place| format!("01-y--z--{place}.png"));
    assert_eq!(names, wanted);
    for (name, bytes) in &files {
        let picture = Picture::decode(bytes, std::path::Path::new(name)).unwrap();
        assert_eq!((picture.width, picture.height), (256, 256));
    }
}
