//! The few words that captions, questions and answers are made of, for models that read words.

use std::sync::LazyLock;

use super::clip::Motion;
use super::{Colour, Kind, Relation, Size, Texture};

/// Words that are no value of any list.
const GLUE: &str = "a an and the , ? at in on top bottom left right centre nothing zero one two three four five six \
    seven eight nine ten picture image scene of with this shows Is Are How What there are many more than colour is \
    shape object pattern does have larger yes no";

static WORDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let kinds = Kind::ALL.iter().flat_map(|kind| [kind.name(), kind.plural()]);
    let others = [
        Colour::ALL.iter().map(|value| value.name()).collect::<Vec<_>>(),
        Size::ALL.iter().map(|value| value.name()).collect(),
        Texture::ALL.iter().map(|value| value.name()).collect(),
        Relation::ALL.iter().map(|value| value.name()).collect(),
        Motion::ALL.iter().map(|value| value.name()).collect(),
    ];
    let named = kinds.chain(others.into_iter().flatten()).flat_map(str::split_whitespace);
    let mut words: Vec<&str> = named.chain(GLUE.split_whitespace()).collect();
    words.sort_unstable();
    words.dedup();
    words
});

/// Every word and mark, sorted.
pub fn vocabulary() -> &'static [&'static str] {
    &WORDS
}

/// The words of a text, commas and question marks being words of their own.
pub fn words(text: &str) -> Vec<&str> {
    text.split_whitespace()
        .flat_map(|word| {
            let (word, mark) = word.split_at(word.len() - usize::from(word.ends_with([',', '?'])));
            [word, mark]
        })
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn marks_are_words() {
        assert_eq!(words("a star, and?"), ["a", "star", ",", "and", "?"]);
    }

    #[test]
    fn all_that_is_said_is_in_the_vocabulary() {
        let check = |text: &str| {
            for word in words(text) {
                assert!(vocabulary().contains(&word), "{word} in {text}");
            }
        };
        for level in 1..=5 {
            for index in 0..60 {
                let world = World::new(8, level, 64).unwrap();
                let scene = world.sample(index);
                scene.captions().iter().for_each(|(_, caption)| check(caption));
                check(&world.clip(index, 4).caption());
                for question in scene.questions() {
                    check(&question.text);
                    check(&question.answer);
                }
            }
        }
        assert!(vocabulary().len() < 128);
    }
}
