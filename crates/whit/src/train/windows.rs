//! Batches of text, a pure function of seed and step: the position in the data is the step's
//! number, so a resumed run reads on where it stopped.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use super::TrainError;
use super::vocabulary::encode;
use crate::world::corpus::Document;
use crate::world::tasks::{Lines, Sample, Task};

/// Where a batch is in the run: one step may take several parts (gradient accumulation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The optimiser's step, from 0.
    pub step: u64,
    /// The part of the step, from 0.
    pub part: u64,
    /// Parts of each step.
    pub parts: u64,
}

/// The shape of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences side by side.
    pub rows: usize,
    /// Tokens of each.
    pub sequence: usize,
}

impl Shape {
    /// The tokens of a batch.
    pub fn tokens(&self) -> usize {
        self.rows * self.sequence
    }
}

/// Sequences that begin short and grow, the batch keeping its tokens. What has to be found is then near at
/// first; a model that learns from long sequences at once does not begin to look for it in the time that
/// a small one trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Tokens of a sequence in the first step; the full length is a multiple by a power of two.
    pub first: usize,
    /// The step from which on sequences have their full length; they double at equal distances before.
    pub until: u64,
}

impl Growth {
    /// The shape of the batches of `step`, where `full` is the last one.
    pub fn shape(&self, full: Shape, step: u64) -> Shape {
        let doublings = (full.sequence / self.first.max(1)).max(1).ilog2();
        let missing =
            u64::from(doublings).saturating_sub(step * u64::from(doublings + 1) / self.until.max(1));
        let shorter = if step >= self.until { 0 } else { missing as u32 };
        Shape { rows: full.rows << shorter, sequence: full.sequence >> shorter }
    }
}

/// Sequences and, for each of their tokens, the one that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// How many there are, of what length.
    pub shape: Shape,
    /// `[rows, sequence]`.
    pub inputs: Vec<u32>,
    /// `[rows, sequence]`, shifted by one.
    pub targets: Vec<u32>,
}

/// All the text of a run as one row of tokens, cut into windows, with generated tasks mixed in.
#[derive(Debug)]
pub struct Windows {
    /// Documents in a row, each closed by `end`.
    pub tokens: Vec<u32>,
    /// What the tasks are made of.
    pub material: Vec<Document>,
    /// The shape of every batch, once the sequences have grown.
    pub shape: Shape,
    /// How the sequences grow, if they do.
    pub growth: Option<Growth>,
    /// The share of rows that hold generated tasks, 0 to 1.
    pub task_share: f64,
    /// The share of rows that repeat a block until they are full, 0 to 1.
    pub echo_share: f64,
    /// The token between samples.
    pub end: u32,
    /// Every choice follows from it.
    pub seed: u64,
}

impl Windows {
    /// The batch at `position`.
    ///
    /// # Errors
    /// If the text is shorter than one window, or the tokenizer fails on a task.
    pub fn batch(&self, tokenizer: &Tokenizer, position: Position) -> Result<Batch, TrainError> {
        let shape = self.growth.map_or(self.shape, |growth| growth.shape(self.shape, position.step));
        let Shape { rows, sequence } = shape;
        let mut batch = Batch { shape, inputs: Vec::with_capacity(shape.tokens()), targets: Vec::new() };
        let first = (position.step * position.parts + position.part) * rows as u64;
        for row in first..first + rows as u64 {
            let tokens = self.row(tokenizer, row, sequence)?;
            batch.inputs.extend_from_slice(&tokens[..sequence]);
            batch.targets.extend_from_slice(&tokens[1..]);
        }
        Ok(batch)
    }

    /// Row number `row` of those with this length: `sequence + 1` tokens of a task or of the text.
    fn row(&self, tokenizer: &Tokenizer, row: u64, sequence: usize) -> Result<Vec<u32>, TrainError> {
        let mut random = stream(self.seed, 1, row);
        let kind: f64 = random.random();
        if kind < self.task_share {
            self.task_row(tokenizer, sequence, &mut random)
        } else if kind < self.task_share + self.echo_share {
            Ok(self.echo(tokenizer.get_vocab_size(true), sequence, &mut random))
        } else {
            self.window(row, sequence)
        }
    }

    /// A block of text, or of random tokens out of a random part of the vocabulary, again and again:
    /// from its second time on every token can be found by looking back.
    fn echo(&self, vocabulary: usize, sequence: usize, random: &mut ChaCha8Rng) -> Vec<u32> {
        let period = random.random_range(8..=(sequence / 2).max(8));
        let block: Vec<u32> = if random.random_bool(0.5) && self.tokens.len() > period {
            self.tokens[random.random_range(0..self.tokens.len() - period)..][..period].to_vec()
        } else {
            let kinds = (8.0 * (vocabulary as f64 / 8.0).powf(random.random())) as usize;
            let part: Vec<u32> = (0..kinds).map(|_| random.random_range(0..vocabulary as u32)).collect();
            (0..period).map(|_| part[random.random_range(0..kinds)]).collect()
        };
        block.into_iter().cycle().take(sequence + 1).collect()
    }

    /// The windows of every epoch are taken in another order, none of them twice.
    fn window(&self, row: u64, sequence: usize) -> Result<Vec<u32>, TrainError> {
        let count = self.tokens.len().saturating_sub(1) / sequence;
        if count == 0 {
            let found = self.tokens.len();
            return Err(TrainError::Setting(format!(
                "{found} tokens of text do not fill one window of {sequence}"
            )));
        }
        let epoch = row / count as u64;
        let place = shuffled(count, self.seed, epoch)[(row % count as u64) as usize] as usize;
        Ok(self.tokens[place * sequence..][..=sequence].to_vec())
    }

