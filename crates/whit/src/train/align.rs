//! From a text and its compressed form to labels: which words of the text were kept (Pan et al., 2024,
//! section 3 and its `label_word.py`), and how far the pair can be trusted.

use std::collections::HashSet;
use std::ops::Range;

/// A pair of texts, aligned.
#[derive(Clone, Debug, PartialEq)]
pub struct Aligned {
    /// The words and marks of the source, by their bytes.
    pub words: Vec<Range<usize>>,
    /// Which of them were kept.
    pub kept: Vec<bool>,
    /// How good the pair is.
    pub quality: Quality,
}

/// Measures of one pair, by which bad ones are sorted out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Variation rate: the share of compressed words that the source does not have.
    pub variation: f64,
    /// Matching rate: labelled words by words of the source.
    pub matching: f64,
    /// Hitting rate: compressed words that the source has, by words of the source.
    pub hitting: f64,
}

impl Quality {
    /// Alignment gap: what the source has, but could not be labelled.
    pub fn gap(&self) -> f64 {
        self.hitting - self.matching
    }
}

/// How far from the last match a word is looked for.
pub const WINDOW: usize = 400;

/// Labels the words of `source` that are in `compressed`; commas are left out of account.
pub fn align(source: &str, compressed: &str, window: usize) -> Aligned {
    let words = words(source);
    let lower = |text: &str, range: &Range<usize>| text[range.clone()].to_lowercase();
    let texts: Vec<String> = words.iter().map(|range| lower(source, range)).collect();
    let wanted: Vec<String> = self::words(compressed)
        .iter()
        .map(|range| lower(compressed, range))
        .filter(|word| word != ",")
        .collect();
    let mut kept = vec![false; words.len()];
    let mut last = 0;
    for word in &wanted {
        if let Some(hit) = search(&texts, &kept, word, last, window) {
            kept[hit] = true;
            last = if hit > last { hit.min(last + window / 2) } else { hit };
        }
    }
    let known: HashSet<&String> = texts.iter().collect();
    let hits = wanted.iter().filter(|word| known.contains(word)).count() as f64;
    let (size, labelled) = (words.len().max(1) as f64, kept.iter().filter(|&&kept| kept).count() as f64);
    let variation = 1.0 - hits / wanted.len().max(1) as f64;
    let variation = if wanted.is_empty() { 0.0 } else { variation };
    let quality = Quality { variation, matching: labelled / size, hitting: hits / size };
    Aligned { words, kept, quality }
}

/// The nearest word that equals `word` and is not labelled yet, forward before backward.
fn search(texts: &[String], kept: &[bool], word: &str, last: usize, window: usize) -> Option<usize> {
    let fits = |&at: &usize| at < texts.len() && !kept[at] && texts[at] == word;
    (0..window).find_map(|step| [last + step, last.saturating_sub(step)].into_iter().find(fits))
}

/// Runs of letters and digits (with apostrophes and points inside), and single marks.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut inside = false;
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let end = at + letter.len_utf8();
        let next = letters.peek().is_some_and(|(_, next)| next.is_alphanumeric());
        let joins = inside && next && matches!(letter, '\'' | '.' | '-' | '’');
        match words.last_mut() {
            Some(word) if inside && (letter.is_alphanumeric() || joins) => word.end = end,
            _ if letter.is_whitespace() => {}
            _ => words.push(at..end),
        }
        inside = letter.is_alphanumeric() || joins;
    }
    words
}

/// Sorts out the worst tenth by variation, and of the rest the worst tenth by alignment gap; pairs as
/// good as the bound stay, so that equally good ones share their fate.
pub fn trusted(qualities: &[Quality]) -> Vec<bool> {
    let bound = |values: Vec<f64>| crate::squeeze::select::percentile(values, 90.0).unwrap_or(f64::INFINITY);
    let most = bound(qualities.iter().map(|one| one.variation).collect());
    let rest = qualities.iter().filter(|one| one.variation <= most).map(Quality::gap);
    let gap = bound(rest.collect());
    qualities.iter().map(|one| one.variation <= most && one.gap() <= gap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(source: &str, compressed: &str, window: usize) -> Vec<String> {
        let aligned = align(source, compressed, window);
        let words = aligned.words.iter().zip(&aligned.kept).filter(|(_, kept)| **kept);
        words.map(|(range, _)| source[range.clone()].to_owned()).collect()
    }

    #[test]
    fn words_keep_their_points_and_lose_their_marks() {
        let text = "It's 3.5, o.k. (no-one)!";
        let found: Vec<&str> = words(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, ["It's", "3.5", ",", "o.k", ".", "(", "no-one", ")", "!"]);
    }

    #[test]
    fn a_word_is_labelled_once_at_its_nearest_place() {
        let aligned = align("the cat, the dog and the cat", "cat dog cat", WINDOW);
        assert_eq!(aligned.kept, [false, true, false, false, true, false, false, true]);
        assert_eq!(aligned.quality, Quality { variation: 0.0, matching: 0.375, hitting: 0.375 });
        assert_eq!(kept("one two three", "three ONE", WINDOW), ["one", "three"]);
        assert_eq!(kept("one two three four", "four", 3), Vec::<String>::new());
    }

    #[test]
    fn added_and_doubled_words_show_in_the_measures() {
        let quality = align("a b c d", "a x", WINDOW).quality;
        assert_eq!((quality.variation, quality.gap()), (0.5, 0.0));
        let quality = align("a b c d", "a a", WINDOW).quality;
        assert_eq!((quality.variation, quality.gap()), (0.0, 0.25));
        assert_eq!(align("", "", WINDOW).quality.variation, 0.0);
    }

    #[test]
    fn the_worst_are_sorted_out() {
        let good = Quality { variation: 0.0, matching: 0.5, hitting: 0.5 };
        let mut all = vec![good; 20];
        all[3].variation = 0.2;
        all[7].hitting = 0.9;
        let trusted = trusted(&all);
        assert!(!trusted[3] && !trusted[7]);
        assert_eq!(trusted.iter().filter(|&&one| one).count(), 18);
    }
}
