//! What a tensor in a file is: its element type, its shape, its bytes, and how they become `f32`.

use std::fmt;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use super::LoadError;

/// Element type of a stored tensor: plain types, and the block-quantised types of GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F8E4M3,
    F8E5M2,
    F16,
    Bf16,
    F32,
    F64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Dtype {
    /// Elements in one block and the bytes it takes; plain types are blocks of one element.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 | Self::F8E5M2 => (1, 1),
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => (1, 2),
            Self::U32 | Self::I32 | Self::F32 => (1, 4),
            Self::U64 | Self::I64 | Self::F64 => (1, 8),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Bytes of a tensor of this shape; `None` if they overflow or the last axis is no whole number of blocks.
    pub fn bytes_for(self, shape: &[usize]) -> Option<usize> {
        let (elements, bytes) = self.block();
        let row = shape.last().copied().unwrap_or(1);
        if row % elements != 0 {
            return None;
        }
        let count = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
        (count / elements).checked_mul(bytes)
    }

    /// Whether the type is one of the block-quantised ones.
    pub const fn is_quantized(self) -> bool {
        self.block().0 > 1
    }

    /// Whether the type holds real numbers that can serve as weights.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64) || self.is_quantized()
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{self:?}").to_uppercase();
        match self {
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => {
                f.write_str(&name.replace('K', "_K"))
            }
            Self::F8E4M3 | Self::F8E5M2 => f.write_str(&name.replace("F8", "F8_")),
            _ => f.write_str(&name),
        }
    }
}

/// Type and shape of a stored tensor, known without reading its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Axis lengths, outermost first (`[outputs, inputs]` for a linear layer).
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes of the data, or `None` for an impossible shape.
    pub fn bytes(&self) -> Option<usize> {
        self.dtype.bytes_for(&self.shape)
    }

    /// Some rows (along the first axis) as a tensor of their own, and where their bytes lie in this one.
    ///
    /// # Errors
    /// [`LoadError::Misshapen`] where there are no such rows; `name` is for its message.
    pub fn rows(&self, name: &str, rows: &Range<usize>) -> Result<(Self, Range<usize>), LoadError> {
        let mut shape = self.shape.clone();
        let row = match (self.bytes(), shape.first()) {
            (Some(bytes), Some(&count))
                if rows.start <= rows.end && rows.end <= count && bytes % count.max(1) == 0 =>
            {
                bytes / count.max(1)
            }
            _ => {
                let (found, wanted) = (shape, vec![rows.end]);
                return Err(LoadError::Misshapen { name: name.to_owned(), found, wanted });
            }
        };
        shape[0] = rows.len();
        Ok((Self { dtype: self.dtype, shape }, rows.start * row..rows.end * row))
    }
}

/// A tensor as it is stored: little-endian, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Axis lengths, outermost first.
    pub shape: Vec<usize>,
    /// The data, exactly [`Dtype::bytes_for`] of the shape.
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// An `F32` tensor of these values.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape, bytes }
    }

    /// Type and shape.
    pub fn info(&self) -> TensorInfo {
        TensorInfo { dtype: self.dtype, shape: self.shape.clone() }
    }

    /// The values in single precision.
    ///
    /// # Errors
    /// [`LoadError::WrongDtype`] for integers and for the types without a conversion; `name` is for its message.
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        let bytes = &self.bytes;
        Ok(match self.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
            Dtype::F16 => f16_values(bytes),
            Dtype::Bf16 => {
                bytes.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect()
            }
            dtype => match super::blocks::dequantize(dtype, bytes) {
                Some(values) => values,
                None => {
                    let wanted = "F32, F16, BF16, F64 or a supported block type";
                    return Err(LoadError::WrongDtype { name: name.to_owned(), dtype, wanted });
                }
            },
        })
    }
}

fn f16_values(bytes: &[u8]) -> Vec<f32> {
    let halves: Vec<half::f16> = bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b)).collect();
    let mut values = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut values);
    values
}

/// A set of named tensors that are read one at a time. Names are those of Hugging Face checkpoints.
pub trait Checkpoint: Send + Sync + fmt::Debug {
    /// All names, sorted.
    fn names(&self) -> Vec<String>;

    /// Type and shape of a tensor; `None` if there is none of this name.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads one tensor.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], or [`LoadError::Io`] if the disk fails.
    fn read(&self, name: &str) -> Result<RawTensor, LoadError>;

    /// Reads some rows (along the first axis) of one tensor.
    ///
    /// # Errors
    /// As [`Checkpoint::read`]; [`LoadError::Misshapen`] where the tensor has no such rows.
    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<RawTensor, LoadError> {
        let whole = self.read(name)?;
        let (info, bytes) = whole.info().rows(name, &rows)?;
        Ok(RawTensor { dtype: info.dtype, shape: info.shape, bytes: whole.bytes[bytes].to_vec() })
    }

