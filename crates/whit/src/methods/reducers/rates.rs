//! Learnt counts of tokens, as a file: what DiffRate's calibration writes and its method reads.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tokens::Tokens;

/// How many tokens each block leaves, after pruning and after merging. All counts hold the protected tokens too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// The method that it is for: `diffrate`.
    pub method: String,
    /// Tokens that enter the first block.
    pub tokens: usize,
    /// How many of them are no patches: the class token, and those that come with it.
    #[serde(default = "one")]
    pub protected: usize,
    /// Tokens left by pruning, block after block.
    pub prune: Vec<usize>,
    /// Tokens left by merging, block after block; where it is no fewer than pruning leaves, none are merged.
    pub merge: Vec<usize>,
}

fn one() -> usize {
    1
}

/// Why counts cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RatesError {
    /// The file could not be read.
    #[error(
        "{path} is neither the name of a published schedule ({}) nor a file that can be read: {reason}",
        super::published::names().join(", ")
    )]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file holds something else.
    #[error("{path} is no schedule: {reason}")]
    Format {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        reason: serde_json::Error,
    },
    /// There are more or fewer counts than blocks.
    #[error("`{list}` has {found} counts and the model {layers} blocks; learn a schedule for this model")]
    Length {
        /// `prune` or `merge`.
        list: &'static str,
        /// How many counts.
        found: usize,
        /// How many blocks.
        layers: usize,
    },
    /// Tokens that come back.
    #[error(
        "`{list}` grows from {before} to {after} at block {block}; tokens that are gone do not come back"
    )]
    Growing {
        /// `prune` or `merge`.
        list: &'static str,
        /// The block, from 1.
        block: usize,
        /// The count of the block before.
        before: usize,
        /// Its own.
        after: usize,
    },
    /// Too few or too many tokens.
    #[error("`{list}` leaves {count} tokens at block {block}; it has to be from {least} to {most}")]
    Count {
        /// `prune` or `merge`.
        list: &'static str,
        /// The block, from 1.
        block: usize,
        /// The count.
        count: usize,
        /// A patch and the protected tokens.
        least: usize,
        /// All tokens.
        most: usize,
    },
    /// An image of another size.
    #[error(
        "the schedule was learnt for {wanted} tokens, {wanted_protected} of them no patches; this image has {found} and {found_protected}"
    )]
    OtherImage {
        /// What the schedule is for.
        wanted: usize,
        /// How many of them are no patches.
        wanted_protected: usize,
        /// What there is.
        found: usize,
        /// How many of them are no patches.
        found_protected: usize,
    },
}

impl Rates {
    /// Counts as DiffRate has them.
    pub fn new(tokens: usize, protected: usize, prune: Vec<usize>, merge: Vec<usize>) -> Self {
        Self { method: "diffrate".into(), tokens, protected, prune, merge }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, RatesError> {
        let text =
            std::fs::read_to_string(path).map_err(|reason| RatesError::File { path: path.into(), reason })?;
        serde_json::from_str(&text).map_err(|reason| RatesError::Format { path: path.into(), reason })
    }

    /// The file's text.
    pub fn to_json(&self) -> String {
        let list = |counts: &[usize]| serde_json::Value::from(counts.to_vec()).to_string();
        format!(
            "{{\n  \"method\": \"{}\",\n  \"tokens\": {},\n  \"protected\": {},\n  \"prune\": {},\n  \"merge\": {}\n}}\n",
            self.method,
            self.tokens,
            self.protected,
            list(&self.prune),
            list(&self.merge)
        )
    }

    /// Checks the counts against each other and a model of `layers` blocks.
    ///
    /// # Errors
    /// If there are more or fewer counts than blocks, one is too small or too large, or they grow.
    pub fn check(&self, layers: usize) -> Result<(), RatesError> {
        for (list, counts) in [("prune", &self.prune), ("merge", &self.merge)] {
            if counts.len() != layers {
                return Err(RatesError::Length { list, found: counts.len(), layers });
            }
            let (least, most) = (self.protected + 1, self.tokens);
            if let Some(at) = counts.iter().position(|count| !(least..=most).contains(count)) {
                return Err(RatesError::Count { list, block: at + 1, count: counts[at], least, most });
            }
            if let Some(at) = counts.windows(2).position(|pair| pair[1] > pair[0]) {
                return Err(RatesError::Growing {
                    list,
                    block: at + 2,
                    before: counts[at],
                    after: counts[at + 1],
                });
            }
        }
        Ok(())
    }

    /// Checks that an image has the tokens that the counts are for.
    ///
    /// # Errors
    /// If it has another number of them before the first block.
    pub fn fits(&self, tokens: &Tokens<'_>) -> Result<(), RatesError> {
        let wrong = tokens.protected != self.protected || tokens.layer == 0 && tokens.count() != self.tokens;
        let error = RatesError::OtherImage {
            wanted: self.tokens,
            wanted_protected: self.protected,
            found: tokens.count(),
            found_protected: tokens.protected,
        };
        if wrong { Err(error) } else { Ok(()) }
    }

    /// Tokens left by pruning and by merging in one block; all where there is no such block.
    pub fn block(&self, layer: usize) -> [usize; 2] {
        let prune = self.prune.get(layer).copied().unwrap_or(self.tokens);
        [prune, self.merge.get(layer).copied().unwrap_or(self.tokens).min(prune)]
    }

    /// The tokens that leave each block.
    pub fn left(&self) -> Vec<usize> {
        let mut now = self.tokens;
        let mut step = |layer| {
            now = now.min(self.block(layer)[1]);
            now
        };
        (0..self.prune.len()).map(&mut step).collect()
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.left().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "of {} tokens, {left} leave the {} blocks", self.tokens, self.prune.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(prune: &[usize], merge: &[usize]) -> Rates {
        Rates::new(65, 1, prune.to_vec(), merge.to_vec())
    }

    #[test]
    fn a_schedule_survives_its_file_and_the_smaller_count_counts() {
        let rates = rates(&[65, 40, 30], &[65, 50, 20]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("schedule.json");
        std::fs::write(&path, rates.to_json()).unwrap();
        assert_eq!(Rates::read(&path).unwrap(), rates);
        assert_eq!(rates.left(), [65, 40, 20]);
        assert!(rates.check(3).is_ok());
    }

    #[test]
    fn counts_that_make_no_sense_are_refused() {
        for (prune, merge, part) in [
            (&[65, 40][..], &[65, 40][..], "2 counts and the model 3"),
            (&[65, 40, 41], &[65, 40, 30], "grows from 40 to 41 at block 3"),
            (&[65, 40, 1], &[65, 40, 30], "1 tokens at block 3"),
            (&[66, 40, 30], &[65, 40, 30], "66 tokens at block 1"),
        ] {
            let error = rates(prune, merge).check(3).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = Rates::read(Path::new("/nowhere/schedule.json")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/schedule.json"), "{error}");
    }
}
