//! Checkpoints split over several safetensors files by an index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

use super::{Safetensors, SafetensorsError};
use crate::load::file::read_json;
use crate::load::{Checkpoint, LoadError, RawTensor, TensorInfo};

/// A checkpoint of several files: `model.safetensors.index.json` and its shards.
#[derive(Debug)]
pub struct Sharded {
    shards: Vec<Safetensors>,
    /// Tensor name to position in `shards`.
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Sharded {
    /// Opens the index and every shard it names, and checks that each tensor is where the index says.
    ///
    /// # Errors
    /// [`LoadError::Safetensors`] for an index or shard at fault, [`LoadError::Io`] for a shard not there.
    pub fn open(index_path: &Path) -> Result<Self, LoadError> {
        let wrong = |e| LoadError::safetensors(index_path, e);
        let Index { weight_map } = read_json(index_path)?;
        if weight_map.is_empty() {
            return Err(wrong(SafetensorsError::EmptyIndex));
        }
        let folder = index_path.parent().unwrap_or(Path::new("."));
        let (mut shards, mut opened, mut places) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (name, file) in weight_map {
            let shard = match opened.get(&file) {
                Some(&shard) => shard,
                None => {
                    shards.push(open_shard(folder, &file, index_path)?);
                    opened.insert(file.clone(), shards.len() - 1);
                    shards.len() - 1
                }
            };
            if shards[shard].info(&name).is_none() {
                return Err(wrong(SafetensorsError::NotInShard { name, file }));
            }
            places.insert(name, shard);
        }
        Ok(Self { shards, places })
    }

    fn shard(&self, name: &str) -> Option<&Safetensors> {
        self.places.get(name).map(|&shard| &self.shards[shard])
    }
}

/// An index must not reach outside its own folder.
fn open_shard(folder: &Path, file: &str, index_path: &Path) -> Result<Safetensors, LoadError> {
    let plain = !file.is_empty() && file != ".." && file != "." && !file.contains(['/', '\\', ':', '\0']);
    if !plain {
        let file = file.to_owned();
        return Err(LoadError::safetensors(index_path, SafetensorsError::ShardName { file }));
    }
    Safetensors::open(&folder.join(file))
}

impl Checkpoint for Sharded {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.shard(name)?.info(name)
    }

    fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
        self.shard(name).ok_or_else(|| self.missing(name))?.read(name)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<RawTensor, LoadError> {
        self.shard(name).ok_or_else(|| self.missing(name))?.read_rows(name, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::safetensors::save;

    fn write(folder: &Path, index: &str) -> std::path::PathBuf {
        let path = folder.join("model.safetensors.index.json");
        std::fs::write(&path, index).unwrap();
        path
    }

    fn fault(folder: &Path, index: &str) -> SafetensorsError {
        match Sharded::open(&write(folder, index)) {
            Err(LoadError::Safetensors { source, .. }) => source,
            other => panic!("expected a fault, got {other:?}"),
        }
    }

    #[test]
    fn shards_read_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (RawTensor::from_f32(vec![1], &[1.0]), RawTensor::from_f32(vec![2], &[2.0, 3.0]));
        save(&folder.path().join("one.safetensors"), &[("a", &one)], &BTreeMap::new()).unwrap();
        save(&folder.path().join("two.safetensors"), &[("b", &two)], &BTreeMap::new()).unwrap();
        let index =
            r#"{"metadata":{"total_size":12},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
        let checkpoint = Sharded::open(&write(folder.path(), index)).unwrap();
        assert_eq!(checkpoint.names(), ["a", "b"]);
        assert_eq!(checkpoint.read("b").unwrap(), two);
        assert!(matches!(checkpoint.read("c"), Err(LoadError::MissingTensor { .. })));

        let swapped = r#"{"weight_map":{"a":"two.safetensors"}}"#;
        assert!(matches!(fault(folder.path(), swapped), SafetensorsError::NotInShard { .. }));
    }

    #[test]
    fn a_bad_index_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(fault(folder.path(), r#"{"weight_map":{}}"#), SafetensorsError::EmptyIndex));
        for file in ["../secret", "/etc/passwd", "", "..", "a\\b", "c:d"] {
            let index = serde_json::json!({"weight_map": {"a": file}}).to_string();
            assert!(matches!(fault(folder.path(), &index), SafetensorsError::ShardName { .. }), "{file}");
        }
        let absent = Sharded::open(&write(folder.path(), r#"{"weight_map":{"a":"x.safetensors"}}"#));
        assert!(matches!(absent, Err(LoadError::Io { action: "open", .. })));
        let no_json = Sharded::open(&write(folder.path(), "weight_map"));
        assert!(matches!(no_json, Err(LoadError::Json { .. })));
    }
}
