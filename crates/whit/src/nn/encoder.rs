//! The encoder that text models share: blocks between an embedding of tokens, and of what else a model
//! embeds, and the heads that some checkpoints have.

use burn::module::Module;
use burn::tensor::Tensor;

use super::attention::Attend;
use super::block::BlockConfig;
use super::embedding::Embedding;
use super::inventory::{Matrix, Role};
use super::linear::Linear;
use super::norm::Norm;
use super::vars::{Vars, VarsError};
use super::white::Layer;

/// Everything that distinguishes one encoder from another.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the embedding of tokens.
    pub vocab_size: usize,
    /// Rows of the embedding of positions; 0 where a model has none.
    pub max_positions: usize,
    /// Positions as values for each distance.
    pub relative: Option<Relative>,
    /// Rows of the embedding of token types; 0 where a model has none.
    pub types: usize,
    /// Whether a norm follows the embeddings.
    pub embedding_norm: bool,
    /// Whether a norm follows the blocks.
    pub final_norm: bool,
    /// Whether a token sees only those before it.
    pub causal: bool,
    /// What its blocks are.
    pub block: BlockConfig,
    /// How many blocks there are.
    pub layers: usize,
    /// Where positions are counted from.
    pub counting: Counting,
    /// Whether the first token's state goes through a layer of its own, to stand for the whole text.
    pub pooler: bool,
    /// The token whose state stands for the whole text, where it is not the first.
    pub end: Option<End>,
    /// Values of the space that texts and images share, if there is one (CLIP).
    pub projection: Option<usize>,
    /// The classes that every token is sorted into, if the model does that.
    pub labels: Option<usize>,
}

/// The token at whose place a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first with the largest id of the text, as the first CLIP models have it.
    Largest,
    /// The first with this id; the first of all where there is none.
    Token(u32),
}

/// How positions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// From 0 in every row.
    FromZero,
    /// From behind the id of the padding token, which has that position itself; padding is not counted.
    FromPadding(u32),
}

/// Positions as learned values for each distance between query and key, which are added to the scores
/// (T5). Distances share buckets, the more the larger they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relative {
    /// The number of buckets, half of them for keys behind the query.
    pub buckets: usize,
    /// Distances from here on share the last bucket.
    pub max_distance: usize,
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
    position_embeddings: Option<Embedding>,
    token_type_embeddings: Option<Embedding>,
    relative_embeddings: Option<Embedding>,
    embedding_norm: Option<Norm>,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    pooler: Option<Linear>,
    classifier: Option<Linear>,
    projection: Option<Linear>,
    #[module(skip)]
    config: EncoderConfig,
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

    /// The most tokens of one row; `usize::MAX` where positions are relative.
    pub fn context(&self) -> usize {
        match self.counting {
            Counting::FromZero if self.max_positions == 0 => usize::MAX,
            Counting::FromZero => self.max_positions,
            Counting::FromPadding(padding) => self.max_positions.saturating_sub(padding as usize + 1),
        }
    }

    /// All matrices, in the order of the forward pass.
    pub fn matrices(&self) -> Vec<Matrix> {
        let width = self.block.width;
        let matrix = |name: String, outputs, inputs, role| Matrix { name, outputs, inputs, role };
        let table = |name: &str, rows| matrix(format!("embeddings.{name}.weight"), rows, width, Role::Table);
        let mut all = vec![table("word_embeddings", self.vocab_size)];
        let more = [("position_embeddings", self.max_positions), ("token_type_embeddings", self.types)];
        all.extend(more.into_iter().filter(|(_, rows)| *rows > 0).map(|(name, rows)| table(name, rows)));
        all.extend((0..self.layers).flat_map(|layer| self.block.matrices(layer)));
        if self.pooler {
            all.push(matrix("pooler.dense.weight".into(), width, width, Role::Head));
        }
        all.extend(
            self.projection.map(|values| matrix("projection.weight".into(), values, width, Role::Head)),
        );
        all.extend(self.labels.map(|labels| matrix("classifier.weight".into(), labels, width, Role::Head)));
        all
    }
}

impl End {
    /// Where the text of these ids ends.
    pub fn place(self, ids: &[u32]) -> usize {
        let wanted = match self {
            Self::Largest => ids.iter().copied().max().unwrap_or_default(),
            Self::Token(id) => id,
        };
        ids.iter().position(|&id| id == wanted).unwrap_or(0)
    }
}

