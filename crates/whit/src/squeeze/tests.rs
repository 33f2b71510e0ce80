//! The compressor from text to text, on the shipped model and on random ones.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn squeezer() -> Arc<Squeezer> {
    shipped().unwrap()
}

fn squeeze(texts: &[&str], settings: &Settings) -> Vec<Squeezed> {
    let squeezer = squeezer();
    squeezer.squeeze(texts, squeezer.tokenizer(), settings).unwrap().0
}

fn rate(rate: f64) -> Settings {
    Settings::new(Amount::Rate(rate))
}

/// Sentences of random words, marks and numbers.
fn babble(sentences: usize, seed: u64) -> String {
    let words = [
        "the",
        "meeting",
        "of",
        "budget",
        "is",
        "was",
        "Ünïcode",
        "42",
        "and",
        "so",
        "x-ray",
        "don't",
        "🦀",
        "3.14",
        "well",
    ];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for _ in 0..sentences {
        for at in 0..random.random_range(3..20) {
            text += if at > 0 { " " } else { "" };
            text += words[random.random_range(0..words.len())];
            text += ["", "", "", ",", ";"][random.random_range(0..5)];
        }
        text += [". ", "! ", ".\n", "?\n\n"][random.random_range(0..4)];
    }
    text
}

/// The words and marks of `text` by the aligner's rule, which knows nothing of tokens.
fn bare(text: &str) -> Vec<&str> {
    crate::train::align::words(text).into_iter().map(|range| &text[range]).collect()
}

#[test]
fn what_stays_is_a_subsequence_of_the_words_that_were_there() {
    for seed in 0..20 {
        let text = babble(12, seed);
        for settings in [rate(0.3), rate(0.8), Settings { scope: Scope::Prompt, ..rate(0.5) }] {
            let squeezed = squeeze(&[&text], &settings).remove(0);
            let mut kept = squeezed
                .words
                .iter()
                .zip(&squeezed.kept)
                .filter(|(_, kept)| **kept)
                .map(|(word, _)| &text[word.bytes.clone()]);
            let rest =
                kept.try_fold(squeezed.text.as_str(), |rest, word| rest.trim_start().strip_prefix(word));
            assert_eq!(rest, Some(""), "{:?} is not made of the kept words of {text:?}", squeezed.text);
            let source = bare(&text).concat();
            let mut letters = source.chars().filter(|letter| !letter.is_whitespace());
            assert!(
                squeezed
                    .text
                    .chars()
                    .filter(|letter| !letter.is_whitespace())
                    .all(|letter| letters.any(|other| other == letter))
            );
        }
    }
}

#[test]
fn chunks_end_where_they_may_and_never_overflow() {
    let text = "a b. c d\ne f g h i";
    let spans: Vec<Range<usize>> = text
        .char_indices()
        .filter(|(_, letter)| !letter.is_whitespace())
        .map(|(at, letter)| at..at + letter.len_utf8())
        .collect();
    let ends = [".".to_owned(), "\n".to_owned()];
    assert_eq!(chunks(text, &spans, 4, &ends), [0..3, 3..5, 5..9, 9..10]);
    assert_eq!(chunks(text, &spans, 6, &ends), [0..5, 5..10]);
    assert_eq!(chunks(text, &spans, 6, &[]), [0..6, 6..10]);
    assert!(chunks("", &[], 6, &ends).is_empty());
    // Without a place to end, a chunk and its two marks fill the window and do not exceed it.
    let long = "word ".repeat(2000);
    let squeezed = squeeze(&[&long], &rate(0.5)).remove(0);
    let room = squeezer().encoder().config().context() - 2;
    let largest = squeezed.words.chunk_by(|a, b| a.chunk == b.chunk).map(<[Word]>::len).max();
    assert!(largest.unwrap() <= room);
}

#[test]
fn a_number_of_tokens_is_met_within_a_tenth() {
    for seed in 0..3 {
        let text = babble(400, seed);
        let original = squeezer().tokenizer().encode(&text, false).unwrap().len();
        assert!(original > 2000, "{original}");
        for target in [original / 8, original / 3, original * 2 / 3] {
            for scope in [Scope::Chunk, Scope::Prompt, Scope::Corpus] {
                let settings = Settings { scope, ..Settings::new(Amount::Tokens(target)) };
                let found = squeeze(&[&text], &settings).remove(0).tokens;
                let off = found as f64 / target as f64 - 1.0;
                assert!(off.abs() <= 0.1, "{found} tokens instead of {target} in scope {scope:?}");
            }
        }
    }
}

