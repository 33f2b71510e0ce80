//! The table of token embeddings, which may serve as the output head too.

use burn::module::Module;
use burn::tensor::Tensor;
use whit_kernels::{embedding, op};

use super::linear::Linear;

/// Rows of a matrix, one a token id.
#[derive(Module, Debug)]
pub struct Embedding {
    table: Linear, // [vocabulary, width]
}

impl Embedding {
    /// A table whose rows are the rows of `table`'s weight.
    pub fn new(table: Linear) -> Self {
        Self { table }
    }

    /// The rows of `ids`: `[ids, width]`. Every id must be below the number of rows.
    pub fn forward(&self, ids: &[u32]) -> Tensor<2> {
        if let Some(weight) = self.table.dense_weight() {
            return embedding::embedding(weight, ids);
        }
        let Some(packed) = self.table.packed_weight() else {
            unreachable!("a linear layer is built with a weight");
        };
        let width = packed.inputs();
        let mut rows = vec![0.0; ids.len() * width];
        for (row, &id) in rows.chunks_exact_mut(width).zip(ids) {
            packed.row(id as usize, row);
        }
        op::tensor(op::Host::new([ids.len(), width], rows))
    }

    /// Logits over the vocabulary with the same matrix: `[tokens, vocabulary]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.table.forward(hidden)
    }

    /// The bytes that the table holds.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }
}
