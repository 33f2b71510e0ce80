//! The bidirectional encoder that the text models of BERT's kind share: blocks whose norms stand behind
//! them, between an embedding of tokens, positions and types and the heads that some checkpoints have.

use burn::module::Module;
use burn::tensor::Tensor;

use super::activation::Activation;
use super::attention::{Attend, Site};
use super::decoder::NormConfig;
use super::embedding::Embedding;
use super::inventory::{Matrix, Role};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use super::vars::{Vars, VarsError};

/// Everything that distinguishes one encoder from another.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the embedding of tokens.
    pub vocab_size: usize,
    /// Rows of the embedding of positions.
    pub max_positions: usize,
    /// Rows of the embedding of token types.
    pub types: usize,
    /// What its blocks are.
    pub block: BlockConfig,
    /// How many blocks there are.
    pub layers: usize,
    /// Where positions are counted from.
    pub counting: Counting,
    /// Whether the first token's state goes through a layer of its own, to stand for the whole text.
    pub pooler: bool,
    /// The classes that every token is sorted into, if the model does that.
    pub labels: Option<usize>,
}

/// How positions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// From 0 in every row.
    FromZero,
    /// From behind the id of the padding token, which has that position itself; padding is not counted.
    FromPadding(u32),
}

/// One encoder block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockConfig {
    /// Values of the residual stream.
    pub width: usize,
    /// Inner values of the feed-forward part.
    pub feed_forward: usize,
    /// Heads, which divide the width.
    pub heads: usize,
    /// Its norms.
    pub norm: NormConfig,
    /// The feed-forward activation.
    pub activation: Activation,
}

/// The tokens of one forward pass: any number of texts, their tokens one after the other.
#[derive(Clone, Copy, Debug)]
pub struct EncoderTokens<'a> {
    /// Token ids, each below the vocabulary's size.
    pub ids: &'a [u32],
    /// The position of each token, by [`EncoderConfig::positions`].
    pub positions: &'a [u32],
    /// The type of each token (the first or the second text, say).
    pub types: &'a [u32],
}

/// A bidirectional transformer over text.
#[derive(Module, Debug)]
pub struct Encoder {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    embedding_norm: Norm,
    layers: Vec<Block>,
    pooler: Option<Linear>,
    classifier: Option<Linear>,
    #[module(skip)]
    config: EncoderConfig,
}

/// Attention in both directions, then the feed-forward part; each is added to its input and the sum
/// normalised.
#[derive(Module, Debug)]
pub struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    mlp: Mlp,
    output_norm: Norm,
    #[module(skip)]
    site: Site,
}

impl EncoderConfig {
    /// The positions of the tokens of one row.
    pub fn positions(&self, ids: &[u32]) -> Vec<u32> {
        match self.counting {
            Counting::FromZero => (0..ids.len() as u32).collect(),
            Counting::FromPadding(padding) => {
                let mut counted = padding;
                let mut position = |&id: &u32| {
                    counted += u32::from(id != padding);
                    if id == padding { padding } else { counted }
                };
                ids.iter().map(&mut position).collect()
            }
        }
    }

    /// The most tokens of one row.
    pub fn context(&self) -> usize {
        match self.counting {
            Counting::FromZero => self.max_positions,
            Counting::FromPadding(padding) => self.max_positions.saturating_sub(padding as usize + 1),
        }
    }

