//! Writing safetensors files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::load::file::write_atomic;
use crate::load::{LoadError, RawTensor, TensorInfo};

/// Writes tensors that are all in memory. The file appears only when it is complete.
///
/// # Errors
/// [`LoadError::Io`]; [`LoadError::WrongDtype`] for block-quantised types, which the format does not know.
pub fn save(
    path: &Path,
    tensors: &[(&str, &RawTensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), LoadError> {
    let infos: Vec<_> = tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.info())).collect();
    let by_name: BTreeMap<_, _> = tensors.iter().copied().collect();
    save_with(path, &infos, metadata, |name| Ok(Cow::Borrowed(&by_name[name].bytes)))
}

/// Writes tensors one after the other, asking `bytes` for each in turn, so that only one is in memory.
///
/// # Errors
/// As [`save`], what `bytes` returns, and [`LoadError::Misshapen`] if it yields the wrong number of bytes.
pub fn save_with<'a>(
    path: &Path,
    tensors: &[(String, TensorInfo)],
    metadata: &BTreeMap<String, String>,
    mut bytes: impl FnMut(&str) -> Result<Cow<'a, [u8]>, LoadError>,
) -> Result<(), LoadError> {
    let header = header(tensors, metadata)?;
    let failed = |e| LoadError::io("write", path, e);
    write_atomic(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(header.as_bytes()).map_err(failed)?;
        for (name, info) in tensors {
            let data = bytes(name)?;
            if Some(data.len()) != info.bytes() {
                let (found, wanted) = (vec![data.len()], info.shape.clone());
                return Err(LoadError::Misshapen { name: name.clone(), found, wanted });
            }
            file.write_all(&data).map_err(failed)?;
        }
        Ok(())
    })
}

/// The JSON header, padded with spaces so that the data begins at a multiple of eight.
fn header(
    tensors: &[(String, TensorInfo)],
    metadata: &BTreeMap<String, String>,
) -> Result<String, LoadError> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), json!(metadata));
    }
    let mut start = 0u64;
    for (name, info) in tensors {
        let size = plain_size(name, info)?;
        let offsets = [start, start + size];
        let entry = json!({"dtype": info.dtype.to_string(), "shape": info.shape, "data_offsets": offsets});
        entries.insert(name.clone(), entry);
        start += size;
    }
    let mut header = Value::Object(entries).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    Ok(header)
}

fn plain_size(name: &str, info: &TensorInfo) -> Result<u64, LoadError> {
    match info.bytes() {
        Some(size) if !info.dtype.is_quantized() => Ok(size as u64),
        _ => {
            let wanted = "a plain type to store in safetensors (blocks go into GGUF)";
            Err(LoadError::WrongDtype { name: name.to_owned(), dtype: info.dtype, wanted })
        }
    }
}
