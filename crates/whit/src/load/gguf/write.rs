//! Writing GGUF files that llama.cpp loads.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use super::metadata::Value;
use super::names::{self, Architecture, Heads};
use super::rows::Order;
use super::{GgufError, parse, write_config, write_tokenizer};
use crate::load::file::write_atomic;
use crate::load::{ChatTemplate, Dtype, LoadError, RawTensor, TensorInfo, Tokenizer};

const ALIGNMENT: u64 = 32;

/// A model to be written, in Hugging Face's terms.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    /// The configuration (`model_type` llama, mistral, mixtral, qwen2 or qwen3).
    pub config: &'a serde_json::Value,
    /// The tokenizer, if the file shall have one.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The chat template.
    pub chat_template: Option<&'a ChatTemplate>,
    /// Every tensor's Hugging Face name, and the type and shape of the bytes that will be given for it. Matrices may
    /// be of any block type; vectors are stored in `f32` whatever they come as, because llama.cpp needs them so.
    pub tensors: &'a [(String, TensorInfo)],
}

/// Bytes of a tensor, by its Hugging Face name.
type Bytes<'f, 'a> = &'f mut dyn FnMut(&str) -> Result<Cow<'a, [u8]>, LoadError>;

/// Writes a model whose tensors are in memory.
///
/// # Errors
/// As [`save_with`].
pub fn save(path: &Path, model: &Model, tensors: &HashMap<String, RawTensor>) -> Result<(), LoadError> {
    save_with(path, model, |name| match tensors.get(name) {
        Some(tensor) => Ok(Cow::Borrowed(tensor.bytes.as_slice())),
        None => Err(LoadError::MissingTensor { name: name.to_owned(), similar: None }),
    })
}

/// Writes a model, asking `bytes` for one tensor after the other; the file appears only when complete.
///
/// # Errors
/// [`LoadError::Gguf`] if the model has something that the format or llama.cpp cannot express, what `bytes` returns,
/// and [`LoadError::Io`].
pub fn save_with<'a>(
    path: &Path,
    model: &Model,
    mut bytes: impl FnMut(&str) -> Result<Cow<'a, [u8]>, LoadError>,
) -> Result<(), LoadError> {
    let wrong = |e| LoadError::gguf(path, e);
    let config = write_config::read(model.config).map_err(wrong)?;
    let (entries, pairs) = plan(model, &config).map_err(wrong)?;
    let head = head(&entries, &pairs).map_err(wrong)?;
    write_atomic(path, |file| {
        let mut out = Output { file, path, written: 0 };
        out.write(&head)?;
        for entry in &entries {
            out.align()?;
            entry.write(&mut out, &mut bytes)?;
        }
        out.align()
    })
}

/// The tensors in file order and the metadata.
type Plan = (Vec<Entry>, BTreeMap<String, Value>);

fn plan(model: &Model, config: &write_config::Config) -> Result<Plan, GgufError> {
    let mut entries = entries(model.tensors, config)?;
    if let Some(factors) = &config.rope_factors {
        entries.insert(0, Entry::factors(factors));
    }
    let mut pairs = config.metadata.clone();
    let vectors = |e: &&Entry| e.info.shape.len() > 1;
    pairs.insert("general.file_type".into(), Value::Unsigned(file_type(entries.iter().filter(vectors))));
    let rows = entries.iter().find(|e| e.name == "token_embd.weight").map(|e| e.info.shape[0]);
    let rows = rows.ok_or(GgufError::MissingTensor { name: "model.embed_tokens.weight" })?;
    pairs.extend(write_tokenizer::metadata(model, rows)?);
    Ok((entries, pairs))
}

/// One tensor of the file and where its bytes come from.
struct Entry {
    name: String,
    info: TensorInfo,
    order: Order,
    origin: Origin,
}

enum Origin {
    /// Tensors of the model, one after the other (several for stacked experts), and their type there.
    Model(Vec<String>, TensorInfo),
    /// Values made up for the file.
    Made(Vec<u8>),
}