    /// All matrices, in the order of the forward pass.
    pub fn matrices(&self) -> Vec<Matrix> {
        let (width, inner) = (self.block.width, self.block.feed_forward);
        let matrix = |name: String, outputs, inputs, role| Matrix { name, outputs, inputs, role };
        let table = |name: &str, rows| matrix(format!("embeddings.{name}.weight"), rows, width, Role::Table);
        let mut all = vec![
            table("word_embeddings", self.vocab_size),
            table("position_embeddings", self.max_positions),
            table("token_type_embeddings", self.types),
        ];
        for layer in 0..self.layers {
            let of = |part: &str, outputs, inputs| {
                matrix(format!("encoder.layer.{layer}.{part}.weight"), outputs, inputs, Role::Layer)
            };
            let attention = ["attention.self.query", "attention.self.key", "attention.self.value"];
            all.extend(
                attention.iter().chain(&["attention.output.dense"]).map(|name| of(name, width, width)),
            );
            all.extend([of("intermediate.dense", inner, width), of("output.dense", width, inner)]);
        }
        if self.pooler {
            all.push(matrix("pooler.dense.weight".into(), width, width, Role::Head));
        }
        all.extend(self.labels.map(|labels| matrix("classifier.weight".into(), labels, width, Role::Head)));
        all
    }
}