impl Relative {
    /// The bucket of a key that lies `distance` behind its query: the near half of the buckets one for
    /// each distance, the others ever wider.
    fn bucket(self, distance: i64) -> usize {
        let half = self.buckets / 2;
        let (side, distance) = (if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize);
        let exact = half / 2;
        if distance < exact {
            return side + distance;
        }
        // In f32, as the original computes it: the borders of buckets depend on it.
        let ratio =
            (distance as f32 / exact as f32).ln() / (self.max_distance as f64 / exact as f64).ln() as f32;
        let bucket = exact + (ratio * (half - exact) as f32) as usize;
        side + bucket.min(half - 1)
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
        let layers = (0..config.layers).map(|layer| Layer::new(&config.block, layer, &stack.at(layer)));
        let pooler = || vars.linear("pooler.dense", width, width, true);
        let classifier = |labels| vars.linear("classifier", labels, width, true);
        let projection = |values| vars.linear("projection", values, width, false);
        let table = |name, rows| (rows > 0).then(|| embeddings.embedding(name, rows, width)).transpose();
        let norm = |vars: &Vars<'_>, name, wanted: bool| {
            wanted.then(|| vars.norm(name, width, config.block.norm)).transpose()
        };
        let relative = |relative: Relative| {
            embeddings.embedding("relative_embeddings", relative.buckets, config.block.heads)
        };
        Ok(Self {
            word_embeddings: embeddings.embedding("word_embeddings", config.vocab_size, width)?,
            position_embeddings: table("position_embeddings", config.max_positions)?,
            token_type_embeddings: table("token_type_embeddings", config.types)?,
            relative_embeddings: config.relative.map(relative).transpose()?,
            embedding_norm: norm(&embeddings, "LayerNorm", config.embedding_norm)?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: norm(vars, "final_norm", config.final_norm)?,
            pooler: config.pooler.then(pooler).transpose()?,
            classifier: config.labels.map(classifier).transpose()?,
            projection: config.projection.map(projection).transpose()?,
            config,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Runs the blocks; returns the hidden states `[tokens, width]`.
    pub fn forward(&self, tokens: EncoderTokens<'_>, attend: &mut dyn Attend) -> Tensor<2> {
        let mut x = self.word_embeddings.forward(tokens.ids);
        let more =
            [(&self.position_embeddings, tokens.positions), (&self.token_type_embeddings, tokens.types)];
        for (table, rows) in more {
            if let Some(table) = table {
                x = x + table.forward(rows);
            }
        }
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(x);
        }
        for (layer, block) in self.layers.iter().enumerate() {
            attend.observe(layer, &mut || x.clone());
            x = block.forward(x, attend);
        }
        attend.observe(self.layers.len(), &mut || x.clone());
        match &self.final_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// What is added to the scores of `length` tokens in every layer, `[heads, queries, keys]`, where
    /// positions are relative. A shorter text takes the upper left corner.
    pub fn relative_bias(&self, length: usize) -> Option<Tensor<3>> {
        let (table, relative) = (self.relative_embeddings.as_ref()?, self.config.relative?);
        let bucket = |query: usize, key: usize| relative.bucket(key as i64 - query as i64) as u32;
        let buckets: Vec<u32> = (0..length * length).map(|at| bucket(at / length, at % length)).collect();
        let heads = self.config.block.heads;
        Some(table.forward(&buckets).swap_dims(0, 1).reshape([heads, length, length]))
    }

    /// Where the token lies whose state stands for the whole text of these ids.
    pub fn pooled_place(&self, ids: &[u32]) -> usize {
        self.config.end.map_or(0, |end| end.place(ids))
    }

    /// What stands for a whole text, of the states at [`pooled_place`](Self::pooled_place) `[texts, width]`,
    /// if the original has that.
    pub fn pooled(&self, states: Tensor<2>) -> Option<Tensor<2>> {
        match &self.pooler {
            Some(pooler) => Some(pooler.forward(states).tanh()),
            None => self.config.end.map(|_| states),
        }
    }

    /// Pooled states in the space that texts and images share, if there is one.
    pub fn projected(&self, states: Tensor<2>) -> Option<Tensor<2>> {
        self.projection.as_ref().map(|projection| projection.forward(states))
    }

    /// Scores of the classes for every token `[tokens, labels]`, if the model sorts tokens.
    pub fn classified(&self, hidden: Tensor<2>) -> Option<Tensor<2>> {
        self.classifier.as_ref().map(|classifier| classifier.forward(hidden))
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        let more = [&self.position_embeddings, &self.token_type_embeddings, &self.relative_embeddings];
        let heads = [&self.pooler, &self.classifier, &self.projection];
        let heads = heads.into_iter().flatten().map(Linear::bytes);
        self.word_embeddings.bytes()
            + more.into_iter().flatten().map(Embedding::bytes).sum::<usize>()
            + self.layers.iter().map(Layer::bytes).sum::<usize>()
            + heads.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::{Batched, Separate};
    use crate::nn::decoder::NormConfig;
    use crate::nn::vars::{Precision, Random, Storage};
    use whit_kernels::op;

    fn config(counting: Counting) -> EncoderConfig {
        let norm = NormConfig { centred: true, epsilon: 1e-12 };
        let block = BlockConfig::plain(32, 48, 4, norm);
        EncoderConfig {
            vocab_size: 50,
            max_positions: 20,
            relative: None,
            types: 2,
            embedding_norm: true,
            final_norm: false,
            causal: false,
            block,
            layers: 2,
            counting,
            pooler: true,
            end: None,
            projection: None,
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

    #[test]
    fn a_text_ends_at_its_largest_id_or_at_a_token() {
        assert_eq!(End::Largest.place(&[3, 9, 4, 9]), 1);
        assert_eq!([End::Token(4), End::Token(5)].map(|end| end.place(&[3, 9, 4, 4])), [2, 0]);
    }

    /// 32 buckets up to 128: 8 exact ones on each side, then ever wider ones.
    #[test]
    fn far_distances_share_buckets() {
        let relative = Relative { buckets: 32, max_distance: 128 };
        let buckets = [0, 7, 8, 127, 500, -1, -7, -300].map(|distance| relative.bucket(distance));
        assert_eq!(buckets, [0, 23, 24, 31, 31, 1, 7, 15]);
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
        let together = run(&rows, &mut Separate::new(rows.map(<[u32]>::len).to_vec()));
        let alone = rows.map(|row| run(&[row], &mut Batched::whole(1, None))).concat();
        assert_eq!(together, alone);
    }
}