#[test]
fn forced_marks_digits_and_line_breaks_stay() {
    let text = babble(30, 5);
    let forced = Settings {
        force_tokens: vec!["\n".into(), "!".into(), "x-ray".into()],
        keep_digits: true,
        ..rate(0.6)
    };
    let squeezed = squeeze(&[&text], &forced).remove(0);
    for mark in ["\n", "!", "x-ray", "42"] {
        assert_eq!(
            squeezed.text.matches(mark).count(),
            text.matches(mark).count(),
            "{mark:?} in {}",
            squeezed.text
        );
    }
    let once = Settings { drop_consecutive: true, ..forced };
    let twice = squeeze(&["one\n\n\n\ntwo three four five six"], &once).remove(0);
    assert!(!twice.text.contains("\n\n"), "{:?}", twice.text);
}

#[test]
fn whole_texts_can_be_dropped_first() {
    let texts = ["The invoice of Amara is 48213.", "um you know so like well", "Room 17 costs 900 dollars."];
    let filter =
        |forced: Vec<usize>| Settings { filter: Some(Filter { rate: Some(0.67), forced }), ..rate(0.5) };
    let squeezed = squeeze(&texts, &filter(vec![]));
    assert!(squeezed[1].text.is_empty() && squeezed[0].text.contains("48213"), "{squeezed:?}");
    // The texts that are left may keep more than half, since one is gone already.
    let left: usize = [0, 2].map(|at| squeezed[at].tokens).iter().sum();
    let plain: usize = [0, 2].map(|at| squeeze(&texts, &rate(0.5))[at].tokens).iter().sum();
    assert!(left >= plain, "{left} {plain}");
    assert!(!squeeze(&texts, &filter(vec![1]))[1].text.is_empty());
}

#[test]
fn one_threshold_for_all_texts_leaves_more_of_the_one_that_says_more() {
    let texts = [
        "The code 48213 opens vault seven, Petra sold copper shares.",
        "so um you know it is as it was and so on and on",
    ];
    let squeezed = squeeze(&texts, &Settings { scope: Scope::Corpus, ..rate(0.5) });
    let share = |one: &Squeezed| one.tokens as f64 / one.original as f64;
    assert!(share(&squeezed[0]) > share(&squeezed[1]) + 0.3, "{squeezed:?}");
}

#[test]
fn nothing_stays_nothing_and_a_rate_of_one_changes_nothing() {
    for text in ["", " ", "\n\n"] {
        let squeezed = squeeze(&[text], &rate(0.5)).remove(0);
        assert!(squeezed.text.trim().is_empty() && squeezed.tokens == 0);
    }
    let text = " {\"a\":  [1,2]}\t";
    assert_eq!(squeeze(&[text], &rate(1.0)).remove(0).text, text);
}

#[test]
fn bad_settings_are_refused() {
    let refuse = |settings: &Settings| {
        let squeezer = squeezer();
        squeezer.squeeze(&["x"], squeezer.tokenizer(), settings).unwrap_err().to_string()
    };
    for wrong in [0.0, -1.0, 1.01, f64::NAN] {
        assert!(refuse(&rate(wrong)).contains("fraction to keep"));
    }
    assert!(refuse(&Settings { force_tokens: vec!["a".into(); 101], ..rate(0.5) }).contains("101"));
    assert!(refuse(&Settings { force_tokens: vec![String::new()], ..rate(0.5) }).contains("empty"));
    assert!(matches!(Amount::new(None, None), Err(SqueezeError::NoAmount)));
}

/// XLM-RoBERTa's vocabulary lacks BERT's names, so the official marks are its unknown token.
#[test]
fn the_official_marks_are_looked_up_by_berts_names() {
    let squeezer = squeezer();
    assert_eq!(squeezer.marks, squeezer.official);
    let (native, official) = (rate(0.5), Settings { native_specials: false, ..rate(0.5) });
    assert_eq!(squeeze(&[&babble(5, 1)], &native), squeeze(&[&babble(5, 1)], &official));
}

#[test]
fn a_text_is_judged_the_same_in_any_company() {
    let texts: Vec<String> = (0..4).map(|seed| babble(8, seed)).collect();
    let together = squeeze(&texts.iter().map(String::as_str).collect::<Vec<_>>(), &rate(0.4));
    let alone: Vec<Squeezed> = texts.iter().flat_map(|text| squeeze(&[text], &rate(0.4))).collect();
    assert_eq!(together, alone);
}
