//! The white-box transformer as a masked autoencoder (CRATE-MAE; Pai et al., 2024, arXiv 2404.02446). The encoder's
//! layers compress tokens and make them sparse; each layer of the decoder undoes one of them: a linear map out of the
//! sparse code, then a step of the same attention in the other direction, which expands.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};

use super::attention::{Attend, Site};
use super::block::BlockConfig;
use super::decoder::NormConfig;
use super::inventory::{Matrix, Role};
use super::linear::Linear;
use super::norm::Norm;
use super::vars::{Vars, VarsError};
use super::vision::{Vision, VisionConfig, join};
use super::white::SubspaceAttention;

/// What a masked autoencoder is.
#[derive(Clone, Debug, PartialEq)]
pub struct WhiteMaeConfig {
    /// The encoder.
    pub encoder: VisionConfig,
    /// Blocks of the decoder, which is as wide as the encoder.
    pub decoder_layers: usize,
    /// The share of patches that are hidden while it learns.
    pub mask_ratio: f64,
    /// Whether each patch is to be predicted without its own mean and spread.
    pub normalised: bool,
}

/// An encoder that sees every place, some with a mask in the place of the patch, and a decoder that says what is there.
#[derive(Module, Debug)]
pub struct WhiteMae {
    encoder: Vision,
    mask_token: Param<Tensor<2>>,
    decoder: Vec<InverseBlock>,
    decoder_norm: Norm,
    prediction: Linear,
    #[module(skip)]
    config: WhiteMaeConfig,
}

/// `y = norm(x) D^T`, then `y - MSSA(norm(y))`.
#[derive(Module, Debug)]
struct InverseBlock {
    dictionary_norm: Norm,
    dictionary: Linear,
    attention_norm: Norm,
    attention: SubspaceAttention,
}

impl WhiteMaeConfig {
    /// All matrices, in the order of the forward pass.
    pub fn matrices(&self) -> Vec<Matrix> {
        let (width, values) = (self.encoder.block.width, self.encoder.patch_values());
        let matrix = |name: String, outputs| Matrix { name, outputs, inputs: width, role: Role::Layer };
        let mut all = self.encoder.matrices();
        for layer in 0..self.decoder_layers {
            let names = [DICTIONARY, SUBSPACES, OUTPUT];
            all.extend(names.map(|part| matrix(format!("{}.{part}.weight", decoder_block(layer)), width)));
        }
        all.push(matrix("decoder_pred.weight".into(), values));
        all
    }

    /// How many of `patches` are seen.
    pub fn kept(&self, patches: usize) -> usize {
        (patches as f64 * (1.0 - self.mask_ratio)) as usize
    }
}

const DICTIONARY: &str = "0.fn";
const SUBSPACES: &str = "1.fn.qkv";
const OUTPUT: &str = "1.fn.to_out.0";

/// Where the checkpoints of the original have a block of the decoder.
fn decoder_block(layer: usize) -> String {
    format!("decoder_blocks.{layer}.layers.0")
}

