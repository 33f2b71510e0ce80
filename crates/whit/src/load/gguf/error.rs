//! Each way a GGUF file can be wrong.

/// Why a GGUF file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GgufError {
    #[error("the file does not begin with \"GGUF\": it is no GGUF file, or damaged")]
    NotGguf,
    #[error("the file is big-endian; convert the model again on a little-endian machine")]
    BigEndian,
    #[error("GGUF version {version} is not supported (2 and 3 are); convert the model again")]
    Version { version: u32 },
    #[error("the file ends inside {part}: it is truncated, fetch it again")]
    Truncated { part: &'static str },
    #[error("the file claims {count} {what}, at most {limit} are possible here: it is damaged")]
    TooMany { what: &'static str, count: u64, limit: u64 },
    #[error("{part} is not valid UTF-8: the file is damaged")]
    NotText { part: &'static str },
    #[error("the metadata key {key:?} has the unknown value type {kind}")]
    ValueType { key: String, kind: u32 },
    #[error("the metadata key {key:?} occurs twice")]
    DuplicateKey { key: String },
    #[error("the metadata key {key:?} is missing; it must be {wanted}")]
    MissingKey { key: String, wanted: String },
    #[error("the metadata key {key:?} has the value {value}; it must be {wanted}")]
    WrongValue { key: String, value: String, wanted: String },
    #[error("the tensor name {name:?} occurs twice")]
    DuplicateTensor { name: String },
    #[error("tensor {name:?} has {rank} axes; 1 to 4 are possible")]
    Rank { name: String, rank: u32 },
    #[error(
        "tensor {name:?} is stored as {kind}, which is not supported; quantise the model to Q4_K_M or Q8_0"
    )]
    TensorType { name: String, kind: String },
    #[error("tensor {name:?} of type {dtype} cannot have the shape {shape:?}")]
    Shape { name: String, dtype: super::Dtype, shape: Vec<u64> },
    #[error("tensor {name:?} begins at {offset}, which is no multiple of the alignment {alignment}")]
    Misaligned { name: String, offset: u64, alignment: u64 },
    #[error("tensor {name:?} ends at {end}, but the file has {available} bytes of data: truncated or lying")]
    OutOfBounds { name: String, end: u64, available: u64 },
    #[error("tensors {first:?} and {second:?} overlap in the file")]
    Overlap { first: String, second: String },
    #[error("the architecture {name:?} is not supported; those that are: {supported}")]
    Architecture { name: String, supported: String },
    #[error("this is one of {count} parts; join them first (llama-gguf-split --merge)")]
    Split { count: u64 },
    #[error("tensor {name:?} has no place in the architecture {architecture:?}")]
    UnknownTensor { name: String, architecture: String },
    #[error("the tensor {name:?} is missing")]
    MissingTensor { name: &'static str },
    #[error("tensor {name:?} has {rows} rows, which cannot be divided among {heads} heads")]
    Heads { name: String, rows: usize, heads: usize },
    #[error("its tokenizer cannot be used: {reason}")]
    Tokenizer { reason: String },
    #[error("this model cannot be stored as GGUF: {reason}")]
    Unwritable { reason: String },
}
