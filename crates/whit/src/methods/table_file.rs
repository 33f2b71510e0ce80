//! A table of successors on the disk, so that another process starts where this one ended.

use std::collections::BTreeMap;
use std::path::Path;

use super::successors::{Successors, TableError};
use crate::load::safetensors::save;
use crate::load::{Checkpoint, Dtype, LoadError, RawTensor, Safetensors};

/// The name of the tensor: `[vocabulary, successors]`, of `u32`.
const NAME: &str = "successors";

/// Why a saved table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableFileError {
    /// The file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It holds other numbers than token ids.
    #[error("its tensor `{NAME}` holds {0}, not u32")]
    Kind(Dtype),
    /// It was made for another model or another number of successors.
    #[error(transparent)]
    Table(#[from] TableError),
    /// It could never be written.
    #[error("its folder does not exist")]
    Folder,
}

/// Takes over the table at `path`, if there is one; else checks that one can be written there.
///
/// # Errors
/// If the file is damaged or was made for another vocabulary.
pub fn read(path: &Path, table: &mut Successors) -> Result<(), TableFileError> {
    if !path.exists() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return if folder.is_none_or(Path::is_dir) { Ok(()) } else { Err(TableFileError::Folder) };
    }
    let tensor = Safetensors::open(path)?.read(NAME)?;
    if tensor.dtype != Dtype::U32 {
        return Err(TableFileError::Kind(tensor.dtype));
    }
    let values: Vec<u32> =
        tensor.bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
    Ok(table.import(&values)?)
}

/// Writes the table; the file is never half there.
///
/// # Errors
/// If the disk refuses.
pub fn write(path: &Path, table: &Successors) -> Result<(), LoadError> {
    let values = table.export();
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![table.vocabulary(), values.len() / table.vocabulary().max(1)];
    let tensor = RawTensor { dtype: Dtype::U32, shape, bytes };
    save(path, &[(NAME, &tensor)], &BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_goes_on_and_another_vocabulary_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.safetensors");
        let mut table = Successors::new(6, 2);
        read(&path, &mut table).unwrap();
        table.learn(&[3], &[0.0, 5.0, 4.0, 0.0, 0.0, 0.0]);
        write(&path, &table).unwrap();
        let mut next = Successors::new(6, 2);
        read(&path, &mut next).unwrap();
        assert_eq!((next.of(3), next.of(1)), (&[1, 2][..], &[][..]));
        let error = read(&path, &mut Successors::new(9, 2)).unwrap_err().to_string();
        assert!(error.contains("12") && error.contains('9'), "{error}");
        let nowhere = folder.path().join("none/table.safetensors");
        assert!(matches!(read(&nowhere, &mut next), Err(TableFileError::Folder)));
        std::fs::write(&path, b"no table").unwrap();
        assert!(matches!(read(&path, &mut next), Err(TableFileError::Load(_))));
    }
}
