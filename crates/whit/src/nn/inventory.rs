//! What a decoder consists of: its matrices by name, before any of them is read. Memory is estimated
//! and work is counted from this list.

use whit_kernels::linear::WeightType;

use super::decoder::DecoderConfig;
use super::vars::Storage;

/// One matrix of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The name of its tensor.
    pub name: String,
    /// Rows.
    pub outputs: usize,
    /// Values a row.
    pub inputs: usize,
    /// How a forward pass uses it.
    pub role: Role,
}

/// How a forward pass uses a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Rows are looked up.
    Table,
    /// Every token is multiplied with it.
    Layer,
    /// One of the experts of a mixture.
    Expert,
    /// Only tokens whose logits are wanted are multiplied with it.
    Head,
}

/// The bytes that `matrices` will hold in this storage.
pub fn weight_bytes(matrices: &[Matrix], storage: &Storage, native: impl Fn(&str) -> WeightType) -> u64 {
    let bytes = |matrix: &Matrix| {
        let values = (matrix.outputs * matrix.inputs) as u64;
        match storage {
            Storage::Dense(_) => values * 4,
            Storage::Packed(precision) => {
                let kind = precision.for_matrix(&matrix.name, matrix.inputs, || native(&matrix.name));
                kind.bytes_of(values)
            }
        }
    };
    matrices.iter().map(bytes).sum()
}

impl DecoderConfig {
    /// All matrices, in the order of the forward pass. A tied head is its table.
    pub fn matrices(&self) -> Vec<Matrix> {
        let matrix =
            |name: &str, outputs, inputs, role| Matrix { name: name.to_owned(), outputs, inputs, role };
        let mut all = vec![matrix("model.embed_tokens.weight", self.vocab_size, self.width, Role::Table)];
        if self.positions == super::decoder::Positions::Learned {
            all.push(matrix("model.embed_positions.weight", self.max_positions, self.width, Role::Table));
        }
        all.extend((0..self.layers).flat_map(|layer| self.layer_matrices(layer)));
        if !self.tied {
            all.push(matrix("lm_head.weight", self.vocab_size, self.width, Role::Head));
        }
        all
    }

    /// The number of weights in all matrices.
    pub fn parameters(&self) -> u64 {
        self.matrices().iter().map(|matrix| (matrix.outputs * matrix.inputs) as u64).sum()
    }

    /// The bytes that the matrices will hold in this storage.
    pub fn weight_bytes(&self, storage: &Storage, native: impl Fn(&str) -> WeightType) -> u64 {
        weight_bytes(&self.matrices(), storage, native)
    }

    fn layer_matrices(&self, layer: usize) -> Vec<Matrix> {
        let (width, queries, keys) = (self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let matrix = |name: &str, outputs, inputs, role| Matrix {
            name: format!("model.layers.{layer}.{name}.weight"),
            outputs,
            inputs,
            role,
        };
        if let Some(white) = self.white {
            let square = |name| matrix(name, width, width, Role::Layer);
            let own = (!white.tied_output && self.heads > 1).then(|| square("self_attn.o_proj"));
            return [square("self_attn.q_proj")]
                .into_iter()
                .chain(own)
                .chain([square("mlp.dictionary")])
                .collect();
        }
        let mut all = match self.latent {
            Some(latent) => latent
                .matrices(width, self.heads)
                .map(|(name, outputs, inputs)| {
                    matrix(&format!("self_attn.{name}"), outputs, inputs, Role::Layer)
                })
                .into(),
            None => vec![
                matrix("self_attn.q_proj", queries, width, Role::Layer),
                matrix("self_attn.k_proj", keys, width, Role::Layer),
                matrix("self_attn.v_proj", keys, width, Role::Layer),
                matrix("self_attn.o_proj", width, queries, Role::Layer),
            ],
        };
        match self.experts {
            None if self.block_ffn.is_some() => {
                let experts = self.block_ffn.map_or(0, |block| block.experts);
                all.push(matrix("mlp.router_proj", experts, width, Role::Layer));
                all.push(matrix("mlp.up_proj", self.feed_forward, width, Role::Layer));
                all.push(matrix("mlp.down_proj", width, self.feed_forward, Role::Layer));
            }
            None => {
                let names = ["mlp.gate_proj", "mlp.up_proj"];
                let inner = names.iter().skip(usize::from(!self.gated));
                all.extend(inner.map(|name| matrix(name, self.feed_forward, width, Role::Layer)));
                all.push(matrix("mlp.down_proj", width, self.feed_forward, Role::Layer));
            }
            Some(experts) => {
                all.push(matrix("block_sparse_moe.gate", experts.count, width, Role::Layer));
                for expert in 0..experts.count {
                    let name = |part: &str| format!("block_sparse_moe.experts.{expert}.{part}");
                    all.push(matrix(&name("w1"), self.feed_forward, width, Role::Expert));
                    all.push(matrix(&name("w3"), self.feed_forward, width, Role::Expert));
                    all.push(matrix(&name("w2"), width, self.feed_forward, Role::Expert));
                }
            }
        }
        all
    }
}
