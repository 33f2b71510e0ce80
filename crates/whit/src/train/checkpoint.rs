//! The state of a run on disk. A checkpoint is one folder, which appears under its name only when
//! it is whole; the one before it goes away only then.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::optimizer::{Memories, Memory};
use super::parameters::{self, Named};
use super::{TrainError, write_whole};
use crate::load::safetensors::{Safetensors, save_with};
use crate::load::{Checkpoint as _, Dtype, TensorInfo};

const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
const PREFIX: &str = "step-";

/// How far a run has come. Its random streams and its place in the data follow from these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Everything that must not change between the parts of a run, in one line.
    pub identity: String,
    /// What the objective remembers.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub objective: Value,
}

/// What is stored for each parameter.
const KINDS: [&str; 4] = ["weight", "first", "second", "average"];

/// Writes the checkpoint of `progress` into `folder` and removes the older ones.
///
/// # Errors
/// If the disk refuses.
pub fn save<M: Module>(
    folder: &Path,
    progress: &Progress,
    model: &M,
    memories: &Memories,
) -> Result<(), TrainError> {
    let name = format!("{PREFIX}{:08}", progress.step);
    let unfinished = folder.join(format!(".{name}"));
    let failed = TrainError::file("write", &unfinished);
    remove(&unfinished)?;
    std::fs::create_dir_all(&unfinished).map_err(&failed)?;
    save_tensors(&unfinished.join(TENSORS), model, memories)?;
    let state = serde_json::json!(progress).to_string();
    write_whole(&unfinished.join(STATE), state.as_bytes())?;
    remove(&folder.join(&name))?;
    std::fs::rename(&unfinished, folder.join(&name)).map_err(&failed)?;
    checkpoints(folder)?.iter().filter(|path| !path.ends_with(&name)).try_for_each(|path| remove(path))
}

fn save_tensors<M: Module>(path: &Path, model: &M, memories: &Memories) -> Result<(), TrainError> {
    let mut weights = Named::new();
    parameters::read(model, |name, _, values| drop(weights.insert(name.to_owned(), values)));
    let mut infos = Vec::new();
    for (name, memory) in memories {
        let info = TensorInfo { dtype: Dtype::F32, shape: memory.shape.clone() };
        infos.extend(KINDS.map(|kind| (format!("{kind}:{name}"), info.clone())));
    }
    save_with(path, &infos, &BTreeMap::new(), |label| {
        let (kind, name) = label.split_once(':').unwrap_or_default();
        let memory = memories.get(name);
        let values = match kind {
            "weight" => weights.get(name),
            "first" => memory.map(|memory| &memory.first),
            "second" => memory.map(|memory| &memory.second),
            _ => memory.map(|memory| &memory.average),
        };
        Ok(Cow::Owned(values.into_iter().flatten().flat_map(|value| value.to_le_bytes()).collect()))
    })?;
    Ok(())
}

/// A checkpoint read back.
#[derive(Debug)]
pub struct Restored<M> {
    /// How far the run had come.
    pub progress: Progress,
    /// The model with the weights of then.
    pub model: M,
    /// The optimiser's memory.
    pub memories: Memories,
}

/// Reads the newest checkpoint in `folder` into `model`; none where there is none.
///
/// # Errors
/// If the files are damaged, or belong to a model with other parameters.
pub fn restore<M: Module>(folder: &Path, model: M) -> Result<Option<Restored<M>>, TrainError> {
    let Some(path) = checkpoints(folder)?.pop() else { return Ok(None) };
    let state = std::fs::read(path.join(STATE)).map_err(TrainError::file("read", &path))?;
    let other = |what: String| TrainError::OtherRun { path: path.clone(), what };
    let progress: Progress = serde_json::from_slice(&state).map_err(|error| other(error.to_string()))?;
    let file = Safetensors::open(&path.join(TENSORS))?;
    let mut memories = Memories::new();
    let mut fault = None;
    let model = parameters::change(model, |slot| match restore_one(&file, slot.name, slot.shape) {
        Ok(Some((weight, memory))) => {
            *slot.values = weight;
            memories.insert(slot.name.to_owned(), memory);
        }
        Ok(None) => {}
        Err(error) => fault = Some(error),
    });
    match fault {
        Some(error) => Err(error),
        None if memories.len() * KINDS.len() != file.names().len() => {
            Err(other("the set of parameters".into()))
        }
        None => Ok(Some(Restored { progress, model, memories })),
    }
}

/// The weight and the memory of one parameter; none where it never had a gradient.
fn restore_one(
    file: &Safetensors,
    name: &str,
    shape: &[usize],
) -> Result<Option<(Vec<f32>, Memory)>, TrainError> {
    if file.info(&format!("weight:{name}")).is_none() {
        return Ok(None);
    }
    let read = |kind: &str| file.read_f32(&format!("{kind}:{name}"), shape);
    let memory = Memory {
        shape: shape.to_vec(),
        first: read("first")?,
        second: read("second")?,
        average: read("average")?,
    };
    Ok(Some((read("weight")?, memory)))
}

/// The checkpoints in `folder`, oldest first.
fn checkpoints(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let failed = TrainError::file("read", folder);
    let listed = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(&failed)?.collect::<Result<Vec<_>, _>>().map_err(&failed)?,
    };
    let is_one = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX))
    };
    let mut paths: Vec<_> = listed.into_iter().map(|entry| entry.path()).filter(is_one).collect();
    paths.sort();
    Ok(paths)
}

fn remove(folder: &Path) -> Result<(), TrainError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(TrainError::file("remove", folder)),
    }
}
