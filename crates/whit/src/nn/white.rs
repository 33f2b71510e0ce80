//! The white-box block (CRATE; Yu et al., 2023, arXiv 2306.01129): every layer is one step that lowers the coding rate
//! of the tokens against a few subspaces, and one that makes them sparse in a dictionary. So queries, keys and values
//! are the same projection, and instead of a feed-forward part stands one step of ISTA.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use whit_kernels::linear::{PackedLinear, WeightType};
use whit_kernels::{activation, matmul};

use super::attention::{Attend, Port, Site};
use super::block::{Block, BlockConfig};
use super::linear::Linear;
use super::norm::Norm;
use super::vars::{Init, Random, Source, Vars, VarsError};

/// What distinguishes a white-box block from a plain one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WhiteConfig {
    /// The length of an ISTA step, the paper's eta.
    pub step: f32,
    /// The price of a value that is not zero, the paper's lambda.
    pub sparsity: f32,
    /// Whether what attention found goes back through the transposed subspaces, as in the paper's formula, and not
    /// through a matrix of its own, as in the released models.
    pub tied_output: bool,
}

impl Default for WhiteConfig {
    fn default() -> Self {
        Self { step: 0.1, sparsity: 0.1, tied_output: false }
    }
}

/// Variables of a white-box model before training: the deviations that the original's distributions have.
#[derive(Clone, Copy, Debug)]
pub struct Initial {
    /// Where they are drawn.
    pub random: Random,
}

impl Initial {
    /// The deviation of variable `name` with rows of `inputs` values: in a decoder GPT-2's, `usual`, in an encoder of
    /// images PyTorch's.
    fn deviation(name: &str, inputs: usize, usual: f32) -> f32 {
        if name.ends_with("dictionary.weight") {
            (2.0 / inputs as f32).sqrt()
        } else if name.starts_with("model.") {
            usual
        } else if name.starts_with("embeddings.") && !name.contains("patches") {
            1.0
        } else {
            (3.0 * inputs as f32).sqrt().recip()
        }
    }
}

impl Source for Initial {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        self.random.check(name, shape)
    }

    fn has(&self, name: &str) -> bool {
        self.random.has(name)
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let init = match init {
            Init::Normal(usual) => Init::Normal(Self::deviation(name, width, usual)),
            constant => constant,
        };
        self.random.rows(name, rows, width, init)
    }

    fn native(&self, name: &str) -> WeightType {
        self.random.native(name)
    }
}

/// A block of either kind.
#[derive(Module, Debug)]
// A model has blocks of one kind; boxing them would save nothing.
#[allow(clippy::large_enum_variant)]
pub enum Layer {
    /// Attention and a feed-forward part.
    Plain(Block),
    /// Subspace attention and a step of ISTA.
    White(WhiteBlock),
}

impl Layer {
    /// Block `layer` from its variables.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(config: &BlockConfig, layer: usize, vars: &Vars<'_>) -> Result<Self, VarsError> {
        match config.white {
            None => Block::new(config, layer, vars).map(Self::Plain),
            Some(white) => WhiteBlock::new(config, white, layer, vars).map(Self::White),
        }
    }

    /// `[tokens, width]` to `[tokens, width]`, where a token reducer may leave fewer tokens.
    pub fn forward(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        match self {
            Self::Plain(block) => block.forward(x, attend),
            Self::White(block) => block.forward(x, attend),
        }
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Plain(block) => block.bytes(),
            Self::White(block) => block.bytes(),
        }
    }
}

/// The names that an encoder's blocks have for the matrices of attention.
const NAMES: [&str; 2] = ["attention.self.query", "attention.output.dense"];

/// `x + MSSA(norm(x))`, then one ISTA step on the norm of that; the step's result is the output, nothing is added to
/// it, so it is never negative.
#[derive(Module, Debug)]
pub struct WhiteBlock {
    attention_norm: Norm,
    attention: SubspaceAttention,
    output_norm: Norm,
    ista: Ista,
    #[module(skip)]
    layer: usize,
}

