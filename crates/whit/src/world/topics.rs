//! Texts about made-up topics: some words belong to a topic, the others to nobody, so that it is known which texts
//! belong together whatever their length.

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A collection of topics. The same numbers give the same texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Topics {
    /// What everything follows from.
    pub seed: u64,
    /// Different words of all texts together.
    pub vocabulary: usize,
    /// Words that belong to a topic.
    pub own: usize,
    /// The share of a text's words that are of its topic.
    pub focus: f64,
}

/// Syllables of a word.
const SYLLABLES: [[&str; 2]; 10] = [
    ["ba", "lo"],
    ["ke", "mi"],
    ["du", "ra"],
    ["fo", "ne"],
    ["gi", "su"],
    ["ha", "to"],
    ["je", "vi"],
    ["lu", "pa"],
    ["mo", "ze"],
    ["ni", "ku"],
];

/// Word `number`, which no other number has.
fn word(number: usize) -> String {
    let mut rest = number;
    let mut word = String::new();
    for place in 0.. {
        word.push_str(SYLLABLES[rest % 10][place % 2]);
        rest /= 10;
        if rest == 0 && place >= 2 {
            break;
        }
    }
    word
}

impl Topics {
    /// All words, in no order that means anything.
    pub fn words(&self) -> Vec<String> {
        (0..self.vocabulary).map(word).collect()
    }

    /// Text `number` about topic `topic`, of so many words.
    pub fn text(&self, topic: u64, number: u64, words: usize) -> String {
        let own = self.own_words(topic);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ topic.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.set_stream(number + 1);
        let mut next = || match own.choose(&mut random) {
            Some(&own) if random.random_bool(self.focus) => word(own),
            _ => word(random.random_range(0..self.vocabulary)),
        };
        (0..words).map(|_| next()).collect::<Vec<_>>().join(" ")
    }

    fn own_words(&self, topic: u64) -> Vec<usize> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ topic.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..self.own).map(|_| random.random_range(0..self.vocabulary)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TOPICS: Topics = Topics { seed: 3, vocabulary: 1500, own: 12, focus: 0.4 };

    #[test]
    fn no_two_words_are_the_same() {
        let words = TOPICS.words();
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), 1500);
        assert!(words.iter().all(|word| word.chars().all(|letter| letter.is_ascii_lowercase())));
    }

    #[test]
    fn texts_of_a_topic_share_its_words_and_others_do_not() {
        let bag = |topic, number| -> Vec<String> {
            TOPICS.text(topic, number, 400).split(' ').map(str::to_owned).collect()
        };
        let shared = |a: &[String], b: &[String]| {
            let known: HashSet<&String> = b.iter().collect();
            a.iter().filter(|word| known.contains(word)).count() as f64 / a.len() as f64
        };
        let (one, same, other) = (bag(5, 0), bag(5, 1), bag(6, 0));
        assert_eq!(one.len(), 400);
        assert!(shared(&one, &same) > 0.4 && shared(&one, &other) < 0.35);
        assert_eq!(one, bag(5, 0));
    }
}
