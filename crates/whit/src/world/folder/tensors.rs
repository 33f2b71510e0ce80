//! Tensors in memory as the bytes of a safetensors file.

use serde_json::{Map, Value, json};

/// A tensor with its name, as bytes.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    name: &'static str,
    dtype: &'static str,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Tensor {
    /// Whole numbers from 0 to 255.
    pub(super) fn bytes(name: &'static str, shape: &[usize], data: Vec<u8>) -> Self {
        Self { name, dtype: "U8", shape: shape.to_vec(), data }
    }

    /// Numbers of 32 bits.
    pub(super) fn floats(name: &'static str, shape: &[usize], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name, dtype: "F32", shape: shape.to_vec(), data }
    }
}

/// The file: the length of the header, the header padded to a multiple of eight, and the data in order.
pub(super) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut entries, mut start) = (Map::new(), 0);
    for tensor in tensors {
        let end = start + tensor.data.len();
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end] });
        entries.insert(tensor.name.to_owned(), entry);
        start = end;
    }
    let mut header = Value::Object(entries).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    tensors.iter().for_each(|tensor| bytes.extend(&tensor.data));
    bytes
}