impl WhiteBlock {
    /// Block `layer` from its variables, whose names are those of [`Block`] as far as both have them.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(
        config: &BlockConfig,
        white: WhiteConfig,
        layer: usize,
        vars: &Vars<'_>,
    ) -> Result<Self, VarsError> {
        let (width, norm) = (config.width, config.norm);
        Ok(Self {
            attention_norm: vars.norm("attention.output.LayerNorm", width, norm)?,
            attention: SubspaceAttention::new(config.site(layer), white.tied_output, vars, NAMES)?,
            output_norm: vars.norm("output.LayerNorm", width, norm)?,
            ista: Ista::new(white, width, &vars.at("output"))?,
            layer,
        })
    }

    /// `[tokens, width]` to `[tokens, width]`, where a token reducer may leave fewer tokens.
    pub fn forward(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        let x = attend.before_block(self.layer, x);
        let seen = self.attention.forward(self.attention_norm.forward(x.clone()), attend);
        let x = attend.after_attention(self.layer, x + seen);
        let z = self.output_norm.forward(x);
        self.ista.forward_seen(z, &mut |port, rows| attend.entering(self.layer, port, rows))
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        self.attention.bytes() + self.ista.bytes()
    }
}

/// Multi-head subspace self-attention: `w = y U^T` is query, key and value.
#[derive(Module, Debug)]
pub struct SubspaceAttention {
    subspaces: TwoSided,
    output: Option<Linear>,
    #[module(skip)]
    site: Site,
    #[module(skip)]
    tied: bool,
}

impl SubspaceAttention {
    /// Attention of a layer from its variables, given the names of its two matrices.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(
        site: Site,
        tied: bool,
        vars: &Vars<'_>,
        [subspaces, output]: [&str; 2],
    ) -> Result<Self, VarsError> {
        let width = site.heads * site.head_dim;
        // With a single head that is as wide as the model, the original leaves the output matrix out.
        let own = !tied && site.heads > 1;
        let output = || vars.linear(output, width, width, true);
        Ok(Self {
            subspaces: TwoSided::new(subspaces, width, tied, vars)?,
            output: own.then(output).transpose()?,
            site,
            tied,
        })
    }

    /// The tokens in every subspace: `[tokens, heads, head_dim]`.
    fn project(&self, y: Tensor<2>) -> Tensor<3> {
        let shape = [y.dims()[0], self.site.heads, self.site.head_dim];
        self.subspaces.forward(y).reshape(shape)
    }

    /// Hands over keys and values without asking for the attention.
    pub fn fill(&self, y: Tensor<2>, attend: &mut dyn Attend) {
        let w = self.project(y);
        attend.fill(&self.site, w.clone(), w);
    }

    /// `[tokens, width]` to `[tokens, width]`.
    pub fn forward(&self, y: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        let layer = self.site.layer;
        attend.entering(layer, Port::Attention, &y);
        let w = self.project(y);
        let seen = attend.attend(&self.site, w.clone(), w.clone(), w);
        attend.entering(layer, Port::Output, &seen);
        match &self.output {
            Some(output) => output.forward(seen),
            None if self.tied => self.subspaces.back(seen),
            None => seen,
        }
    }

    /// The bytes that the weights hold.
    pub fn bytes(&self) -> usize {
        self.subspaces.bytes() + self.output.as_ref().map_or(0, Linear::bytes)
    }
}

/// One step of ISTA towards a sparse code without negative values: `relu(z + eta (z - z D^T) D - eta lambda)`, which
/// is the paper's `z + eta (z D - z D^T D)` with one product less.
#[derive(Module, Debug)]
pub struct Ista {
    dictionary: TwoSided,
    #[module(skip)]
    config: WhiteConfig,
}

impl Ista {
    /// The step of a layer from its variables.
    ///
    /// # Errors
    /// If the dictionary is missing or has another shape than the configuration says.
    pub fn new(config: WhiteConfig, width: usize, vars: &Vars<'_>) -> Result<Self, VarsError> {
        Ok(Self { dictionary: TwoSided::new("dictionary", width, true, vars)?, config })
    }

