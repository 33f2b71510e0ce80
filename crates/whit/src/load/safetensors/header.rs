//! Parsing and checking the header of a safetensors file.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::load::{Dtype, LoadError, Source, TensorInfo};

/// Largest header accepted, in bytes: the limit of the reference implementation.
const HEADER_LIMIT: u64 = 100_000_000;
/// Most axes a tensor may have.
const MAXIMUM_RANK: usize = 8;
const METADATA: &str = "__metadata__";

/// Each way a safetensors file can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum SafetensorsError {
    #[error("the file has {bytes} bytes, too few for a safetensors header: it is truncated, fetch it again")]
    TooShort { bytes: u64 },
    #[error(
        "the header claims {length} bytes, more than the {HEADER_LIMIT} allowed: this is no safetensors file"
    )]
    HeaderTooLarge { length: u64 },
    #[error(
        "the header claims {length} bytes but only {available} follow: the file is truncated, fetch it again"
    )]
    HeaderTruncated { length: u64, available: u64 },
    #[error("the header is not valid JSON of the right form: {0}; the file is damaged, fetch it again")]
    HeaderJson(serde_json::Error),
    #[error("the tensor name {name:?} occurs twice in the header")]
    DuplicateName { name: String },
    #[error("tensor {name:?} has the unknown element type {dtype:?}; convert it to F32, F16 or BF16")]
    UnknownDtype { name: String, dtype: String },
    #[error("tensor {name:?} has {rank} axes, more than the {MAXIMUM_RANK} allowed")]
    TooManyAxes { name: String, rank: usize },
    #[error("the size of tensor {name:?} of shape {shape:?} overflows")]
    SizeOverflow { name: String, shape: Vec<u64> },
    #[error("tensor {name:?} begins at {start}, after its end {end}")]
    OffsetsReversed { name: String, start: u64, end: u64 },
    #[error(
        "tensor {name:?} ends at {end}, but the file holds {available} bytes of data: truncated or lying"
    )]
    OutOfBounds { name: String, end: u64, available: u64 },
    #[error(
        "tensor {name:?} of type {dtype} and shape {shape:?} needs {wanted} bytes, its offsets give {found}"
    )]
    SizeMismatch { name: String, dtype: Dtype, shape: Vec<usize>, wanted: u64, found: u64 },
    #[error("tensors {first:?} and {second:?} overlap in the file")]
    Overlap { first: String, second: String },
    #[error("{bytes} bytes before tensor {name:?} belong to no tensor")]
    Gap { name: String, bytes: u64 },
    #[error("{bytes} bytes at the end of the file belong to no tensor")]
    TrailingBytes { bytes: u64 },
    #[error("the index names the shard {file:?}, which is no plain file name in the same folder")]
    ShardName { file: String },
    #[error("the index has no weights in its \"weight_map\"")]
    EmptyIndex,
    #[error(
        "the index places tensor {name:?} in {file:?}, which does not hold it: shards and index are mixed up"
    )]
    NotInShard { name: String, file: String },
}

