//! The key-value part of a GGUF file.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::GgufError;
use super::cursor::Cursor;
use crate::load::LoadError;

const PART: &str = "the metadata";
/// Most keys and array items accepted; the largest vocabularies have about 300 thousand entries.
const KEY_LIMIT: u64 = 1 << 16;
const ITEM_LIMIT: u64 = 1 << 24;

/// A metadata value; numbers are widened.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
}

impl Value {
    fn print(&self) -> String {
        match self {
            Self::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Self::Integers(items) => format!("a list of {} integers", items.len()),
            Self::Floats(items) => format!("a list of {} numbers", items.len()),
            Self::Texts(items) => format!("a list of {} strings", items.len()),
            Self::Unsigned(n) => n.to_string(),
            Self::Signed(n) => n.to_string(),
            Self::Float(n) => n.to_string(),
            Self::Bool(b) => b.to_string(),
        }
    }

    fn integer(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            // Some converters write one value per layer; equal values are as good as one.
            Self::Integers(items) => {
                let first = *items.first()?;
                items.iter().all(|&item| item == first).then(|| u64::try_from(first).ok())?
            }
            _ => None,
        }
    }
}

/// The contents, if the value is of that kind.
impl Value {
    fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn as_texts(&self) -> Option<&[String]> {
        if let Self::Texts(items) = self { Some(items) } else { None }
    }

    fn as_integers(&self) -> Option<&[i64]> {
        if let Self::Integers(items) = self { Some(items) } else { None }
    }

    fn as_floats(&self) -> Option<&[f32]> {
        if let Self::Floats(items) = self { Some(items) } else { None }
    }
}

/// All metadata of a file, with typed access.
#[derive(Debug, Default)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    #[cfg(test)]
    pub(super) fn insert(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    pub(super) fn usize_if(
        &self,
        key: &str,
        allowed: RangeInclusive<usize>,
    ) -> Result<Option<usize>, GgufError> {
        let wanted = || format!("a whole number from {} to {}", allowed.start(), allowed.end());
        let read =
            |v: &Value| v.integer().and_then(|n| usize::try_from(n).ok()).filter(|n| allowed.contains(n));
        self.typed(key, read, wanted)
    }

    pub(super) fn usize(&self, key: &str, allowed: RangeInclusive<usize>) -> Result<usize, GgufError> {
        let wanted = format!("a whole number from {} to {}", allowed.start(), allowed.end());
        self.usize_if(key, allowed)?.ok_or(GgufError::MissingKey { key: key.to_owned(), wanted })
    }

    pub(super) fn f64_if(&self, key: &str, allowed: RangeInclusive<f64>) -> Result<Option<f64>, GgufError> {
        let read = |v: &Value| match v {
            Value::Float(n) => Some(*n),
            other => other.integer().map(|n| n as f64),
        };
        let wanted = || format!("a number from {:e} to {:e}", allowed.start(), allowed.end());
        self.typed(key, |v| read(v).filter(|n| allowed.contains(n)), wanted)
    }

    pub(super) fn bool_if(&self, key: &str) -> Result<Option<bool>, GgufError> {
        let read = |v: &Value| if let Value::Bool(b) = v { Some(*b) } else { None };
        self.typed(key, read, || "true or false".into())
    }

    pub(super) fn text_if(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.borrowed(key, Value::as_text, "a string")
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, GgufError> {
        let missing = GgufError::MissingKey { key: key.to_owned(), wanted: "a string".into() };
        self.text_if(key)?.ok_or(missing)
    }

    pub(super) fn texts_if(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.borrowed(key, Value::as_texts, "a list of strings")
    }

    pub(super) fn integers_if(&self, key: &str) -> Result<Option<&[i64]>, GgufError> {
        self.borrowed(key, Value::as_integers, "a list of integers")
    }

    pub(super) fn floats_if(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.borrowed(key, Value::as_floats, "a list of numbers")
    }

    fn typed<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> Option<T>,
        wanted: impl Fn() -> String,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || GgufError::WrongValue { key: key.to_owned(), value: value.print(), wanted: wanted() };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn borrowed<T: ?Sized>(
        &self,
        key: &str,
        read: fn(&Value) -> Option<&T>,
        wanted: &str,
    ) -> Result<Option<&T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong =
            || GgufError::WrongValue { key: key.to_owned(), value: value.print(), wanted: wanted.into() };
        read(value).map(Some).ok_or_else(wrong)
    }
}