    /// Samples of all kinds of task, one after the other, until the row is full.
    fn task_row(
        &self,
        tokenizer: &Tokenizer,
        sequence: usize,
        random: &mut ChaCha8Rng,
    ) -> Result<Vec<u32>, TrainError> {
        let lines = Lines::new(self.pick(random));
        let mut tokens = Vec::with_capacity(2 * sequence);
        while tokens.len() <= sequence {
            let kind = Task::ALL[random.random_range(0..Task::ALL.len())];
            let room = sequence + 1 - tokens.len();
            let Sample { prompt, answer } = kind.sample(&lines, sample_bytes(room, random), random);
            tokens.extend(encode(tokenizer, &prompt)?);
            tokens.extend(encode(tokenizer, &answer)?);
            tokens.push(self.end);
        }
        tokens.truncate(sequence + 1);
        Ok(tokens)
    }

    /// The text of a few documents.
    fn pick(&self, random: &mut ChaCha8Rng) -> Vec<&str> {
        let count = self.material.len();
        let choose = |_| (count > 0).then(|| self.material[random.random_range(0..count)].text.as_str());
        (0..3).filter_map(choose).collect()
    }
}

/// A random stream of its own for every purpose and number.
pub(super) fn stream(seed: u64, purpose: u64, number: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ purpose.rotate_left(48));
    random.set_stream(number);
    random
}

/// The size of a sample for at most `room` tokens of about two bytes. Every doubling is as likely as the
/// next, so that most samples are short and dense in what can be learnt from them.
fn sample_bytes(room: usize, random: &mut ChaCha8Rng) -> usize {
    let most = (2 * room).max(64) as f64;
    (32.0 * (most / 32.0).powf(random.random::<f64>())) as usize
}

fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.shuffle(&mut stream(seed, 2, epoch));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::vocabulary;
    use std::collections::HashSet;

    fn windows(task_share: f64) -> (Windows, Tokenizer) {
        let text = |i| format!("let number_{i} = {i} + 1;\nlet other = number_{i};\n");
        let material: Vec<_> = (0..50).map(|i| Document { source: String::new(), text: text(i) }).collect();
        let tokenizer = vocabulary::train(&material, 280).unwrap();
        let shape = Shape { rows: 3, sequence: 40 };
        (
            Windows {
                tokens: (0..1001).collect(),
                material,
                shape,
                growth: None,
                task_share,
                echo_share: 0.0,
                end: 0,
                seed: 5,
            },
            tokenizer,
        )
    }

    fn at(step: u64) -> Position {
        Position { step, part: 0, parts: 1 }
    }

    #[test]
    fn targets_follow_inputs_and_an_epoch_sees_every_window_once() {
        let (windows, tokenizer) = windows(0.0);
        let mut starts = HashSet::new();
        for row in 0..25 {
            let tokens = windows.row(&tokenizer, row, 40).unwrap();
            assert!(tokens.windows(2).all(|pair| pair[1] == pair[0] + 1));
            starts.insert(tokens[0]);
        }
        assert_eq!(starts.len(), 25);
        let batch = windows.batch(&tokenizer, at(1)).unwrap();
        assert_eq!(batch.inputs.len(), 120);
        assert!(batch.inputs.iter().zip(&batch.targets).all(|(input, target)| target - input == 1));
    }

    #[test]
    fn sequences_grow_to_their_full_length() {
        let full = Shape { rows: 2, sequence: 512 };
        let growth = Growth { first: 64, until: 400 };
        let lengths = [0, 99, 100, 200, 300, 400, 900].map(|step| growth.shape(full, step).sequence);
        assert_eq!(lengths, [64, 64, 128, 256, 512, 512, 512]);
        assert!((0..500).all(|step| growth.shape(full, step).tokens() == 1024));
        let (mut windows, tokenizer) = windows(0.5);
        windows.growth = Some(Growth { first: 20, until: 10 });
        let batch = windows.batch(&tokenizer, at(0)).unwrap();
        assert_eq!((batch.shape, batch.inputs.len()), (Shape { rows: 6, sequence: 20 }, 120));
        assert_eq!(windows.batch(&tokenizer, at(10)).unwrap().shape, windows.shape);
    }

    #[test]
    fn a_batch_depends_on_seed_and_position_only() {
        let (windows, tokenizer) = windows(0.5);
        let again = |step| windows.batch(&tokenizer, at(step)).unwrap();
        assert_eq!(again(3), again(3));
        assert_ne!(again(3), again(4));
        let halves = [0, 1].map(|part| Position { step: 2, part, parts: 2 });
        assert_eq!(halves.map(|half| windows.batch(&tokenizer, half).unwrap()), [again(4), again(5)]);
    }

    #[test]
    fn an_echo_repeats_with_one_period() {
        let (windows, _) = windows(0.0);
        for number in 0..20 {
            let row = windows.echo(280, 60, &mut stream(9, 1, number));
            let repeats = |period: usize| row.iter().zip(&row[period..]).all(|(one, other)| one == other);
            assert!(row.len() == 61 && row.iter().all(|&id| id < 1001) && (8..=30).any(repeats), "{row:?}");
        }
    }

    #[test]
    fn task_rows_are_full_and_short_text_is_refused() {
        let (mut windows, tokenizer) = windows(1.0);
        for row in 0..20 {
            assert_eq!(windows.row(&tokenizer, row, 40).unwrap().len(), 41);
        }
        windows.task_share = 0.0;
        windows.tokens.truncate(20);
        assert!(matches!(windows.batch(&tokenizer, at(0)), Err(TrainError::Setting(_))));
    }
}
