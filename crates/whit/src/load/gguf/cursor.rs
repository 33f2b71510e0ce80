//! Reading forward through the head of a GGUF file, never past its end and never allocating on its word alone.

use super::GgufError;
use crate::load::{LoadError, Source};

const CHUNK: u64 = 1 << 20;
/// Longest string accepted, in bytes (chat templates are the longest).
const STRING_LIMIT: u64 = 8 << 20;

pub(super) struct Cursor<'a> {
    source: &'a Source,
    /// Position in the file of the next byte to be read.
    position: u64,
    /// A piece of the file and where in the file it begins.
    chunk: Vec<u8>,
    chunk_start: u64,
}

impl<'a> Cursor<'a> {
    pub fn new(source: &'a Source) -> Self {
        Self { source, position: 0, chunk: Vec::new(), chunk_start: 0 }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn remaining(&self) -> u64 {
        self.source.len() - self.position
    }

    pub fn fail(&self, error: GgufError) -> LoadError {
        LoadError::gguf(self.source.path(), error)
    }

    /// The next `len` bytes; `part` names them in the error.
    pub fn bytes(&mut self, len: u64, part: &'static str) -> Result<&[u8], LoadError> {
        if len > self.remaining() {
            return Err(self.fail(GgufError::Truncated { part }));
        }
        let end = self.position + len;
        if self.position < self.chunk_start || end > self.chunk_start + self.chunk.len() as u64 {
            self.chunk = self.source.read(self.position, len.max(CHUNK).min(self.remaining()))?;
            self.chunk_start = self.position;
        }
        let start = (self.position - self.chunk_start) as usize;
        self.position = end;
        Ok(&self.chunk[start..start + len as usize])
    }

    pub fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], LoadError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64, part)?);
        Ok(array)
    }

    pub fn u32(&mut self, part: &'static str) -> Result<u32, LoadError> {
        self.array(part).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, part: &'static str) -> Result<u64, LoadError> {
        self.array(part).map(u64::from_le_bytes)
    }

    /// A count of things of which each takes at least `size` bytes of what remains of the file.
    pub fn count(&mut self, what: &'static str, size: u64, limit: u64) -> Result<u64, LoadError> {
        let count = self.u64(what)?;
        let limit = limit.min(self.remaining() / size);
        if count > limit {
            return Err(self.fail(GgufError::TooMany { what, count, limit }));
        }
        Ok(count)
    }

    /// A string's raw bytes.
    pub fn string_bytes(&mut self, part: &'static str) -> Result<&[u8], LoadError> {
        let len = self.count("bytes in a string", 1, STRING_LIMIT)?;
        self.bytes(len, part)
    }

    /// A string that must be UTF-8.
    pub fn name(&mut self, part: &'static str) -> Result<String, LoadError> {
        let bytes = self.string_bytes(part)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.fail(GgufError::NotText { part }))
    }
}