fn entries(tensors: &[(String, TensorInfo)], config: &write_config::Config) -> Result<Vec<Entry>, GgufError> {
    let mut entries = Vec::new();
    let mut experts: BTreeMap<String, BTreeMap<usize, (String, TensorInfo)>> = BTreeMap::new();
    for (name, info) in tensors {
        let repeated = name == "lm_head.weight" && config.tied;
        if repeated || name.ends_with("rotary_emb.inv_freq") {
            continue;
        }
        if let Some((layer, expert, part)) = names::expert_parts(name) {
            let stack = experts.entry(format!("blk.{layer}.{part}.weight")).or_default();
            stack.insert(expert, (name.clone(), info.clone()));
            continue;
        }
        entries.push(Entry::single(name, info, config.architecture, config.heads)?);
    }
    for (name, stack) in experts {
        entries.push(Entry::stacked(name, stack)?);
    }
    Ok(entries)
}

impl Entry {
    fn single(
        name: &str,
        info: &TensorInfo,
        architecture: Architecture,
        heads: Heads,
    ) -> Result<Self, GgufError> {
        let own = names::to_gguf(name).ok_or_else(|| GgufError::UnknownTensor {
            name: name.to_owned(),
            architecture: architecture.name().to_owned(),
        })?;
        let order = names::order_of(name, architecture, heads);
        order.check(name, info)?;
        let dtype = if info.shape.len() == 1 { Dtype::F32 } else { info.dtype };
        let stored = TensorInfo { dtype, shape: info.shape.clone() };
        let origin = Origin::Model(vec![name.to_owned()], info.clone());
        Ok(Self { name: own, info: stored, order, origin })
    }

    /// The matrices of all experts of a layer, which must be alike and without a hole.
    fn stacked(name: String, stack: BTreeMap<usize, (String, TensorInfo)>) -> Result<Self, GgufError> {
        let count = stack.len();
        let (names, infos): (Vec<_>, Vec<_>) = stack.into_values().unzip();
        let first = infos[0].clone();
        if infos.iter().any(|info| *info != first) {
            return Err(GgufError::Unwritable {
                reason: format!("the experts of {name} differ in type or shape"),
            });
        }
        let shape = [&[count], first.shape.as_slice()].concat();
        let info = TensorInfo { dtype: first.dtype, shape };
        Ok(Self { name, info, order: Order::Plain, origin: Origin::Model(names, first) })
    }

    fn factors(factors: &[f32]) -> Self {
        let RawTensor { dtype, shape, bytes } = RawTensor::from_f32(vec![factors.len()], factors);
        let (info, order) = (TensorInfo { dtype, shape }, Order::Plain);
        Self { name: names::ROPE_FACTORS.into(), info, order, origin: Origin::Made(bytes) }
    }

    fn write<'a>(&self, out: &mut Output, bytes: Bytes<'_, 'a>) -> Result<(), LoadError> {
        let (names, info) = match &self.origin {
            Origin::Made(bytes) => return out.write(bytes),
            Origin::Model(names, info) => (names, info),
        };
        for name in names {
            let given = bytes(name)?;
            if Some(given.len()) != info.bytes() {
                let (found, wanted) = (vec![given.len()], info.shape.clone());
                return Err(LoadError::Misshapen { name: name.clone(), found, wanted });
            }
            out.write(&self.converted(name, given, info)?)?;
        }
        Ok(())
    }

    /// The bytes in the file's type and row order.
    fn converted<'a>(
        &self,
        name: &str,
        bytes: Cow<'a, [u8]>,
        info: &TensorInfo,
    ) -> Result<Cow<'a, [u8]>, LoadError> {
        let mut bytes = bytes;
        if info.dtype != self.info.dtype {
            let raw = RawTensor { dtype: info.dtype, shape: info.shape.clone(), bytes: bytes.into_owned() };
            bytes = Cow::Owned(RawTensor::from_f32(raw.shape.clone(), &raw.to_f32(name)?).bytes);
        }
        Ok(match self.order {
            Order::Plain => bytes,
            order => Cow::Owned(order.arrange(bytes.into_owned(), info.shape[0])),
        })
    }
}