    /// Reads one tensor that must have exactly this shape.
    ///
    /// # Errors
    /// As [`Checkpoint::read`], and [`LoadError::Misshapen`] before any data is touched.
    fn read_shaped(&self, name: &str, wanted: &[usize]) -> Result<RawTensor, LoadError> {
        let info = self.info(name).ok_or_else(|| self.missing(name))?;
        if info.shape != wanted {
            let (found, wanted) = (info.shape, wanted.to_vec());
            return Err(LoadError::Misshapen { name: name.to_owned(), found, wanted });
        }
        self.read(name)
    }

    /// Reads one tensor of exactly this shape as `f32`.
    ///
    /// # Errors
    /// As [`Checkpoint::read_shaped`], and [`LoadError::WrongDtype`].
    fn read_f32(&self, name: &str, wanted: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.read_shaped(name, wanted)?.to_f32(name)
    }

    /// Bytes of all tensors together.
    fn total_bytes(&self) -> u64 {
        let size = |name: &String| self.info(name).and_then(|i| i.bytes()).unwrap_or(0) as u64;
        self.names().iter().map(size).sum()
    }

    /// The error for an absent tensor, naming the one that comes closest.
    fn missing(&self, name: &str) -> LoadError {
        LoadError::MissingTensor { name: name.to_owned(), similar: most_similar(&self.names(), name) }
    }
}

/// The name that shares the longest ending with `name` (at least two of its dot-separated parts).
fn most_similar(names: &[String], name: &str) -> Option<String> {
    let common = |other: &str| name.rsplit('.').zip(other.rsplit('.')).take_while(|(a, b)| a == b).count();
    let best = names.iter().max_by_key(|other| common(other))?;
    (common(best) >= 2).then(|| best.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_convert_exactly() {
        let raw = |dtype, bytes: Vec<u8>| RawTensor { dtype, shape: vec![2], bytes }.to_f32("x").unwrap();
        let bytes = |values: [f32; 2]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(raw(Dtype::F32, bytes([1.5, -0.25])), [1.5, -0.25]);
        assert_eq!(raw(Dtype::F16, vec![0x00, 0x3e, 0x01, 0x00]), [1.5, 2f32.powi(-24)]);
        assert_eq!(raw(Dtype::Bf16, vec![0xc0, 0x3f, 0x80, 0xbe]), [1.5, -0.25]);
        let doubles = [1.5f64, -0.25].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(raw(Dtype::F64, doubles), [1.5, -0.25]);
        let integers = RawTensor { dtype: Dtype::I32, shape: vec![1], bytes: vec![0; 4] };
        assert!(matches!(integers.to_f32("x"), Err(LoadError::WrongDtype { .. })));
    }

    #[test]
    fn rows_are_cut_at_row_borders() {
        let info = TensorInfo { dtype: Dtype::F32, shape: vec![4, 3] };
        let (part, bytes) = info.rows("x", &(1..3)).unwrap();
        assert_eq!((part.shape, bytes), (vec![2, 3], 12..36));
        assert!(matches!(info.rows("x", &(2..5)), Err(LoadError::Misshapen { .. })));
        assert!(matches!(
            TensorInfo { shape: vec![], ..info }.rows("x", &(0..1)),
            Err(LoadError::Misshapen { .. })
        ));
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(Dtype::F32.bytes_for(&[2, 3]), Some(24));
        assert_eq!(Dtype::F32.bytes_for(&[]), Some(4));
        assert_eq!(Dtype::Q4K.bytes_for(&[2, 512]), Some(2 * 2 * 144));
        assert_eq!(Dtype::Q4K.bytes_for(&[512, 2]), None);
        assert_eq!(Dtype::F32.bytes_for(&[usize::MAX, 2]), None);
        assert_eq!(Dtype::F64.bytes_for(&[usize::MAX / 4]), None);
    }

    #[test]
    fn names_print_as_in_the_formats() {
        let printed: Vec<_> =
            [Dtype::Bf16, Dtype::Q4K, Dtype::Q8_0, Dtype::F8E4M3].iter().map(Dtype::to_string).collect();
        assert_eq!(printed, ["BF16", "Q4_K", "Q8_0", "F8_E4M3"]);
    }

    #[test]
    fn a_missing_tensor_suggests_a_similar_name() {
        let names = ["model.norm.weight".to_owned(), "model.layers.0.mlp.up_proj.weight".to_owned()];
        let found = most_similar(&names, "layers.0.mlp.up_proj.weight");
        assert_eq!(found.as_deref(), Some("model.layers.0.mlp.up_proj.weight"));
        assert_eq!(most_similar(&names, "lm_head.bias"), None);
    }
}
