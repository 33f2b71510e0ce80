//! What happened at each step, as JSON lines.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{TrainError, write_whole};

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean loss of the step's batch, in nats for each item.
    pub loss: f32,
    /// Loss on held-out data with the averaged weights, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f32>,
    /// The step's learning rate.
    pub learning_rate: f32,
    /// Norm of the gradients before clipping.
    pub gradient_norm: f32,
    /// Items (tokens, for a language model) learnt from since the beginning.
    pub items: u64,
    /// Seconds of training since the beginning, pauses not counted.
    pub seconds: f64,
}

/// The log of a run.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log at `path` and forgets what it says of steps after `step`.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self, TrainError> {
        let kept = if step == 0 { Vec::new() } else { read(path)? };
        let kept: Vec<_> = kept.into_iter().filter(|record| record.step <= step).map(|record| line(&record)).collect();
        write_whole(path, kept.concat().as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(TrainError::file("write", path))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, record: &Record) -> Result<(), TrainError> {
        self.file.write_all(line(record).as_bytes()).map_err(TrainError::file("write", &self.path))
    }
}

fn line(record: &Record) -> String {
    serde_json::json!(record).to_string() + "\n"
}

/// The records in the log at `path`; none where there is no such file. Lines that were cut short
/// are left out.
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<Record>, TrainError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(TrainError::file("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reopened_log_forgets_later_steps_and_cut_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let record = |step| Record {
            step,
            loss: 1.5,
            held_out: None,
            learning_rate: 0.1,
            gradient_norm: 1.0,
            items: 10,
            seconds: 0.5,
        };
        let mut log = Log::open(&path, 0).unwrap();
        (1..=5).for_each(|step| log.add(&record(step)).unwrap());
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"step\":6,").unwrap();
        let mut log = Log::open(&path, 3).unwrap();
        log.add(&record(4)).unwrap();
        assert_eq!(read(&path).unwrap(), [1, 2, 3, 4].map(record));
    }
}
