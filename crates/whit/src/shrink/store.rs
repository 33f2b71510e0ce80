//! Changed tensors on their way from the block to the output: in a temporary file, so that memory
//! holds one block at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::block::Weight;
use super::form::{Form, Levels};
use crate::load::{Checkpoint, Dtype, LoadError, RawTensor, TensorInfo};

/// A checkpoint with some tensors in other forms, new, or gone.
#[derive(Debug)]
pub struct Edited {
    base: Arc<dyn Checkpoint>,
    file: Mutex<File>,
    end: u64,
    changed: BTreeMap<String, Entry>,
    gone: BTreeSet<String>,
}

/// A changed tensor and where its bytes begin.
#[derive(Clone, Debug)]
struct Entry {
    shape: Vec<usize>,
    start: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Values in `f32`, with the bits that a better form of them would take.
    Plain { bits: Option<f64> },
    /// Levels, then scales, then zeros.
    Levels { bits: u32, group: usize },
}

impl Edited {
    /// `base` as it is.
    ///
    /// # Errors
    /// If there is no room for temporary files.
    pub fn new(base: Arc<dyn Checkpoint>) -> Result<Self, LoadError> {
        let file =
            tempfile::tempfile().map_err(|reason| LoadError::io("create", &std::env::temp_dir(), reason))?;
        Ok(Self { base, file: Mutex::new(file), end: 0, changed: BTreeMap::new(), gone: BTreeSet::new() })
    }

    /// Puts a tensor in the place of the one of this name, or anew.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn set(&mut self, name: &str, weight: &Weight) -> Result<(), LoadError> {
        let start = self.end;
        let kind = match &weight.form {
            Form::Levels(levels) => {
                self.append(&levels.levels)?;
                self.append(bytemuck::cast_slice(&levels.scales))?;
                self.append(&levels.zeros)?;
                Kind::Levels { bits: levels.bits, group: levels.group }
            }
            form => {
                self.append(bytemuck::cast_slice(&weight.values))?;
                Kind::Plain { bits: (*form != Form::Dense).then(|| form.bits(32.0)) }
            }
        };
        self.changed.insert(name.to_owned(), Entry { shape: weight.shape.clone(), start, kind });
        self.gone.remove(name);
        Ok(())
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) {
        self.changed.remove(name);
        self.gone.insert(name.to_owned());
    }

    /// The names of the tensors that were changed.
    pub fn changed(&self) -> impl Iterator<Item = &str> {
        self.changed.keys().map(String::as_str)
    }

    /// The type of the numbers of the model as it was: what its first matrix has, if that is a plain type.
    pub fn plain_type(&self) -> Dtype {
        let types = self.base.names().into_iter().filter_map(|name| self.base.info(&name));
        let mut matrices = types.filter(|info| info.shape.len() > 1).map(|info| info.dtype);
        match matrices.next() {
            Some(dtype @ (Dtype::F16 | Dtype::Bf16)) => dtype,
            _ => Dtype::F32,
        }
    }

    /// The levels of a matrix, where it is quantised.
    ///
    /// # Errors
    /// If the temporary file cannot be read.
    pub fn levels(&self, name: &str) -> Result<Option<Levels>, LoadError> {
        let Some(Entry { shape, start, kind: Kind::Levels { bits, group } }) = self.changed.get(name) else {
            return Ok(None);
        };
        let mut levels = Levels::new(shape[0], shape[1], *bits, *group);
        let mut at = *start;
        let parts =
            [&mut levels.levels[..], bytemuck::cast_slice_mut(&mut levels.scales), &mut levels.zeros[..]];
        for part in parts {
            self.fetch(at, part)?;
            at += part.len() as u64;
        }
        Ok(Some(levels))
    }

    /// Whether a tensor is a matrix of levels.
    pub fn is_quantised(&self, name: &str) -> bool {
        self.changed.get(name).is_some_and(|entry| matches!(entry.kind, Kind::Levels { .. }))
    }

    /// Bits a weight of a tensor in its own form, where plain numbers have `plain`.
    pub fn bits(&self, name: &str, plain: f64) -> f64 {
        match self.changed.get(name).map(|entry| (&entry.kind, &entry.shape)) {
            Some((Kind::Plain { bits }, _)) => bits.unwrap_or(plain),
            Some((Kind::Levels { bits, group }, _)) => {
                f64::from(*bits) + f64::from(16 + bits) / *group as f64
            }
            None => self.base.info(name).map_or(plain, |info| match info.dtype.bytes_for(&info.shape) {
                Some(bytes) => 8.0 * bytes as f64 / info.shape.iter().product::<usize>().max(1) as f64,
                None => plain,
            }),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        let end = self.end;
        self.end += bytes.len() as u64;
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        let written = file.seek(SeekFrom::Start(end)).and_then(|_| file.write_all(bytes));
        written.map_err(|reason| LoadError::io("write", Path::new("a temporary file"), reason))
    }

    fn fetch(&self, start: u64, bytes: &mut [u8]) -> Result<(), LoadError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let found = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(bytes));
        found.map_err(|reason| LoadError::io("read", Path::new("a temporary file"), reason))
    }
}