impl Encoder {
    /// Builds the model from its variables, which bear the names that BERT's checkpoints give them.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(config: EncoderConfig, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let (width, embeddings, stack) =
            (config.block.width, vars.at("embeddings"), vars.at("encoder.layer"));
        let layers = (0..config.layers).map(|layer| Block::new(&config.block, layer, &stack.at(layer)));
        let pooler = || vars.linear("pooler.dense", width, width, true);
        let classifier = |labels| vars.linear("classifier", labels, width, true);
        Ok(Self {
            word_embeddings: embeddings.embedding("word_embeddings", config.vocab_size, width)?,
            position_embeddings: embeddings.embedding("position_embeddings", config.max_positions, width)?,
            token_type_embeddings: embeddings.embedding("token_type_embeddings", config.types, width)?,
            embedding_norm: embeddings.norm("LayerNorm", width, config.block.norm)?,
            layers: layers.collect::<Result<_, _>>()?,
            pooler: config.pooler.then(pooler).transpose()?,
            classifier: config.labels.map(classifier).transpose()?,
            config,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Runs the blocks; returns the hidden states `[tokens, width]`.
    pub fn forward(&self, tokens: EncoderTokens<'_>, attend: &mut dyn Attend) -> Tensor<2> {
        let embedded = self.word_embeddings.forward(tokens.ids)
            + self.position_embeddings.forward(tokens.positions)
            + self.token_type_embeddings.forward(tokens.types);
        let mut x = self.embedding_norm.forward(embedded);
        for (layer, block) in self.layers.iter().enumerate() {
            attend.observe(layer, &mut || x.clone());
            x = block.forward(x, attend);
        }
        attend.observe(self.layers.len(), &mut || x.clone());
        x
    }

    /// What stands for a whole text, of the states of first tokens `[texts, width]`, if the model has that.
    pub fn pooled(&self, first: Tensor<2>) -> Option<Tensor<2>> {
        self.pooler.as_ref().map(|pooler| pooler.forward(first).tanh())
    }

    /// Scores of the classes for every token `[tokens, labels]`, if the model sorts tokens.
    pub fn classified(&self, hidden: Tensor<2>) -> Option<Tensor<2>> {
        self.classifier.as_ref().map(|classifier| classifier.forward(hidden))
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        let tables = [&self.word_embeddings, &self.position_embeddings, &self.token_type_embeddings];
        let heads = self.pooler.iter().chain(&self.classifier).map(Linear::bytes);
        tables.into_iter().map(Embedding::bytes).sum::<usize>()
            + self.layers.iter().map(Block::bytes).sum::<usize>()
            + heads.sum::<usize>()
    }
}

impl Block {
    /// Block `layer` from its variables.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(config: &BlockConfig, layer: usize, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let (width, inner) = (config.width, config.feed_forward);
        let (own, output) = (vars.at("attention.self"), vars.at("attention.output"));
        let up = vars.linear("intermediate.dense", inner, width, true)?;
        let down = vars.linear("output.dense", width, inner, true)?;
        let head_dim = width / config.heads;
        Ok(Self {
            query: own.linear("query", width, width, true)?,
            key: own.linear("key", width, width, true)?,
            value: own.linear("value", width, width, true)?,
            attention_output: output.linear("dense", width, width, true)?,
            attention_norm: output.norm("LayerNorm", width, config.norm)?,
            mlp: Mlp::new(None, up, down, config.activation),
            output_norm: vars.norm("output.LayerNorm", width, config.norm)?,
            site: Site {
                layer,
                heads: config.heads,
                kv_heads: config.heads,
                head_dim,
                scale: (head_dim as f32).powf(-0.5),
                window: None,
            },
        })
    }

    /// `[tokens, width]` to `[tokens, width]`.
    pub fn forward(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        let shape = [x.dims()[0], self.site.heads, self.site.head_dim];
        let projected = Linear::forward_many([&self.query, &self.key, &self.value], x.clone());
        let [queries, keys, values] = projected.map(|part| part.reshape(shape));
        let seen = self.attention_output.forward(attend.attend(&self.site, queries, keys, values));
        let x = self.attention_norm.forward(x + seen);
        let worked = self.mlp.forward(x.clone());
        self.output_norm.forward(x + worked)
    }

    fn bytes(&self) -> usize {
        let projections = [&self.query, &self.key, &self.value, &self.attention_output];
        projections.into_iter().map(Linear::bytes).sum::<usize>() + self.mlp.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::{Batched, Separate};
    use crate::nn::vars::{Precision, Random, Storage};
    use whit_kernels::op;

    fn config(counting: Counting) -> EncoderConfig {
        let norm = NormConfig { centred: true, epsilon: 1e-12 };
        let block = BlockConfig { width: 32, feed_forward: 48, heads: 4, norm, activation: Activation::Gelu };
        EncoderConfig {
            vocab_size: 50,
            max_positions: 20,
            types: 2,
            block,
            layers: 2,
            counting,
            pooler: true,
            labels: Some(2),
        }
    }

    #[test]
    fn positions_are_counted_as_bert_and_as_roberta_do() {
        let ids = [5, 6, 1, 7, 1];
        assert_eq!(config(Counting::FromZero).positions(&ids), [0, 1, 2, 3, 4]);
        assert_eq!(config(Counting::FromPadding(1)).positions(&ids), [2, 3, 1, 4, 1]);
        assert_eq!(config(Counting::FromPadding(1)).context(), 18);
    }

    /// Every matrix that the inventory lists is asked for under its name, in its shape.
    #[test]
    fn the_inventory_is_what_the_model_asks_for() {
        let config = config(Counting::FromZero);
        let total: usize = config.matrices().iter().map(|matrix| matrix.inputs * matrix.outputs * 4).sum();
        // Packed matrices are filled up to whole panels.
        let storage = Storage::Dense(burn::tensor::Device::flex());
        let model = Encoder::new(config, &Vars::new(&Random { seed: 1 }, &storage)).unwrap();
        let biases = 2 * (4 * 32 + 48 + 32) + 32 + 2;
        assert_eq!(model.bytes(), total + 4 * biases);
    }

    /// Texts of different lengths together get what each gets alone, and what it gets with padding.
    #[test]
    fn a_text_is_encoded_the_same_alone_in_company_and_padded() {
        let storage = Storage::Packed(Precision::Native);
        let model =
            Encoder::new(config(Counting::FromZero), &Vars::new(&Random { seed: 1 }, &storage)).unwrap();
        let rows: [&[u32]; 3] = [&[3, 4, 5, 6, 7], &[9], &[8, 7, 6]];
        let run = |rows: &[&[u32]], attend: &mut dyn Attend| {
            let ids = rows.concat();
            let positions: Vec<u32> = rows.iter().flat_map(|row| 0..row.len() as u32).collect();
            let tokens = EncoderTokens { ids: &ids, positions: &positions, types: &vec![0; ids.len()] };
            op::host(model.forward(tokens, attend)).into_vec()
        };
        let together = run(&rows, &mut Separate { lengths: rows.map(<[u32]>::len).to_vec() });
        let alone = rows.map(|row| run(&[row], &mut Batched::whole(1, None))).concat();
        assert_eq!(together, alone);
    }
}
