//! Positioned reads with bounds, small files with a size limit, and writes that never leave half a file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::LoadError;

/// Largest JSON file accepted (configs, indices, templates), in bytes.
pub(crate) const JSON_LIMIT: u64 = 64 << 20;
/// Largest tokenizer.json accepted, in bytes.
pub(crate) const TOKENIZER_LIMIT: u64 = 256 << 20;

/// Bytes that can be read at any position: a file, or memory (an embedded model, a test).
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    data: Data,
    len: u64,
}

#[derive(Debug)]
enum Data {
    File(File),
    Memory(Cow<'static, [u8]>),
}

impl Source {
    /// Opens a regular file for positioned reads.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let (file, len) = open_regular(path)?;
        Ok(Self { path: path.to_owned(), data: Data::File(file), len })
    }

    /// Bytes in memory under a name for error messages.
    pub fn memory(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        Self { path: PathBuf::from(name), data: Data::Memory(bytes), len }
    }

    /// The file's path, or the name given to the memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `start`; nothing is allocated before the range is known to lie inside the file.
    pub fn read(&self, start: u64, len: u64) -> Result<Vec<u8>, LoadError> {
        let end = start.saturating_add(len);
        let (Ok(size), true) = (usize::try_from(len), end <= self.len) else {
            return Err(LoadError::Truncated { path: self.path.clone(), bytes: self.len, start, end });
        };
        match &self.data {
            Data::File(file) => {
                let mut bytes = vec![0; size];
                read_exact_at(file, &mut bytes, start).map_err(|e| LoadError::io("read", &self.path, e))?;
                Ok(bytes)
            }
            Data::Memory(memory) => Ok(memory[start as usize..end as usize].to_vec()),
        }
    }
}

fn open_regular(path: &Path) -> Result<(File, u64), LoadError> {
    let file = File::open(path).map_err(|e| LoadError::io("open", path, e))?;
    let metadata = file.metadata().map_err(|e| LoadError::io("inspect", path, e))?;
    if !metadata.is_file() {
        return Err(LoadError::NotAModel {
            path: path.to_owned(),
            reason: "it is not a regular file".into(),
        });
    }
    Ok((file, metadata.len()))
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, bytes, start)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[count..];
        start += count as u64;
    }
    Ok(())
}

/// The whole of a file that must not be larger than `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let (file, len) = open_regular(path)?;
    let mut bytes = Vec::new();
    if len <= limit {
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| LoadError::io("read", path, e))?;
    }
    let found = len.max(bytes.len() as u64);
    if found > limit {
        return Err(LoadError::TooLarge { path: path.to_owned(), bytes: found, limit });
    }
    Ok(bytes)
}

/// A JSON file of bounded size.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let bytes = read_bounded(path, JSON_LIMIT)?;
    serde_json::from_slice(&bytes).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

/// Like [`read_json`], but a file that does not exist is `None`.
pub(crate) fn read_json_if_present<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LoadError> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

/// Writes a file through a temporary one in the same folder, which takes its place only when complete.
///
/// # Errors
/// Whatever `fill` returns, or [`LoadError::Io`] (folder missing, disk full); the old file then stays as it was.
pub fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let failed = |e| LoadError::io("write", path, e);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = temporary_in(folder).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(1 << 20, temporary);
    fill(&mut writer)?;
    let temporary = writer.into_inner().map_err(|e| failed(e.into_error()))?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

fn temporary_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".whit-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_inside_the_file() {
        let source = Source::memory("memory", vec![1, 2, 3, 4]);
        assert_eq!(source.read(1, 2).unwrap(), [2, 3]);
        assert!(source.read(4, 0).unwrap().is_empty());
        for (start, len) in [(3, 2), (5, 0), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            assert!(matches!(source.read(start, len), Err(LoadError::Truncated { .. })), "{start} {len}");
        }
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, |w| w.write_all(b"old").map_err(|e| LoadError::io("write", &path, e))).unwrap();
        let result = write_atomic(&path, |w| {
            w.write_all(b"half").map_err(|e| LoadError::io("write", &path, e))?;
            Err(LoadError::UnknownSource { source_name: String::new() })
        });
        assert!(result.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_missing_files_and_huge_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Source::open(folder.path()),
            Err(LoadError::NotAModel { .. } | LoadError::Io { .. })
        ));
        assert!(matches!(Source::open(&folder.path().join("none")), Err(LoadError::Io { .. })));
        let path = folder.path().join("large");
        std::fs::write(&path, [0; 9]).unwrap();
        assert!(matches!(read_bounded(&path, 8), Err(LoadError::TooLarge { bytes: 9, limit: 8, .. })));
        let missing = folder.path().join("missing/file");
        assert!(matches!(write_atomic(&missing, |_| Ok(())), Err(LoadError::Io { action: "write", .. })));
    }
}
