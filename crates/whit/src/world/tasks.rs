//! Generated tasks with known answers, written as Rust comments and code, most of them in the manner of
//! RULER (Hsieh et al., 2024, arXiv 2404.06654): finding one key or one of many among distractors,
//! following variables, the most common word, questions about facts; and repeating a block, and adding.
//! A method that drops what a model reads or remembers shows it here first.

use std::fmt;
use std::ops::RangeInclusive;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// A key is stated among lines of code, and asked for.
    Retrieval,
    /// Many keys are stated among lines of code; then one is asked for.
    ManyKeys,
    /// Variables are set to each other; the value of the last is asked for.
    Tracking,
    /// Which word of a list comes most often.
    CommonWord,
    /// A question about one of several facts.
    Fact,
    /// A block of code is to be written once more.
    Copying,
    /// Two numbers are to be added.
    Arithmetic,
}

/// A question and what must follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What the model reads.
    pub prompt: String,
    /// What it must write next, to the letter.
    pub answer: String,
}

const NAMES: [&str; 48] = [
    "amber", "anchor", "apple", "arrow", "autumn", "basket", "bridge", "candle", "castle", "cedar", "clover",
    "copper", "coral", "desert", "eagle", "ember", "falcon", "forest", "garden", "glacier", "harbor",
    "hazel", "island", "ivory", "jasmine", "kettle", "lantern", "lemon", "maple", "marble", "meadow",
    "mirror", "mountain", "ocean", "olive", "orchard", "pepper", "planet", "quartz", "ribbon", "river",
    "saddle", "silver", "summer", "thunder", "valley", "violet", "winter",
];

impl Task {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Retrieval,
        Self::ManyKeys,
        Self::Tracking,
        Self::CommonWord,
        Self::Fact,
        Self::Copying,
        Self::Arithmetic,
    ];

    /// A sample of about `bytes` bytes; `lines` are the distractors and the blocks to copy.
    pub fn sample(self, lines: &Lines<'_>, bytes: usize, random: &mut impl Rng) -> Sample {
        match self {
            Self::Retrieval => retrieval(lines, bytes, 1..=1, random),
            Self::ManyKeys => retrieval(lines, bytes, 2..=10, random),
            Self::Tracking => tracking(lines, bytes, random),
            Self::CommonWord => common_word(bytes, random),
            Self::Fact => fact(lines, bytes, random),
            Self::Copying => copying(lines, bytes, random),
            Self::Arithmetic => arithmetic(bytes, random),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retrieval => "key retrieval",
            Self::ManyKeys => "many keys",
            Self::Tracking => "variable tracking",
            Self::CommonWord => "common word",
            Self::Fact => "facts",
            Self::Copying => "copying",
            Self::Arithmetic => "arithmetic",
        })
    }
}

/// Short lines of real code, in the order in which they were written.
#[derive(Clone, Debug)]
pub struct Lines<'a>(Vec<&'a str>);

impl<'a> Lines<'a> {
    /// The lines of `texts` that are neither very short nor long.
    pub fn new(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let fits = |line: &&str| (8..=72).contains(&line.trim().len());
        let mut lines: Vec<&str> = texts.into_iter().flat_map(str::lines).filter(fits).collect();
        if lines.is_empty() {
            lines.push("let value = next();");
        }
        Self(lines)
    }

    /// Neighbouring lines of at most `bytes` bytes together, but at least one.
    fn block(&self, bytes: usize, random: &mut impl Rng) -> Vec<&'a str> {
        let mut room = bytes;
        let start = random.random_range(0..self.0.len());
        let fitting = self.0[start..].iter().take_while(|line| {
            let fits = line.len() < room;
            room = room.saturating_sub(line.len() + 1);
            fits
        });
        let block: Vec<_> = fitting.copied().collect();
        if block.is_empty() { vec![self.0[start]] } else { block }
    }
}

/// Keys of different names between lines of code; the last line asks for one of them, after a few
/// questions about others that are already answered.
fn retrieval(lines: &Lines<'_>, bytes: usize, keys: RangeInclusive<usize>, random: &mut impl Rng) -> Sample {
    let names = distinct(random.random_range(keys), random);
    let keys: Vec<u32> = names.iter().map(|_| number(random)).collect();
    let statement = |at: usize| format!("// The key of {} is {}.", names[at], keys[at]);
    let text = scattered(lines, bytes, (0..names.len()).map(statement), random);
    let question = |at: usize| format!("// What is the key of {0}? The key of {0} is ", names[at]);
    ask(text, names.len(), question, |at| format!("{}.\n", keys[at]), random)
}