/// GGUF's number for the mixture of types, after the one that most matrices have.
fn file_type<'a>(matrices: impl Iterator<Item = &'a Entry>) -> u64 {
    let mut counts: HashMap<Dtype, usize> = HashMap::new();
    for entry in matrices {
        *counts.entry(entry.info.dtype).or_default() += 1;
    }
    match counts.into_iter().max_by_key(|(_, count)| *count).map(|(dtype, _)| dtype) {
        Some(Dtype::F16) => 1,
        Some(Dtype::Q4_0) => 2,
        Some(Dtype::Q4_1) => 3,
        Some(Dtype::Q8_0) => 7,
        Some(Dtype::Q5_0) => 8,
        Some(Dtype::Q5_1) => 9,
        Some(Dtype::Q2K) => 10,
        Some(Dtype::Q3K) => 12,
        Some(Dtype::Q4K) => 15,
        Some(Dtype::Q5K) => 17,
        Some(Dtype::Q6K) => 18,
        Some(Dtype::Bf16) => 32,
        _ => 0,
    }
}

fn head(entries: &[Entry], pairs: &BTreeMap<String, Value>) -> Result<Vec<u8>, GgufError> {
    let mut head = Vec::from(*b"GGUF\x03\0\0\0");
    number(&mut head, entries.len());
    number(&mut head, pairs.len());
    // Readers take the architecture from the front.
    let first = "general.architecture";
    let rest = pairs.iter().filter(|(key, _)| *key != first);
    for (key, value) in pairs.get_key_value(first).into_iter().chain(rest) {
        text(&mut head, key);
        write_value(&mut head, value);
    }
    let mut offset = 0u64;
    for Entry { name, info, .. } in entries {
        let unwritable = || {
            let reason = format!(
                "tensor {name:?} of type {} and shape {:?} has no form there",
                info.dtype, info.shape
            );
            GgufError::Unwritable { reason }
        };
        text(&mut head, name);
        head.extend((info.shape.len() as u32).to_le_bytes());
        info.shape.iter().rev().for_each(|&axis| number(&mut head, axis));
        head.extend(parse::number_of(info.dtype).ok_or_else(unwritable)?.to_le_bytes());
        head.extend(offset.to_le_bytes());
        let size = info.bytes().filter(|_| (1..=4).contains(&info.shape.len())).ok_or_else(unwritable)?;
        offset = (offset + size as u64).next_multiple_of(ALIGNMENT);
    }
    Ok(head)
}

fn number(head: &mut Vec<u8>, number: usize) {
    head.extend((number as u64).to_le_bytes());
}

fn text(head: &mut Vec<u8>, text: &str) {
    number(head, text.len());
    head.extend(text.as_bytes());
}

fn kind(head: &mut Vec<u8>, kind: u32) {
    head.extend(kind.to_le_bytes());
}

fn list(head: &mut Vec<u8>, item: u32, len: usize) {
    kind(head, 9);
    kind(head, item);
    number(head, len);
}

/// Values in the widths that llama.cpp expects: sizes in 32 bits, numbers in `f32`, lists of integers in `i32`.
fn write_value(head: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(n) => match u32::try_from(*n) {
            Ok(n) => {
                kind(head, 4);
                head.extend(n.to_le_bytes());
            }
            Err(_) => {
                kind(head, 10);
                head.extend(n.to_le_bytes());
            }
        },
        Value::Signed(n) => {
            kind(head, 11);
            head.extend(n.to_le_bytes());
        }
        Value::Float(n) => {
            kind(head, 6);
            head.extend((*n as f32).to_le_bytes());
        }
        Value::Bool(b) => {
            kind(head, 7);
            head.push(u8::from(*b));
        }
        Value::Text(t) => {
            kind(head, 8);
            text(head, t);
        }
        Value::Integers(items) => {
            list(head, 5, items.len());
            items.iter().for_each(|&item| head.extend((item as i32).to_le_bytes()));
        }
        Value::Floats(items) => {
            list(head, 6, items.len());
            items.iter().for_each(|item| head.extend(item.to_le_bytes()));
        }
        Value::Texts(items) => {
            list(head, 8, items.len());
            items.iter().for_each(|item| text(head, item));
        }
    }
}

struct Output<'a> {
    file: &'a mut dyn Write,
    path: &'a Path,
    written: u64,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.written += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| LoadError::io("write", self.path, e))
    }

    fn align(&mut self) -> Result<(), LoadError> {
        let padding = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.write(&[0; ALIGNMENT as usize][..padding as usize])
    }
}
