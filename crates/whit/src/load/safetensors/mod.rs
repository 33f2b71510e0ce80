//! The safetensors format: an eight-byte length, a JSON header, then the tensors without gaps.
//!
//! Format: <https://huggingface.co/docs/safetensors>. Tensors are read one at a time at their position, so
//! opening a checkpoint costs its header only.

mod header;
mod sharded;
mod write;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

pub use header::{Header, SafetensorsError, parse_header};
pub use sharded::Sharded;
pub use write::{save, save_with};

use super::{Checkpoint, LoadError, RawTensor, Source, TensorInfo};
use header::Span;

/// One safetensors file with a checked header.
#[derive(Debug)]
pub struct Safetensors {
    source: Source,
    tensors: BTreeMap<String, Span>,
    metadata: BTreeMap<String, String>,
}

impl Safetensors {
    /// Opens a file and checks its whole header.
    ///
    /// # Errors
    /// [`LoadError::Safetensors`] with the one way in which the file is wrong, or [`LoadError::Io`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Self::from_source(Source::open(path)?)
    }

    /// As [`Safetensors::open`], from any bytes.
    ///
    /// # Errors
    /// As [`Safetensors::open`].
    pub fn from_source(source: Source) -> Result<Self, LoadError> {
        let header = parse_header(&source)?;
        Ok(Self { source, tensors: header.tensors, metadata: header.metadata })
    }

    /// The free-form strings under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }
}

impl Checkpoint for Safetensors {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|span| span.info.clone())
    }

    fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
        let span = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let bytes = self.source.read(span.start, span.end - span.start)?;
        Ok(RawTensor { dtype: span.info.dtype, shape: span.info.shape.clone(), bytes })
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<RawTensor, LoadError> {
        let span = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let (info, range) = span.info.rows(name, &rows)?;
        let bytes = self.source.read(span.start + range.start as u64, range.len() as u64)?;
        Ok(RawTensor { dtype: info.dtype, shape: info.shape, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Dtype;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let weight = RawTensor::from_f32(vec![2, 3], &[1.0, -2.0, 3.0, 4.0, 5.0, 6.0]);
        let empty = RawTensor { dtype: Dtype::I64, shape: vec![0, 7], bytes: vec![] };
        let scalar = RawTensor { dtype: Dtype::Bf16, shape: vec![], bytes: vec![0x80, 0x3f] };
        let tensors = [("b", &weight), ("a", &empty), ("c", &scalar)];
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        save(&path, &tensors, &metadata).unwrap();
        let file = Safetensors::open(&path).unwrap();
        assert_eq!(file.names(), ["a", "b", "c"]);
        assert_eq!(file.metadata(), &metadata);
        for (name, tensor) in tensors {
            assert_eq!(&file.read(name).unwrap(), tensor);
        }
        assert_eq!(file.read_rows("b", 1..2).unwrap(), RawTensor::from_f32(vec![1, 3], &[4.0, 5.0, 6.0]));
        assert!(file.read_rows("b", 1..3).is_err());
        assert_eq!(file.read_f32("b", &[2, 3]).unwrap()[1], -2.0);
        assert!(matches!(file.read_f32("b", &[3, 2]), Err(LoadError::Misshapen { .. })));
        assert!(matches!(file.read("d"), Err(LoadError::MissingTensor { .. })));
        assert_eq!(file.total_bytes(), 26);
    }
}