/// Chains of variables, each set to the one before; the question is for the number behind the last of
/// a chain (RULER's variable tracking).
fn tracking(lines: &Lines<'_>, bytes: usize, random: &mut impl Rng) -> Sample {
    let (chains, hops) = (random.random_range(1..=3), random.random_range(2..=4));
    let names = distinct(chains * hops, random);
    let values: Vec<u32> = (0..chains).map(|_| number(random)).collect();
    let statement = |at: usize| match at % hops {
        0 => format!("let {} = {};", names[at], values[at / hops]),
        _ => format!("let {} = {};", names[at], names[at - 1]),
    };
    let mut order: Vec<usize> = (0..chains).flat_map(|chain| vec![chain; hops]).collect();
    order.shuffle(random);
    let mut next: Vec<usize> = (0..chains).map(|chain| chain * hops).collect();
    let statements = order.into_iter().map(|chain| {
        next[chain] += 1;
        statement(next[chain] - 1)
    });
    let text = scattered_in_order(lines, bytes, statements, random);
    let question = |chain: usize| {
        format!("// What is the value of {0}? The value of {0} is ", names[(chain + 1) * hops - 1])
    };
    ask(text, chains, question, |chain| format!("{}.\n", values[chain]), random)
}

/// A list of words of which one comes more often than the others, which come once each (RULER's common
/// words).
fn common_word(bytes: usize, random: &mut impl Rng) -> Sample {
    let names = distinct((bytes / 16).clamp(4, NAMES.len()), random);
    let (common, others) = (names[0], &names[1..]);
    let mut words = others.to_vec();
    words.extend(vec![common; (others.len() / 3).max(3)]);
    words.shuffle(random);
    let prompt = format!("// Words: {}.\n// The most common word is ", words.join(", "));
    Sample { prompt, answer: format!("{common}.\n") }
}

/// Facts that tie two words together, between lines of code; a question about one of them, put from
/// the other end.
fn fact(lines: &Lines<'_>, bytes: usize, random: &mut impl Rng) -> Sample {
    let count = random.random_range(2..=6);
    let names = distinct(2 * count, random);
    let pair = |at: usize| (names[2 * at], names[2 * at + 1]);
    let statement = |at: usize| format!("// The {} is kept beside the {}.", pair(at).0, pair(at).1);
    let text = scattered(lines, bytes, (0..count).map(statement), random);
    let question = |at: usize| format!("// What is kept beside the {}? The ", pair(at).1);
    ask(text, count, question, |at| format!("{}.\n", pair(at).0), random)
}

/// Puts questions under a text: some in a random order with their answers, and a last one without.
fn ask(
    mut text: Vec<String>,
    count: usize,
    question: impl Fn(usize) -> String,
    answer: impl Fn(usize) -> String,
    random: &mut impl Rng,
) -> Sample {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(random);
    order.truncate(random.random_range(1..=count));
    let last = order.pop().unwrap_or(0);
    text.extend(order.into_iter().map(|at| format!("{}{}", question(at), answer(at).trim_end())));
    text.push(question(last));
    Sample { prompt: text.join("\n"), answer: answer(last) }
}

/// Statements in random places among lines of code of about `bytes` bytes.
fn scattered(
    lines: &Lines<'_>,
    bytes: usize,
    statements: impl Iterator<Item = String>,
    random: &mut impl Rng,
) -> Vec<String> {
    let mut statements: Vec<String> = statements.collect();
    statements.shuffle(random);
    scattered_in_order(lines, bytes, statements.into_iter(), random)
}

/// The same, the statements one after the other.
fn scattered_in_order(
    lines: &Lines<'_>,
    bytes: usize,
    statements: impl Iterator<Item = String>,
    random: &mut impl Rng,
) -> Vec<String> {
    let statements: Vec<String> = statements.collect();
    let room = bytes.saturating_sub(statements.iter().map(String::len).sum());
    let block = lines.block(room, random);
    let mut places: Vec<usize> = statements.iter().map(|_| random.random_range(0..=block.len())).collect();
    places.sort_unstable();
    let mut text: Vec<String> = block.into_iter().map(str::to_owned).collect();
    for (place, statement) in places.into_iter().zip(statements).rev() {
        text.insert(place, statement);
    }
    text
}

fn distinct(count: usize, random: &mut impl Rng) -> Vec<&'static str> {
    NAMES.sample(random, count).copied().collect()
}

fn number(random: &mut impl Rng) -> u32 {
    random.random_range(10_000..100_000)
}

