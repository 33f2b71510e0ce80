//! Passages with superfluous words, and what an editor who may only delete leaves of them: data for
//! learning which words of a prompt can go. Sentences of prose are mixed with stated facts, repeated
//! sentences, fillers and stutters. The editor drops stop words, fillers and repetitions, and keeps the
//! rest; like a language model in that role it sometimes breaks the rules and adds a word.

use std::ops::Range;

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::corpus::Document;

/// A passage, what the editor left of it, and where its facts stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// The text.
    pub source: String,
    /// The text without the superfluous words.
    pub compressed: String,
    /// The bytes of `source` that hold the words of stated facts: keys and values.
    pub facts: Vec<Range<usize>>,
}

/// Sentences to make passages of.
#[derive(Clone, Debug)]
pub struct Prose(Vec<String>);

/// What one word is to the editor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Plain,
    /// A key or a value.
    Fact,
    Superfluous,
}

const FILLERS: [&str; 24] = [
    "um",
    "uh",
    "er",
    "you know",
    "I mean",
    "sort of",
    "kind of",
    "basically",
    "actually",
    "literally",
    "well",
    "okay",
    "right",
    "so",
    "like",
    "anyway",
    "I guess",
    "to be honest",
    "as it were",
    "let me see",
    "let's say",
    "at the end of the day",
    "if you will",
    "hmm",
];

const LEADS: [&str; 6] =
    ["again", "as I said", "once more", "just to repeat", "to say it again", "like I said"];

const STOP_WORDS: &str = " a about above after again all also although am an and any are aren't as at be because been \
    before being below between both but by can could did do does doing done down during each either else ever every \
    for from further get gets got had has have having he her here hers herself him himself his how however i if in \
    into is isn't it it's its itself just let's may me might more most much must my myself of off on once one only or \
    other our ours ourselves out over own quite rather really same shall she should simply since so some such than \
    that that's the their theirs them themselves then there there's these they this those though through thus to too \
    under until up upon us very was we were what when where whether which while who whom whose why will with within \
    would yet you you're your yours yourself ";

const NAMES: [&str; 32] = [
    "Amara", "Boris", "Chen", "Dalia", "Emil", "Farah", "Goran", "Hana", "Ines", "Jonas", "Katya", "Liam",
    "Mina", "Nadia", "Omar", "Petra", "Quentin", "Rosa", "Stefan", "Tara", "Umar", "Vera", "Wanda", "Yusuf",
    "Zoe", "Archer", "Bennett", "Castillo", "Dubois", "Eriksen", "Fischer", "Garcia",
];