/// The checked contents of a header. All spans lie inside the file, are disjoint and cover the data.
#[derive(Debug)]
pub struct Header {
    pub(super) tensors: BTreeMap<String, Span>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Where a tensor's data lies, counted from the beginning of the file.
#[derive(Debug)]
pub(super) struct Span {
    pub info: TensorInfo,
    pub start: u64,
    pub end: u64,
}

/// Reads and checks the header of a safetensors file.
///
/// # Errors
/// [`LoadError::Safetensors`] naming the first fault.
pub fn parse_header(source: &Source) -> Result<Header, LoadError> {
    let wrong = |e| LoadError::safetensors(source.path(), e);
    let length = header_length(source)?;
    let json = source.read(8, length)?;
    let raw: RawHeader = serde_json::from_slice(&json).map_err(|e| wrong(SafetensorsError::HeaderJson(e)))?;
    check(raw, 8 + length, source.len()).map_err(wrong)
}

fn header_length(source: &Source) -> Result<u64, LoadError> {
    let wrong = |e| Err(LoadError::safetensors(source.path(), e));
    let bytes = source.len();
    if bytes < 8 {
        return wrong(SafetensorsError::TooShort { bytes });
    }
    let prefix = source.read(0, 8)?;
    let length = prefix.iter().rev().fold(0u64, |length, &byte| length << 8 | u64::from(byte));
    if length > HEADER_LIMIT {
        return wrong(SafetensorsError::HeaderTooLarge { length });
    }
    if length > bytes - 8 {
        return wrong(SafetensorsError::HeaderTruncated { length, available: bytes - 8 });
    }
    Ok(length)
}

fn check(raw: RawHeader, data_start: u64, file_len: u64) -> Result<Header, SafetensorsError> {
    let mut tensors = BTreeMap::new();
    for (name, entry) in raw.tensors {
        let span = check_entry(&name, entry, data_start, file_len)?;
        if tensors.contains_key(&name) {
            return Err(SafetensorsError::DuplicateName { name });
        }
        tensors.insert(name, span);
    }
    check_coverage(&tensors, data_start, file_len)?;
    Ok(Header { tensors, metadata: raw.metadata })
}

fn check_entry(name: &str, entry: Entry, data_start: u64, file_len: u64) -> Result<Span, SafetensorsError> {
    let info = entry_info(name, &entry)?;
    let [start, end] = entry.data_offsets;
    let name = name.to_owned();
    let available = file_len - data_start;
    if start > end {
        return Err(SafetensorsError::OffsetsReversed { name, start, end });
    }
    if end > available {
        return Err(SafetensorsError::OutOfBounds { name, end, available });
    }
    let found = end - start;
    match info.bytes() {
        None => Err(SafetensorsError::SizeOverflow { name, shape: entry.shape }),
        Some(wanted) if wanted as u64 != found => {
            let (wanted, TensorInfo { dtype, shape }) = (wanted as u64, info);
            Err(SafetensorsError::SizeMismatch { name, dtype, shape, wanted, found })
        }
        Some(_) => Ok(Span { info, start: data_start + start, end: data_start + end }),
    }
}

fn entry_info(name: &str, entry: &Entry) -> Result<TensorInfo, SafetensorsError> {
    let Some(dtype) = dtype_named(&entry.dtype) else {
        let dtype = entry.dtype.chars().take(40).collect();
        return Err(SafetensorsError::UnknownDtype { name: name.to_owned(), dtype });
    };
    let rank = entry.shape.len();
    if rank > MAXIMUM_RANK {
        return Err(SafetensorsError::TooManyAxes { name: name.to_owned(), rank });
    }
    let shape: Result<_, _> = entry.shape.iter().map(|&n| usize::try_from(n)).collect();
    match shape {
        Ok(shape) => Ok(TensorInfo { dtype, shape }),
        Err(_) => Err(SafetensorsError::SizeOverflow { name: name.to_owned(), shape: entry.shape.clone() }),
    }
}

/// Every byte of the data must belong to exactly one tensor: nothing hidden, nothing shared.
fn check_coverage(
    tensors: &BTreeMap<String, Span>,
    data_start: u64,
    file_len: u64,
) -> Result<(), SafetensorsError> {
    let mut spans: Vec<_> = tensors.iter().collect();
    spans.sort_by_key(|(_, span)| (span.start, span.end));
    let mut previous = (data_start, "");
    for (name, span) in spans {
        let (end, before) = previous;
        if span.start < end {
            return Err(SafetensorsError::Overlap { first: before.to_owned(), second: name.clone() });
        }
        if span.start > end {
            return Err(SafetensorsError::Gap { name: name.clone(), bytes: span.start - end });
        }
        previous = (span.end, name);
    }
    match file_len - previous.0 {
        0 => Ok(()),
        bytes => Err(SafetensorsError::TrailingBytes { bytes }),
    }
}

fn dtype_named(name: &str) -> Option<Dtype> {
    Some(match name {
        "BOOL" => Dtype::Bool,
        "U8" => Dtype::U8,
        "I8" => Dtype::I8,
        "F8_E4M3" => Dtype::F8E4M3,
        "F8_E5M2" => Dtype::F8E5M2,
        "U16" => Dtype::U16,
        "I16" => Dtype::I16,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        "U32" => Dtype::U32,
        "I32" => Dtype::I32,
        "F32" => Dtype::F32,
        "U64" => Dtype::U64,
        "I64" => Dtype::I64,
        "F64" => Dtype::F64,
        _ => return None,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header before any check. Kept as a list, because a JSON map would swallow duplicate names.
struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader { metadata: BTreeMap::new(), tensors: Vec::new() };
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
            } else {
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SafetensorsError as E;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn fault(bytes: Vec<u8>) -> SafetensorsError {
        match parse_header(&Source::memory("test", bytes)) {
            Err(LoadError::Safetensors { source, .. }) => source,
            other => panic!("expected a fault of the format, got {other:?}"),
        }
    }

    #[test]
    fn every_fault_has_its_name() {
        let entry =
            |start: u64, end: u64| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[{start},{end}]}}"#);
        let one = |value: &str| format!(r#"{{"a":{value}}}"#);
        let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
        assert!(matches!(fault(vec![1, 2]), E::TooShort { bytes: 2 }));
        assert!(matches!(fault(u64::MAX.to_le_bytes().to_vec()), E::HeaderTooLarge { .. }));
        assert!(matches!(fault(9u64.to_le_bytes().to_vec()), E::HeaderTruncated { available: 0, .. }));
        assert!(matches!(fault(file("{", 0)), E::HeaderJson(_)));
        assert!(matches!(fault(file("[1]", 0)), E::HeaderJson(_)));
        assert!(matches!(fault(file(&"[".repeat(100_000), 0)), E::HeaderJson(_)));
        assert!(matches!(
            fault(file(&one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}"#), 0)),
            E::HeaderJson(_)
        ));
        let twice = format!(r#"{{"a":{},"a":{}}}"#, entry(0, 8), entry(8, 16));
        assert!(matches!(fault(file(&twice, 16)), E::DuplicateName { .. }));
        let unknown = one(r#"{"dtype":"F4","shape":[2],"data_offsets":[0,1]}"#);
        assert!(matches!(fault(file(&unknown, 1)), E::UnknownDtype { .. }));
        let rank = one(r#"{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}"#);
        assert!(matches!(fault(file(&rank, 1)), E::TooManyAxes { rank: 9, .. }));
        let huge = one(r#"{"dtype":"F32","shape":[18446744073709551615,3],"data_offsets":[0,0]}"#);
        assert!(matches!(fault(file(&huge, 0)), E::SizeOverflow { .. }));
        assert!(matches!(fault(file(&one(&entry(8, 0)), 8)), E::OffsetsReversed { .. }));
        assert!(matches!(fault(file(&one(&entry(0, 8)), 7)), E::OutOfBounds { available: 7, .. }));
        assert!(matches!(fault(file(&one(&entry(0, u64::MAX)), 8)), E::OutOfBounds { .. }));
        assert!(matches!(fault(file(&one(&entry(0, 4)), 4)), E::SizeMismatch { wanted: 8, found: 4, .. }));
        assert!(matches!(fault(file(&two(entry(0, 8), entry(4, 12)), 12)), E::Overlap { .. }));
        assert!(matches!(fault(file(&two(entry(0, 8), entry(0, 8)), 8)), E::Overlap { .. }));
        assert!(matches!(fault(file(&two(entry(0, 8), entry(12, 20)), 20)), E::Gap { bytes: 4, .. }));
        assert!(matches!(fault(file(&one(&entry(0, 8)), 11)), E::TrailingBytes { bytes: 3 }));
    }

    #[test]
    fn metadata_and_padding_are_allowed() {
        let header =
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}   "#;
        let parsed = parse_header(&Source::memory("test", file(header, 2))).unwrap();
        assert_eq!(parsed.metadata["format"], "pt");
        assert_eq!(parsed.tensors["a"].start, 8 + header.len() as u64);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, header in "[\\[\\]{}:,\"a-z0-9]{0,80}") {
            let _ = parse_header(&Source::memory("random", bytes));
            let _ = parse_header(&Source::memory("random", file(&header, 4)));
        }
    }
}
