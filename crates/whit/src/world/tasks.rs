//! Generated tasks with known answers, written as Rust comments and code: finding a key among
//! distractors, repeating a block, adding two numbers. A method that drops what a model reads or
//! remembers shows it here first.

use std::fmt;

use rand::{Rng, RngExt};

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// Keys are stated among lines of code; then one is asked for.
    Retrieval,
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
    pub const ALL: [Self; 3] = [Self::Retrieval, Self::Copying, Self::Arithmetic];

    /// A sample of about `bytes` bytes; `lines` are the distractors and the blocks to copy.
    pub fn sample(self, lines: &Lines<'_>, bytes: usize, random: &mut impl Rng) -> Sample {
        match self {
            Self::Retrieval => retrieval(lines, bytes, random),
            Self::Copying => copying(lines, bytes, random),
            Self::Arithmetic => arithmetic(bytes, random),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retrieval => "key retrieval",
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

/// Keys of different names between lines of code; the last line asks for one of them.
fn retrieval(lines: &Lines<'_>, bytes: usize, random: &mut impl Rng) -> Sample {
    let count = random.random_range(1..=4);
    let keys = distinct_keys(count, random);
    let mut text: Vec<String> = lines.block(bytes, random).into_iter().map(str::to_owned).collect();
    for (name, key) in &keys {
        let at = random.random_range(0..=text.len());
        text.insert(at, format!("// The key of {name} is {key}."));
    }
    let (name, key) = keys[random.random_range(0..count)];
    text.push(format!("// What is the key of {name}? It is "));
    Sample { prompt: text.join("\n"), answer: format!("{key}.\n") }
}

fn distinct_keys(count: usize, random: &mut impl Rng) -> Vec<(&'static str, u32)> {
    let mut keys: Vec<(&str, u32)> = Vec::with_capacity(count);
    while keys.len() < count {
        let name = NAMES[random.random_range(0..NAMES.len())];
        if keys.iter().all(|(other, _)| *other != name) {
            keys.push((name, random.random_range(10_000..100_000)));
        }
    }
    keys
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
        for sample in samples(Task::Retrieval) {
            let (_, question) = sample.prompt.rsplit_once("key of ").unwrap();
            let name = question.strip_suffix("? It is ").unwrap();
            let statement = format!("// The key of {name} is {}", sample.answer.trim_end());
            assert_eq!(sample.prompt.matches(&statement).count(), 1, "{sample:?}");
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
