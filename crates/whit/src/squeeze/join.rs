//! From kept words back to text.

use super::Word;

/// The kept words with what stood before them, and a space where what was dropped had kept two apart.
pub(super) fn join(text: &str, words: &[Word], kept: &[bool]) -> String {
    let (mut joined, mut end) = (String::new(), 0);
    for (at, word) in words.iter().enumerate().filter(|(at, _)| kept[*at]) {
        let before = at.checked_sub(1).map_or(0, |before| words[before].bytes.end);
        let gap = &text[before.min(word.bytes.start)..word.bytes.start];
        let own = &text[word.bytes.clone()];
        if !joined.is_empty() {
            let dropped = text.get(end..word.bytes.start).unwrap_or_default();
            joined.push_str(match gap {
                "" if parts(&joined, dropped, own) => " ",
                // A line whose first words went begins with the next.
                _ if dropped.len() > gap.len() && joined.ends_with(char::is_whitespace) => gap.trim_start(),
                gap => gap,
            });
        }
        joined.push_str(own);
        end = word.bytes.end;
    }
    joined
}

/// Whether `own` has to stand apart from what is before it, `dropped` having stood between them.
fn parts(before: &str, dropped: &str, own: &str) -> bool {
    let letters = before.ends_with(char::is_alphanumeric) && own.starts_with(char::is_alphanumeric);
    let clings = own.starts_with(|letter: char| letter.is_whitespace() || ".,;:!?)]}".contains(letter));
    !dropped.is_empty() && (letters || (dropped.contains(char::is_whitespace) && !clings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str, parts: &[&str], keep: &[usize]) -> String {
        let mut at = 0;
        let word = |part: &&str| {
            let start = at + text[at..].find(part).unwrap();
            at = start + part.len();
            Word { bytes: start..at, probability: 0.0, forced: None, chunk: 0 }
        };
        let words: Vec<Word> = parts.iter().map(word).collect();
        join(text, &words, &(0..words.len()).map(|at| keep.contains(&at)).collect::<Vec<_>>())
    }

    #[test]
    fn words_keep_their_spaces_and_never_grow_together() {
        let (text, parts) = ("One, two\n  three-four.", ["One", ",", "two", "three", "-", "four", "."]);
        assert_eq!(joined(text, &parts, &[0, 1, 2, 3, 4, 5, 6]), text);
        assert_eq!(joined(text, &parts, &[2, 3, 6]), "two\n  three.");
        assert_eq!(joined(text, &parts, &[0, 3, 5]), "One\n  three four");
        assert_eq!(joined(text, &parts, &[]), "");
        let (text, parts) = ("a.\nb c d.", ["a", ".", "\n", "b", "c", "d", "."]);
        assert_eq!(joined(text, &parts, &[0, 1, 3, 6]), "a. b.");
        assert_eq!(joined(text, &parts, &[0, 1, 2, 3]), "a.\nb");
        assert_eq!(joined(text, &parts, &[0, 1, 2, 5]), "a.\nd");
    }
}