/// Reads `count` key-value pairs.
pub(super) fn read(cursor: &mut Cursor, count: u64) -> Result<Metadata, LoadError> {
    let mut metadata = Metadata::default();
    for _ in 0..count {
        let key = cursor.name(PART)?;
        let kind = cursor.u32(PART)?;
        let value = if kind == 9 { list(cursor, &key)? } else { scalar(cursor, &key, kind)? };
        if metadata.values.contains_key(&key) {
            return Err(cursor.fail(GgufError::DuplicateKey { key }));
        }
        metadata.values.insert(key, value);
    }
    Ok(metadata)
}

pub(super) fn key_limit() -> u64 {
    KEY_LIMIT
}

fn scalar(cursor: &mut Cursor, key: &str, kind: u32) -> Result<Value, LoadError> {
    Ok(match kind {
        0 | 2 | 4 | 10 => Value::Unsigned(integer(cursor, kind)? as u64),
        1 | 3 | 5 | 11 => Value::Signed(integer(cursor, kind)?),
        6 => Value::Float(f32::from_le_bytes(cursor.array(PART)?).into()),
        7 => Value::Bool(cursor.array::<1>(PART)?[0] != 0),
        8 => Value::Text(text(cursor)?),
        12 => Value::Float(f64::from_le_bytes(cursor.array(PART)?)),
        _ => return Err(cursor.fail(GgufError::ValueType { key: key.to_owned(), kind })),
    })
}

/// An array of one type; arrays of arrays are refused, no known key has them.
fn list(cursor: &mut Cursor, key: &str) -> Result<Value, LoadError> {
    let kind = cursor.u32(PART)?;
    let Some(size) = item_size(kind) else {
        return Err(cursor.fail(GgufError::ValueType { key: key.to_owned(), kind }));
    };
    let count = cursor.count("array items", size, ITEM_LIMIT)?;
    Ok(match kind {
        8 => Value::Texts(repeat(count, || text(cursor))?),
        6 => Value::Floats(repeat(count, || Ok(f32::from_le_bytes(cursor.array(PART)?)))?),
        12 => Value::Floats(repeat(count, || Ok(f64::from_le_bytes(cursor.array(PART)?) as f32))?),
        _ => Value::Integers(repeat(count, || integer(cursor, kind))?),
    })
}

fn repeat<T>(count: u64, mut item: impl FnMut() -> Result<T, LoadError>) -> Result<Vec<T>, LoadError> {
    (0..count).map(|_| item()).collect()
}

/// Fewest bytes an array item of this type takes.
fn item_size(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        _ => return None,
    })
}

fn integer(cursor: &mut Cursor, kind: u32) -> Result<i64, LoadError> {
    Ok(match kind {
        0 | 7 => cursor.array::<1>(PART)?[0].into(),
        1 => (cursor.array::<1>(PART)?[0] as i8).into(),
        2 => u16::from_le_bytes(cursor.array(PART)?).into(),
        3 => i16::from_le_bytes(cursor.array(PART)?).into(),
        4 => cursor.u32(PART)?.into(),
        5 => (cursor.u32(PART)? as i32).into(),
        _ => cursor.u64(PART)? as i64,
    })
}

/// Vocabularies may hold pieces of characters, so that text which is no UTF-8 is not yet a fault.
fn text(cursor: &mut Cursor) -> Result<String, LoadError> {
    Ok(String::from_utf8_lossy(cursor.string_bytes(PART)?).into_owned())
}
