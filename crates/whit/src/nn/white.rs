//! The white-box block (CRATE; Yu et al., 2023, arXiv 2306.01129): every layer is one step that lowers the coding rate
//! of the tokens against a few subspaces, and one that makes them sparse in a dictionary. So queries, keys and values
//! are the same projection, and instead of a feed-forward part stands one step of ISTA.

use burn::module::Module;
use burn::tensor::Tensor;

use super::attention::{Attend, Port, Site};
use super::block::{Block, BlockConfig};
use super::linear::Linear;
use super::norm::Norm;
use super::vars::{Vars, VarsError};

mod initial;
mod ista;

pub use initial::Initial;
pub use ista::Ista;
use ista::TwoSided;

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

#[cfg(test)]
mod tests;