    /// `[tokens, width]` to `[tokens, width]`.
    pub fn forward(&self, z: Tensor<2>) -> Tensor<2> {
        self.forward_seen(z, &mut |_, _| {})
    }

    /// The bytes that the dictionary holds.
    pub fn bytes(&self) -> usize {
        self.dictionary.bytes()
    }

    /// As [`forward`](Self::forward); `see` is shown the rows that enter the matrices.
    pub fn forward_seen(&self, z: Tensor<2>, see: &mut dyn FnMut(Port, &Tensor<2>)) -> Tensor<2> {
        see(Port::FeedForward, &z);
        let missed = z.clone() - self.dictionary.forward(z.clone());
        see(Port::Down, &missed);
        let WhiteConfig { step, sparsity, .. } = self.config;
        activation::relu(z + self.dictionary.back(missed) * step - step * sparsity)
    }
}

/// A square matrix that is applied from both sides. As a parameter it serves both; packed, each side has a copy in
/// its own order.
#[derive(Module, Debug)]
struct TwoSided {
    matrix: Linear,
    transposed: Option<Linear>,
}

impl TwoSided {
    /// The matrix `name.weight`, with its other side where `both` is set.
    fn new(name: &str, width: usize, both: bool, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let matrix = vars.linear(name, width, width, false)?;
        let packed = if both { vars.own(name, width, width)? } else { None };
        let transposed = packed.map(|(values, kind)| {
            let turned = (0..width * width).map(|at| values[at % width * width + at / width]);
            let packed = PackedLinear::pack(&turned.collect::<Vec<_>>(), width, width, kind);
            let name = vars.at(name).path("weight");
            packed
                .map(|packed| Linear::packed(packed, None))
                .map_err(|reason| VarsError::Pack { name, reason })
        });
        Ok(Self { matrix, transposed: transposed.transpose()? })
    }