const THINGS: [&str; 32] = [
    "amber", "anchor", "bridge", "castle", "cedar", "copper", "falcon", "garden", "harbor", "island",
    "ivory", "lantern", "maple", "meadow", "mirror", "ocean", "orchard", "pepper", "quartz", "river",
    "saddle", "silver", "thunder", "valley", "violet", "winter", "budget", "contract", "report", "server",
    "invoice", "parcel",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Statements; `$` is a name, `#` a number, `%` a thing, `@` a month.
const FACTS: [&str; 12] = [
    "the code of the % is #",
    "the number for % is #",
    "$ will send the % on @ #",
    "the % was sold to $ for # dollars",
    "we owe $ # dollars for the %",
    "$ moved from room # to the %",
    "the meeting about the % is on @ #",
    "the key % has the value #",
    "the password of $ is %#",
    "the % weighs # grams",
    "it was $ who found # errors in the %",
    "the % of $ starts at #",
];

/// Talk without facts.
const TALK: [&str; 12] = [
    "I think that we should be looking at the % before we do anything else",
    "thank you all for being here with us today",
    "does anybody have any questions about the %",
    "there is not really that much more to say about it",
    "what we were trying to do there was to improve the %",
    "$ did not agree with the proposal that was made",
    "we will come back to this in a moment",
    "nobody has ever complained about the % as far as I can tell",
    "that would be a very good idea if we had more time",
    "could you please say a little bit more about the %",
    "it has been decided that the % will never be opened",
    "so this is where we are right now with the %",
];

impl Prose {
    /// The sentences of the comments and paragraphs of `documents`.
    pub fn new(documents: &[Document]) -> Self {
        let mut found: Vec<String> =
            documents.iter().flat_map(|document| sentences(&document.text)).collect();
        found.sort_unstable();
        found.dedup();
        Self(found)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A passage of about `words` words.
    pub fn passage(&self, words: usize, random: &mut impl Rng) -> Passage {
        let (mut writer, mut earlier) = (Writer::default(), Vec::new());
        let careless = random.random_bool(0.05);
        while writer.words < words {
            let kind = random.random_range(0..100);
            if kind < 12 && !earlier.is_empty() {
                writer.repeat(&earlier, random);
                continue;
            }
            let sentence = match kind {
                0..35 => statement(&FACTS, Part::Fact, random),
                35..55 => statement(&TALK, Part::Plain, random),
                _ => self.0.choose(random).map_or_else(Vec::new, |text| plain(text)),
            };
            writer.sentence(&sentence, random);
            earlier.push(sentence);
            if careless && random.random_bool(0.3) {
                writer.passage.compressed += " furthermore";
            }
        }
        writer.passage
    }
}

/// The sentences in the documentation of a text: lines of Markdown, or of Rust's comments.
fn sentences(text: &str) -> Vec<String> {
    let rust = text.contains("fn ") || text.contains("use ");
    let line = |line: &'_ str| -> String {
        let line = line.trim();
        let comment = line.strip_prefix("///").or(line.strip_prefix("//!")).or(line.strip_prefix("//"));
        comment.unwrap_or(if rust { "" } else { line }).trim().to_owned()
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    let paragraphs = lines.split(|line| line.is_empty() || line.starts_with(['#', '-', '*', '|', '`', '>']));
    let joined: Vec<String> = paragraphs.map(|lines| lines.join(" ")).collect();
    let parts = joined.iter().flat_map(|paragraph| paragraph.split_inclusive(". "));
    parts
        .map(str::trim)
        .filter(|sentence| is_prose(sentence))
        .map(|one| one.trim_end_matches('.').to_owned())
        .collect()
}

fn is_prose(sentence: &str) -> bool {
    let words = sentence.split(' ').count();
    let odd = |letter: char| !(letter.is_ascii_alphanumeric() || " ,'-.;:()".contains(letter));
    let plain = sentence.chars().filter(|&letter| letter.is_ascii_lowercase() || letter == ' ').count();
    (6..=28).contains(&words)
        && !sentence.contains(odd)
        && plain * 10 > sentence.len() * 9
        && sentence.ends_with('.')
}

type Sentence = Vec<(String, Part)>;

fn plain(text: &str) -> Sentence {
    text.split(' ').map(|word| (word.to_owned(), Part::Plain)).collect()
}

/// A statement with its blanks filled in; what fills them is `part`.
fn statement(forms: &[&str], part: Part, random: &mut impl Rng) -> Sentence {
    let form = forms.choose(random).copied().unwrap_or_default();
    let word = |word: &str| {
        let mut text = String::new();
        for letter in word.chars() {
            match letter {
                '$' => text += NAMES.choose(random).copied().unwrap_or_default(),
                '%' => text += THINGS.choose(random).copied().unwrap_or_default(),
                '@' => text += MONTHS.choose(random).copied().unwrap_or_default(),
                '#' => text += &number(random),
                letter => text.push(letter),
            }
        }
        let filled = word.contains(['$', '%', '@', '#']);
        (text, if filled { part } else { Part::Plain })
    };
    form.split(' ').map(word).collect()
}

fn number(random: &mut impl Rng) -> String {
    match random.random_range(0..4) {
        0 => random.random_range(1..32).to_string(),
        1 => format!("{}.{}", random.random_range(1..100), random.random_range(1..10)),
        _ => random.random_range(100..100_000).to_string(),
    }
}

/// Writes source and compressed text side by side.
#[derive(Default)]
struct Writer {
    passage: Passage,
    words: usize,
}

impl Writer {
    fn sentence(&mut self, sentence: &Sentence, random: &mut impl Rng) {
        for (index, (word, part)) in sentence.iter().enumerate() {
            if random.random_bool(0.06) {
                self.filler(&FILLERS, random);
            }
            let capital = index == 0 && random.random_bool(0.8);
            let text = if capital { capitalised(word) } else { word.clone() };
            self.word(&text, *part);
            if *part == Part::Plain && random.random_bool(0.015) {
                self.word(&word.clone(), Part::Superfluous);
            }
        }
        self.stop(true, random);
    }

    /// Says something again, of which the editor leaves nothing.
    fn repeat(&mut self, earlier: &[Sentence], random: &mut impl Rng) {
        let recent = &earlier[earlier.len().saturating_sub(4)..];
        let Some(sentence) = recent.choose(random) else { return };
        if random.random_bool(0.6) {
            self.filler(&LEADS, random);
        }
        sentence.iter().for_each(|(word, _)| self.word(word, Part::Superfluous));
        self.stop(false, random);
    }

    fn filler(&mut self, fillers: &[&str], random: &mut impl Rng) {
        for word in fillers.choose(random).copied().unwrap_or_default().split(' ') {
            self.word(word, Part::Superfluous);
        }
        if random.random_bool(0.5) {
            self.passage.source.push(',');
        }
    }

    fn word(&mut self, word: &str, part: Part) {
        let Passage { source, compressed, facts } = &mut self.passage;
        if !source.is_empty() {
            source.push(' ');
        }
        let start = source.len();
        source.push_str(word);
        self.words += 1;
        if part == Part::Fact {
            facts.push(start..source.len());
        }
        let bare = word.trim_matches(|letter: char| !letter.is_alphanumeric()).to_lowercase();
        let stops = part != Part::Fact && STOP_WORDS.contains(&format!(" {bare} "));
        if part != Part::Superfluous && !stops && !bare.is_empty() {
            compressed.push(' ');
            compressed.push_str(word.trim_end_matches([',', ';', ':']));
        }
    }

    fn stop(&mut self, kept: bool, random: &mut impl Rng) {
        let mark = if random.random_bool(0.9) { '.' } else { '!' };
        self.passage.source.push(mark);
        if kept {
            self.passage.compressed.push(mark);
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn prose() -> Prose {
        let text = "/// The parser reads every token of the input before it returns the tree.\n\
                    /// It never fails on a number that is too large.\n\nfn main() {}\n";
        Prose::new(&[Document { source: "test".into(), text: text.into() }])
    }

    #[test]
    fn sentences_are_found_in_comments_and_code_is_not() {
        assert_eq!(prose().len(), 2);
        assert!(sentences("fn a() { b(); }\nlet x = y.z();\n").is_empty());
    }

    #[test]
    fn facts_stay_and_the_compressed_words_are_a_subsequence() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let (mut words, mut left) = (0, 0);
        for _ in 0..50 {
            let passage = prose().passage(120, &mut random);
            let bare = |text: &str| -> Vec<String> {
                text.split_whitespace()
                    .map(|word| word.trim_matches([',', '.', '!', ';', ':']).to_owned())
                    .collect()
            };
            let (source, kept) = (bare(&passage.source), bare(&passage.compressed));
            let mut rest = source.iter();
            let added =
                kept.iter().filter(|word| *word != "furthermore" && !rest.any(|other| other == *word));
            assert_eq!(added.count(), 0, "{}\n{}", passage.source, passage.compressed);
            assert!(
                passage.facts.iter().all(|fact| { kept.contains(&passage.source[fact.clone()].to_owned()) })
            );
            words += source.len();
            left += kept.len();
        }
        assert!(left * 4 < words * 3 && left * 4 > words, "{left} of {words} words");
    }
}