/// A block of code, and the same block again, which is the answer.
fn copying(lines: &Lines<'_>, bytes: usize, random: &mut impl Rng) -> Sample {
    let block = lines.block(bytes / 2, random).join("\n");
    Sample { prompt: format!("// Original:\n{block}\n// Copy:\n"), answer: block + "\n" }
}

/// A few sums; the answer is the last one's.
fn arithmetic(bytes: usize, random: &mut impl Rng) -> Sample {
    let count = (bytes / 24).clamp(1, 12);
    let sums: Vec<(u32, u32)> =
        (0..count).map(|_| (random.random_range(0..100), random.random_range(0..100))).collect();
    let (a, b) = sums[count - 1];
    let solved = |(a, b): &(u32, u32)| format!("assert_eq!({a} + {b}, {});\n", a + b);
    let before: String = sums[..count - 1].iter().map(solved).collect();
    Sample { prompt: format!("{before}assert_eq!({a} + {b}, "), answer: format!("{});\n", a + b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const CODE: &str =
        "fn area(width: u32, height: u32) -> u32 {\n    width * height\n}\nlet total = area(3, 4);\n";

    fn samples(task: Task) -> impl Iterator<Item = Sample> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let lines = Lines::new([CODE]);
        (0..100).map(move |i| task.sample(&lines, 40 + 10 * i, &mut random))
    }

    #[test]
    fn a_retrieval_answer_is_stated_once_for_the_name_asked() {
        for sample in samples(Task::Retrieval).chain(samples(Task::ManyKeys)) {
            let (_, question) = sample.prompt.rsplit_once("key of ").unwrap();
            let name = question.strip_suffix(" is ").unwrap();
            let statement = format!("// The key of {name} is {}", sample.answer.trim_end());
            assert_eq!(sample.prompt.matches(&statement).count(), 1, "{sample:?}");
            assert_eq!(sample.prompt.matches(&format!("key of {name}?")).count(), 1, "{sample:?}");
        }
    }

    #[test]
    fn variables_lead_to_the_answer() {
        for sample in samples(Task::Tracking) {
            let (_, question) = sample.prompt.rsplit_once("value of ").unwrap();
            let mut name = question.strip_suffix(" is ").unwrap().to_owned();
            while name.parse::<u32>().is_err() {
                let (_, rest) = sample.prompt.split_once(&format!("let {name} = ")).unwrap();
                name = rest.split_once(';').unwrap().0.to_owned();
            }
            assert_eq!(sample.answer, format!("{name}.\n"));
        }
    }

    #[test]
    fn the_common_word_comes_most_often_and_facts_are_stated() {
        for Sample { prompt, answer } in samples(Task::CommonWord) {
            let (list, _) = prompt.strip_prefix("// Words: ").unwrap().split_once(".\n").unwrap();
            let count = |word: &str| list.split(", ").filter(|other| *other == word).count();
            let common = answer.trim_end_matches(".\n");
            assert!(count(common) >= 3 && list.split(", ").all(|word| word == common || count(word) == 1));
        }
        for Sample { prompt, answer } in samples(Task::Fact) {
            let (_, question) = prompt.rsplit_once("kept beside the ").unwrap();
            let place = question.strip_suffix("? The ").unwrap();
            let thing = answer.trim_end_matches(".\n");
            assert!(prompt.contains(&format!("// The {thing} is kept beside the {place}.")));
        }
    }

    #[test]
    fn a_copy_equals_its_original() {
        for sample in samples(Task::Copying) {
            assert!(
                sample.prompt.contains(&format!("// Original:\n{}// Copy:\n", sample.answer)),
                "{sample:?}"
            );
        }
    }

    #[test]
    fn sums_are_right() {
        for sample in samples(Task::Arithmetic) {
            let text = sample.prompt + &sample.answer;
            for line in text.lines() {
                let inside =
                    line.strip_prefix("assert_eq!(").and_then(|rest| rest.strip_suffix(");")).unwrap();
                let (sum, result) = inside.split_once(", ").unwrap();
                let terms: u32 = sum.split(" + ").map(|term| term.parse::<u32>().unwrap()).sum();
                assert_eq!(terms, result.parse::<u32>().unwrap());
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_samples_and_no_text_is_no_panic() {
        for task in Task::ALL {
            assert!(samples(task).eq(samples(task)));
            let mut random = ChaCha8Rng::seed_from_u64(1);
            assert!(!task.sample(&Lines::new([]), 0, &mut random).answer.is_empty());
        }
    }
}