    /// `x W^T`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.matrix.forward(x)
    }

    /// `x W`.
    fn back(&self, x: Tensor<2>) -> Tensor<2> {
        match (&self.transposed, self.matrix.dense_weight()) {
            (Some(transposed), _) => transposed.forward(x),
            (None, Some(weight)) => matmul::linear(x, weight.transpose(), None),
            (None, None) => unreachable!("a matrix of two sides is built with both"),
        }
    }

    fn bytes(&self) -> usize {
        self.matrix.bytes() + self.transposed.as_ref().map_or(0, Linear::bytes)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::{Device, Distribution};
    use whit_kernels::op;

    use super::*;
    use crate::nn::attention::Batched;
    use crate::nn::decoder::NormConfig;
    use crate::nn::vars::{Precision, Storage};

    const WIDTH: usize = 32;

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        op::host(tensor).into_vec()
    }

    fn close(ours: &[f32], theirs: &[f32], tolerance: f32) {
        assert_eq!(ours.len(), theirs.len());
        let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{worst}");
    }

    fn random(rows: usize) -> Tensor<2> {
        Tensor::random([rows, WIDTH], Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    fn ista(config: WhiteConfig, dictionary: Tensor<2>) -> Ista {
        let dictionary = TwoSided { matrix: Linear::dense(dictionary, None), transposed: None };
        Ista { dictionary, config }
    }

    /// An orthogonal matrix: the reflection at a random vector.
    fn orthogonal() -> Tensor<2> {
        let v = random(1);
        let norm = v.clone().square().sum().into_scalar::<f32>();
        Tensor::eye(WIDTH, &Device::flex()) - v.clone().transpose().matmul(v) * (2.0 / norm)
    }

    #[test]
    fn two_products_give_what_three_do() {
        let (z, d) = (random(17), random(WIDTH) * 0.25);
        let config = WhiteConfig { step: 0.3, sparsity: 0.2, tied_output: false };
        let code = z.clone().matmul(d.clone()) - z.clone().matmul(d.clone().transpose()).matmul(d.clone());
        let expected = activation::relu(z.clone() + code * 0.3 - 0.3 * 0.2);
        close(&values(ista(config, d).forward(z)), &values(expected), 1e-5);
    }

    #[test]
    fn with_an_orthogonal_dictionary_a_whole_step_is_the_sparse_code() {
        let (z, d) = (random(9).abs(), orthogonal());
        let config = WhiteConfig { step: 1.0, sparsity: 0.1, tied_output: false };
        let expected = values(activation::relu(z.clone().matmul(d.clone()) - 0.1));
        close(&values(ista(config, d).forward(z)), &expected, 2e-6);
    }

    #[test]
    fn a_code_is_never_negative_and_vanishes_at_a_high_price() {
        let step = |sparsity| {
            values(ista(WhiteConfig { sparsity, ..WhiteConfig::default() }, random(WIDTH)).forward(random(9)))
        };
        assert!(step(0.1).iter().all(|value| *value >= 0.0) && step(0.1).iter().any(|value| *value > 0.0));
        assert!(step(1e3).iter().all(|value| *value == 0.0));
    }

    fn block(tied_output: bool, heads: usize, storage: &Storage) -> (BlockConfig, WhiteBlock) {
        let norm = NormConfig { centred: true, epsilon: 1e-5 };
        let white = WhiteConfig { tied_output, ..WhiteConfig::default() };
        let config = BlockConfig { white: Some(white), ..BlockConfig::plain(WIDTH, WIDTH, heads, norm) };
        let vars = Vars::new(&Random { seed: 3 }, storage).at("encoder.layer.0");
        let block = WhiteBlock::new(&config, white, 0, &vars).unwrap_or_else(|error| panic!("{error}"));
        (config, block)
    }

    /// Packed and as parameters, with an output matrix of its own, the transposed one, or none.
    #[test]
    fn both_forms_of_the_weights_agree() {
        for (tied, heads) in [(false, 4), (true, 4), (true, 1), (false, 1)] {
            let forms = [Storage::Dense(Device::flex()), Storage::Packed(Precision::Native)];
            let x = random(10);
            let [dense, packed] = forms.map(|storage| {
                values(block(tied, heads, &storage).1.forward(x.clone(), &mut Batched::whole(2, None)))
            });
            close(&dense, &packed, 1e-5);
        }
    }

    #[test]
    fn the_inventory_has_every_matrix_once() {
        for (tied, heads) in [(false, 4), (true, 4), (false, 1)] {
            let (config, block) = block(tied, heads, &Storage::Dense(Device::flex()));
            let matrices: usize =
                config.matrices(0).iter().map(|matrix| matrix.inputs * matrix.outputs).sum();
            let bias = if !tied && heads > 1 { WIDTH } else { 0 };
            assert_eq!(block.num_params(), matrices + bias + 4 * WIDTH);
        }
    }

    /// A gradient reaches the dictionary from both of its sides.
    #[test]
    fn the_gradient_of_the_dictionary_is_that_of_the_formula() {
        let device = Device::flex().autodiff();
        let (z, d) = (random(5), random(WIDTH) * 0.2);
        let config = WhiteConfig { step: 0.3, sparsity: 0.2, tied_output: false };
        let module = ista(config, Tensor::from_data(d.clone().into_data(), &device));
        let z_there = Tensor::from_data(z.clone().into_data(), &device);
        let ours = module.forward(z_there.clone()).square().sum();
        let weight = module.dictionary.matrix.dense_weight().unwrap_or_else(|| panic!("dense"));
        let ours = weight.grad(&ours.backward()).unwrap_or_else(|| panic!("no gradient"));
        let d = Tensor::<2>::from_data(d.into_data(), &device).require_grad();
        let code = z_there.clone().matmul(d.clone())
            - z_there.clone().matmul(d.clone().transpose()).matmul(d.clone());
        let loss = activation::relu(z_there + code * 0.3 - 0.3 * 0.2).square().sum();
        let theirs = d.grad(&loss.backward()).unwrap_or_else(|| panic!("no gradient"));
        close(&values(ours), &values(theirs), 1e-4);
    }
}
