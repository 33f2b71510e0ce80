//! The head of a GGUF file: counts, metadata, and where each tensor lies.

use std::collections::BTreeMap;

use super::GgufError;
use super::cursor::Cursor;
use super::metadata::{self, Metadata};
use crate::load::{Dtype, LoadError, Source, TensorInfo};

const PART: &str = "the list of tensors";
const TENSOR_LIMIT: u64 = 1 << 17;
/// Bytes of the shortest possible key-value pair and tensor entry.
const PAIR_SIZE: u64 = 13;
const ENTRY_SIZE: u64 = 32;

/// The checked head of a GGUF file.
#[derive(Debug)]
pub struct Head {
    /// Key-value pairs.
    pub metadata: Metadata,
    /// Tensors by their GGUF names; all spans lie inside the file and are disjoint.
    pub tensors: BTreeMap<String, Span>,
}

/// A tensor's type, shape (outermost axis first) and place in the file.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Span {
    pub info: TensorInfo,
    pub start: u64,
    pub len: u64,
}

/// Reads and checks the head of a GGUF file.
///
/// # Errors
/// [`LoadError::Gguf`] naming the first fault.
pub fn parse(source: &Source) -> Result<Head, LoadError> {
    let cursor = &mut Cursor::new(source);
    check_version(cursor)?;
    let tensor_count = cursor.count("tensors", ENTRY_SIZE, TENSOR_LIMIT)?;
    let pair_count = cursor.count("metadata keys", PAIR_SIZE, metadata::key_limit())?;
    let metadata = metadata::read(cursor, pair_count)?;
    let alignment = alignment(&metadata).map_err(|e| cursor.fail(e))?;
    let entries: Vec<Entry> = (0..tensor_count).map(|_| entry(cursor)).collect::<Result<_, _>>()?;
    let data_start = cursor.position().next_multiple_of(alignment);
    let tensors = place(entries, data_start, alignment, source.len()).map_err(|e| cursor.fail(e))?;
    Ok(Head { metadata, tensors })
}

fn check_version(cursor: &mut Cursor) -> Result<(), LoadError> {
    if cursor.remaining() < 24 || cursor.array(PART)? != *b"GGUF" {
        return Err(cursor.fail(GgufError::NotGguf));
    }
    match cursor.u32(PART)? {
        2 | 3 => Ok(()),
        version if version.swap_bytes() < 1 << 16 => Err(cursor.fail(GgufError::BigEndian)),
        version => Err(cursor.fail(GgufError::Version { version })),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let key = "general.alignment";
    let alignment = metadata.usize_if(key, 1..=1 << 20)?.unwrap_or(32);
    if !alignment.is_power_of_two() {
        let (value, wanted) = (alignment.to_string(), "a power of two".into());
        return Err(GgufError::WrongValue { key: key.into(), value, wanted });
    }
    Ok(alignment as u64)
}

struct Entry {
    name: String,
    /// Axis lengths in the file's order, innermost first.
    axes: Vec<u64>,
    kind: u32,
    offset: u64,
}

fn entry(cursor: &mut Cursor) -> Result<Entry, LoadError> {
    let name = cursor.name(PART)?;
    let rank = cursor.u32(PART)?;
    if !(1..=4).contains(&rank) {
        return Err(cursor.fail(GgufError::Rank { name, rank }));
    }
    let axes = (0..rank).map(|_| cursor.u64(PART)).collect::<Result<_, _>>()?;
    let kind = cursor.u32(PART)?;
    Ok(Entry { name, axes, kind, offset: cursor.u64(PART)? })
}

fn place(
    entries: Vec<Entry>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<BTreeMap<String, Span>, GgufError> {
    let available = file_len.saturating_sub(data_start);
    let mut tensors = BTreeMap::new();
    for Entry { name, axes, kind, offset } in entries {
        let (info, len) = describe(&name, &axes, kind)?;
        if offset % alignment != 0 {
            return Err(GgufError::Misaligned { name, offset, alignment });
        }
        let end = offset.saturating_add(len);
        if end > available {
            return Err(GgufError::OutOfBounds { name, end, available });
        }
        let span = Span { info, start: data_start + offset, len };
        if tensors.insert(name.clone(), span).is_some() {
            return Err(GgufError::DuplicateTensor { name });
        }
    }
    check_disjoint(&tensors)?;
    Ok(tensors)
}

fn describe(name: &str, axes: &[u64], kind: u32) -> Result<(TensorInfo, u64), GgufError> {
    let dtype = dtype_of(kind)
        .ok_or_else(|| GgufError::TensorType { name: name.to_owned(), kind: type_name(kind) })?;
    let wrong = || GgufError::Shape { name: name.to_owned(), dtype, shape: axes.to_vec() };
    let shape: Option<Vec<usize>> =
        axes.iter().rev().map(|&n| usize::try_from(n).ok().filter(|&n| n > 0)).collect();
    let info = TensorInfo { dtype, shape: shape.ok_or_else(wrong)? };
    let len = info.bytes().ok_or_else(wrong)? as u64;
    Ok((info, len))
}

fn check_disjoint(tensors: &BTreeMap<String, Span>) -> Result<(), GgufError> {
    let mut spans: Vec<_> = tensors.iter().collect();
    spans.sort_by_key(|(_, span)| span.start);
    for pair in spans.windows(2) {
        let ((first, a), (second, b)) = (pair[0], pair[1]);
        if a.start + a.len > b.start {
            return Err(GgufError::Overlap { first: first.clone(), second: second.clone() });
        }
    }
    Ok(())
}

const TYPES: [(u32, Dtype); 17] = [
    (0, Dtype::F32),
    (1, Dtype::F16),
    (2, Dtype::Q4_0),
    (3, Dtype::Q4_1),
    (6, Dtype::Q5_0),
    (7, Dtype::Q5_1),
    (8, Dtype::Q8_0),
    (10, Dtype::Q2K),
    (11, Dtype::Q3K),
    (12, Dtype::Q4K),
    (13, Dtype::Q5K),
    (14, Dtype::Q6K),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (28, Dtype::F64),
    (30, Dtype::Bf16),
];

fn dtype_of(kind: u32) -> Option<Dtype> {
    TYPES.iter().find(|(number, _)| *number == kind).map(|(_, dtype)| *dtype)
}

/// The number by which GGUF knows a type.
pub(super) fn number_of(dtype: Dtype) -> Option<u32> {
    TYPES.iter().find(|(_, other)| *other == dtype).map(|(number, _)| *number)
}

/// Names of the types that exist but are not read here.
fn type_name(kind: u32) -> String {
    let known = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (27, "I64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    let name = known.iter().find(|(number, _)| *number == kind).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("the unknown type {kind}"))
}