impl WhiteMae {
    /// Builds the model from its variables; those of the decoder bear the names of the original.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(config: WhiteMaeConfig, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let (block, layers) = (&config.encoder.block, config.encoder.layers);
        let norm = NormConfig { epsilon: config.encoder.final_epsilon, ..block.norm };
        let inverse =
            |layer| InverseBlock::new(block, block.site(layers + layer), &vars.at(decoder_block(layer)));
        Ok(Self {
            encoder: Vision::new(config.encoder.clone(), vars)?,
            mask_token: Param::from_tensor(vars.rows("mask_token", 1, block.width)?),
            decoder: (0..config.decoder_layers).map(inverse).collect::<Result<_, _>>()?,
            decoder_norm: vars.norm("decoder_norm", block.width, norm)?,
            prediction: vars.linear("decoder_pred", config.encoder.patch_values(), block.width, true)?,
            config,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &WhiteMaeConfig {
        &self.config
    }

    /// The encoder alone, for use on whole images.
    pub fn encoder(&self) -> &Vision {
        &self.encoder
    }

    /// The encoder, without the decoder.
    pub fn into_encoder(self) -> Vision {
        self.encoder
    }

    /// The states behind the encoder, `[batch, tokens, width]`, of images of which `hidden` `[batch, patches]` is 1
    /// where a patch is not seen and 0 where it is.
    pub fn encode(&self, pixels: Tensor<4>, hidden: Tensor<2>, attend: &mut dyn Attend) -> Tensor<3> {
        let [batch, count] = hidden.dims();
        let hidden = hidden.reshape([batch, count, 1]);
        let mask = self.mask_token.val().unsqueeze::<3>();
        let (patches, specials) = self.encoder.embed_changed(pixels, |patches| {
            let seen = hidden.clone() * -1.0 + 1.0;
            patches * seen + mask * hidden
        });
        self.encoder.run(join(specials, patches), attend)
    }

    /// The patches that the decoder makes of the encoder's states: `[batch, patches, values]`, pixel by pixel.
    pub fn decode(&self, states: Tensor<3>, attend: &mut dyn Attend) -> Tensor<3> {
        let [batch, tokens, width] = states.dims();
        let rows = states.reshape([batch * tokens, width]);
        let rows = self.decoder.iter().fold(rows, |rows, block| block.forward(rows, attend));
        let patches = self.prediction.forward(self.decoder_norm.forward(rows));
        let values = patches.dims()[1];
        patches.reshape([batch, tokens, values]).slice([0..batch, 1..tokens, 0..values])
    }

    /// What the decoder is to say: `[batch, patches, values]`.
    pub fn target(&self, pixels: Tensor<4>) -> Tensor<3> {
        let patches = self.encoder.patches(pixels);
        if !self.config.normalised {
            return patches;
        }
        let values = patches.dims()[2] as f32;
        let centred = patches.clone() - patches.mean_dim(2);
        let variance = centred.clone().square().sum_dim(2) / (values - 1.0);
        centred / (variance + 1e-6).sqrt()
    }
}

/// The mean square of what a prediction is off in the hidden patches: `predicted` and `target` `[batch, patches,
/// values]`, `hidden` `[batch, patches]`.
pub fn loss(predicted: Tensor<3>, target: Tensor<3>, hidden: Tensor<2>) -> Tensor<1> {
    let [batch, patches, _] = target.dims();
    let errors = (predicted - target).square().mean_dim(2).reshape([batch, patches]);
    (errors * hidden.clone()).sum() / hidden.sum()
}

impl InverseBlock {
    fn new(block: &BlockConfig, site: Site, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let width = block.width;
        Ok(Self {
            dictionary_norm: vars.norm("0.norm", width, block.norm)?,
            dictionary: vars.linear(DICTIONARY, width, width, false)?,
            attention_norm: vars.norm("1.norm", width, block.norm)?,
            attention: SubspaceAttention::new(site, false, vars, [SUBSPACES, OUTPUT])?,
        })
    }

    fn forward(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        let y = self.dictionary.forward(self.dictionary_norm.forward(x));
        let seen = self.attention.forward(self.attention_norm.forward(y.clone()), attend);
        y - seen
    }
}

/// Sines and cosines of a patch's column, then of its row, for a grid of patches behind one token without position:
/// `[1 + patches, width]` (MAE; He et al., 2021, arXiv 2111.06377). The width is divisible by 4.
pub fn waves(width: usize, [rows, columns]: [usize; 2]) -> TensorData {
    let quarter = width / 4;
    let angle = |place: usize, wave: usize| place as f64 / 10_000f64.powf(wave as f64 / quarter as f64);
    let half = |place: usize| {
        let of =
            move |function: fn(f64) -> f64| (0..quarter).map(move |wave| function(angle(place, wave)) as f32);
        of(f64::sin).chain(of(f64::cos))
    };
    let patches =
        (0..rows).flat_map(|row| (0..columns).flat_map(move |column| half(column).chain(half(row))));
    let values: Vec<f32> = std::iter::repeat_n(0.0, width).chain(patches).collect();
    TensorData::new(values, [1 + rows * columns, width])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_those_of_the_column_and_then_of_the_row() {
        let values = waves(8, [2, 3]).try_to_vec::<f32>().unwrap();
        let row = |at: usize| &values[at * 8..(at + 1) * 8];
        assert_eq!(row(0), [0.0; 8]);
        // The patch of row 1 and column 2: waves of length 1 and 100.
        let wanted =
            [2f64.sin(), 0.02f64.sin(), 2f64.cos(), 0.02f64.cos(), 1f64.sin(), 0.01f64.sin(), 1f64.cos()];
        assert!(row(6).iter().zip(wanted).all(|(ours, wanted)| (f64::from(*ours) - wanted).abs() < 1e-6));
    }
}