impl Checkpoint for Edited {
    fn names(&self) -> Vec<String> {
        let mut names: BTreeSet<String> = self.base.names().into_iter().collect();
        names.retain(|name| !self.gone.contains(name));
        names.extend(self.changed.keys().cloned());
        names.into_iter().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        match self.changed.get(name) {
            Some(entry) => Some(TensorInfo { dtype: Dtype::F32, shape: entry.shape.clone() }),
            None if self.gone.contains(name) => None,
            None => self.base.info(name),
        }
    }

    fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
        let Some(entry) = self.changed.get(name) else {
            return if self.gone.contains(name) { Err(self.missing(name)) } else { self.base.read(name) };
        };
        if let Some(levels) = self.levels(name)? {
            return Ok(RawTensor::from_f32(entry.shape.clone(), &levels.values()));
        }
        let mut bytes = vec![0; 4 * entry.shape.iter().product::<usize>()];
        self.fetch(entry.start, &mut bytes)?;
        Ok(RawTensor { dtype: Dtype::F32, shape: entry.shape.clone(), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[derive(Debug)]
    struct Base(HashMap<&'static str, RawTensor>);

    impl Checkpoint for Base {
        fn names(&self) -> Vec<String> {
            self.0.keys().map(|name| (*name).to_owned()).collect()
        }

        fn info(&self, name: &str) -> Option<TensorInfo> {
            self.0.get(name).map(RawTensor::info)
        }

        fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
            self.0.get(name).cloned().ok_or_else(|| self.missing(name))
        }
    }

    #[test]
    fn changed_tensors_are_read_back_and_the_others_shine_through() {
        let tensor = |values: &[f32]| RawTensor::from_f32(vec![1, values.len()], values);
        let base =
            Base(HashMap::from([("a", tensor(&[1.0, 2.0])), ("b", tensor(&[3.0])), ("c", tensor(&[4.0]))]));
        let mut edited = Edited::new(Arc::new(base)).unwrap();
        let mut levels = Levels::new(1, 2, 4, 2);
        (levels.levels, levels.scales, levels.zeros) = (vec![3, 9], vec![0.5], vec![8]);
        let weight =
            Weight { shape: vec![1, 2], values: levels.values(), form: Form::Levels(levels.clone()) };
        edited.set("a", &weight).unwrap();
        edited.set("d", &Weight { shape: vec![1], values: vec![7.0], form: Form::Dense }).unwrap();
        edited.remove("b");
        assert_eq!(edited.names(), ["a", "c", "d"]);
        assert_eq!(edited.levels("a").unwrap(), Some(levels));
        let values = |name| edited.read(name).unwrap().to_f32(name).unwrap();
        assert_eq!((values("a"), values("c"), values("d")), (vec![-2.5, 0.5], vec![4.0], vec![7.0]));
        assert!(matches!(edited.read("b"), Err(LoadError::MissingTensor { .. })));
        assert!(edited.info("b").is_none());
    }
}
