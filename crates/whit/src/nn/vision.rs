//! The vision transformer (Dosovitskiy et al., 2020): an image as a row of patches, in front of them the
//! tokens that stand for the whole of it, through the blocks that text encoders have too.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::attention::Attend;
use super::block::BlockConfig;
use super::decoder::NormConfig;
use super::inventory::{Matrix, Role};
use super::linear::Linear;
use super::norm::Norm;
use super::positions;
use super::vars::{Vars, VarsError};
use super::white::Layer;
use super::white_mae::waves;

/// Everything that distinguishes one vision transformer from another.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Height and width of the images that the positions were learned on.
    pub image: [usize; 2],
    /// Height and width of a patch.
    pub patch: [usize; 2],
    /// Colours.
    pub channels: usize,
    /// Whether the projection of patches has a bias.
    pub patch_bias: bool,
    /// Whether a norm stands before the projection of patches and another behind it; their values are then in the
    /// order of pixels, not of colours.
    pub patch_norms: bool,
    /// Whether a second token follows the class token, to learn from a teacher (DeiT).
    pub distillation_token: bool,
    /// Whether positions are waves of the patch's place (MAE), and no variables.
    pub fixed_positions: bool,
    /// Tokens without position behind the class token, for the model's own use (DINOv2).
    pub registers: usize,
    /// Whether positions are smoothed where they are shrunk to fewer patches.
    pub antialias: bool,
    /// What its blocks are.
    pub block: BlockConfig,
    /// How many blocks there are.
    pub layers: usize,
    /// Whether a norm follows the embeddings (CLIP).
    pub embedding_norm: bool,
    /// What the norm behind the blocks is applied to.
    pub final_norm: FinalNorm,
    /// The epsilon of that norm.
    pub final_epsilon: f32,
    /// What stands for the whole image.
    pub pooled: Pooled,
    /// What the image is sorted into, if it is.
    pub head: Head,
    /// Values of the space that images and texts share, if there is one (CLIP).
    pub projection: Option<usize>,
    /// The fraction of patches that are left out while the model is trained, if it is trained so (MAE).
    pub mask_ratio: Option<f64>,
}

/// What the norm behind the blocks is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalNorm {
    /// Every token.
    All,
    /// Only the class token, where it stands for the image: the hidden states stay as they are.
    Class,
}

/// What stands for the whole image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooled {
    /// Nothing that the original would report; embeddings take the class token.
    Nothing,
    /// The class token.
    Class,
    /// The class token through a layer of so many outputs and a hyperbolic tangent.
    Dense(usize),
}

/// What scores of classes are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The model has no classes.
    None,
    /// The class token.
    Class(usize),
    /// The class token and, behind it, the mean of the patches (DINOv2).
    ClassAndMean(usize),
    /// The mean of the patches, with a norm of its own (MAE and BEiT, fine-tuned).
    Mean(usize),
    /// The class token and the distillation token, each with a layer of its own; the mean counts (DeiT).
    Distilled(usize),
    /// The mean of all tokens, with the norm behind the blocks (CRATE).
    WholeMean(usize),
}

/// A vision transformer.
#[derive(Module, Debug)]
pub struct Vision {
    class_token: Param<Tensor<2>>,
    distillation_token: Option<Param<Tensor<2>>>,
    register_tokens: Option<Param<Tensor<2>>>,
    position_embeddings: Param<Tensor<2>>,
    patch_norms: Option<[Norm; 2]>,
    patch_projection: Linear,
    embedding_norm: Option<Norm>,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    mean_norm: Option<Norm>,
    pooler: Option<Linear>,
    classifier: Option<Linear>,
    distillation_classifier: Option<Linear>,
    projection: Option<Linear>,
    #[module(skip)]
    config: VisionConfig,
}

/// Scores of classes `[batch, classes]`.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Those that count.
    pub logits: Tensor<2>,
    /// Those of the class token and of the distillation token, where there are both.
    pub parts: Option<[Tensor<2>; 2]>,
}

impl Head {
    /// The number of classes.
    pub fn classes(self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Class(classes)
            | Self::ClassAndMean(classes)
            | Self::Mean(classes)
            | Self::Distilled(classes)
            | Self::WholeMean(classes) => Some(classes),
        }
    }

    fn inputs(self, width: usize) -> usize {
        if matches!(self, Self::ClassAndMean(_)) { 2 * width } else { width }
    }
}

impl VisionConfig {
    /// Rows and columns of patches of an image of this height and width.
    pub fn grid(&self, image: [usize; 2]) -> [usize; 2] {
        [image[0] / self.patch[0], image[1] / self.patch[1]]
    }

    /// The tokens in front of the patches.
    pub fn specials(&self) -> usize {
        self.placed() + self.registers
    }

    /// The tokens in front of the patches that have a position.
    fn placed(&self) -> usize {
        1 + usize::from(self.distillation_token)
    }

    /// All tokens of an image of the size that the model was trained on.
    pub fn tokens(&self) -> usize {
        self.grid(self.image).iter().product::<usize>() + self.specials()
    }

    /// The values of a patch.
    pub fn patch_values(&self) -> usize {
        self.channels * self.patch[0] * self.patch[1]
    }

    /// All matrices, in the order of the forward pass.
    pub fn matrices(&self) -> Vec<Matrix> {
        let width = self.block.width;
        let matrix =
            |name: &str, outputs, inputs, role| Matrix { name: name.to_owned(), outputs, inputs, role };
        let mut all = vec![matrix("embeddings.patches.weight", width, self.patch_values(), Role::Layer)];
        all.extend((0..self.layers).flat_map(|layer| self.block.matrices(layer)));
        if let Pooled::Dense(outputs) = self.pooled {
            all.push(matrix("pooler.dense.weight", outputs, width, Role::Head));
        }
        let classes = self.head.classes().filter(|classes| *classes > 0);
        let head = |name| classes.map(|count| matrix(name, count, self.head.inputs(width), Role::Head));
        all.extend(head("classifier.weight"));
        if matches!(self.head, Head::Distilled(_)) {
            all.extend(head("distillation_classifier.weight"));
        }
        all.extend(self.projection.map(|values| matrix("projection.weight", values, width, Role::Head)));
        all
    }
}

impl Vision {
    /// Builds the model from its variables.
    ///
    /// # Errors
    /// If a variable is missing or has another shape than the configuration says.
    pub fn new(config: VisionConfig, vars: &Vars<'_>) -> Result<Self, VarsError> {
        let (width, norm) = (config.block.width, config.block.norm);
        let (embeddings, stack) = (vars.at("embeddings"), vars.at("encoder.layer"));
        let layers = (0..config.layers).map(|layer| Layer::new(&config.block, layer, &stack.at(layer)));
        let tokens = |name, count| embeddings.rows(name, count, width).map(Param::from_tensor);
        let some = |name, count: usize| (count > 0).then(|| tokens(name, count)).transpose();
        let positions = config.grid(config.image).iter().product::<usize>() + config.placed();
        let classes = config.head.classes();
        let head = |name| {
            let layer = |classes| vars.linear(name, classes, config.head.inputs(width), true);
            classes.map(layer).transpose()
        };
        let distilled = matches!(config.head, Head::Distilled(_));
        let maybe_norm =
            |vars: &Vars<'_>, name, wanted: bool| wanted.then(|| vars.norm(name, width, norm)).transpose();
        let averaged = matches!(config.head, Head::Mean(_));
        let pooler = match config.pooled {
            Pooled::Dense(outputs) => Some(vars.linear("pooler.dense", outputs, width, true)?),
            Pooled::Class | Pooled::Nothing => None,
        };
        let patch_norms = || -> Result<_, VarsError> {
            let before = embeddings.norm("patch_norm", config.patch_values(), norm)?;
            Ok([before, embeddings.norm("token_norm", width, norm)?])
        };
        Ok(Self {
            class_token: tokens("class_token", 1)?,
            distillation_token: some("distillation_token", usize::from(config.distillation_token))?,
            register_tokens: some("register_tokens", config.registers)?,
            position_embeddings: match config.fixed_positions {
                false => tokens("positions", positions)?,
                true => {
                    let table = waves(width, config.grid(config.image));
                    Param::from_tensor(Tensor::from_data(table, &vars.device())).set_require_grad(false)
                }
            },
            patch_norms: config.patch_norms.then(patch_norms).transpose()?,
            patch_projection: embeddings.linear(
                "patches",
                width,
                config.patch_values(),
                config.patch_bias,
            )?,
            embedding_norm: maybe_norm(&embeddings, "norm", config.embedding_norm)?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: (!averaged)
                .then(|| vars.norm("final_norm", width, NormConfig { epsilon: config.final_epsilon, ..norm }))
                .transpose()?,
            mean_norm: maybe_norm(vars, "mean_norm", averaged)?,
            pooler,
            classifier: head("classifier")?,
            distillation_classifier: if distilled { head("distillation_classifier")? } else { None },
            projection: config
                .projection
                .map(|values| vars.linear("projection", values, width, false))
                .transpose()?,
            config,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// The patches of images `[batch, channels, height, width]` with their positions, `[batch, patches,
    /// width]`, row after row, and the tokens in front of them, `[1, specials, width]`.
    pub fn embed(&self, pixels: Tensor<4>) -> (Tensor<3>, Tensor<3>) {
        self.embed_changed(pixels, |patches| patches)
    }

    /// As [`embed`](Self::embed); `change` is given the patches `[batch, patches, width]` before they get positions.
    pub fn embed_changed(
        &self,
        pixels: Tensor<4>,
        change: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        let [batch, _, height, width] = pixels.dims();
        let grid = self.config.grid([height, width]);
        let [count, values] = [grid[0] * grid[1], self.config.block.width];
        let positions = self.positions([height, width]);
        let placed = self.config.placed();
        let of_patches = positions.clone().slice([placed..placed + count, 0..values]);
        let cut = self.cut(pixels, self.config.patch_norms);
        let patches = change(self.project(cut).reshape([batch, count, values]));
        let (patches, in_front) = (patches + of_patches.unsqueeze(), positions.slice([0..placed, 0..values]));
        let tokens = [Some(&self.class_token), self.distillation_token.as_ref()];
        let placed = Tensor::cat(tokens.into_iter().flatten().map(Param::val).collect(), 0) + in_front;
        let specials = match &self.register_tokens {
            Some(registers) => Tensor::cat(vec![placed, registers.val()], 0),
            None => placed,
        };
        (patches, specials.unsqueeze())
    }

    /// Rows of a patch's values as tokens.
    fn project(&self, patches: Tensor<2>) -> Tensor<2> {
        match &self.patch_norms {
            None => self.patch_projection.forward(patches),
            Some([before, behind]) => behind.forward(self.patch_projection.forward(before.forward(patches))),
        }
    }

    /// The values of an image's patches, pixel by pixel: `[batch, patches, patch height * patch width * channels]`.
    pub fn patches(&self, pixels: Tensor<4>) -> Tensor<3> {
        let [batch, ..] = pixels.dims();
        let rows = self.cut(pixels, true);
        let [all, values] = rows.dims();
        rows.reshape([batch, all / batch.max(1), values])
    }

    /// Images as rows of values, one a patch, in the order in which a convolution's kernel has them, or pixel by
    /// pixel, as where norms stand around the projection: `[batch * patches, channels * patch height * patch width]`.
    fn cut(&self, pixels: Tensor<4>, by_pixel: bool) -> Tensor<2> {
        let [batch, channels, height, width] = pixels.dims();
        let ([rows, columns], [high, wide]) = (self.config.grid([height, width]), self.config.patch);
        let whole = pixels.slice([0..batch, 0..channels, 0..rows * high, 0..columns * wide]);
        whole
            .reshape([batch, channels, rows, high, columns, wide])
            .permute(if by_pixel { [0, 2, 4, 3, 5, 1] } else { [0, 2, 4, 1, 3, 5] })
            .reshape([batch * rows * columns, channels * high * wide])
    }

    /// The positions of an image's tokens, stretched to its patches where it has another size than those
    /// that the model was trained on: `[tokens, width]`.
    fn positions(&self, image: [usize; 2]) -> Tensor<2> {
        let learned = self.position_embeddings.val();
        if image == self.config.image {
            return learned;
        }
        let (from, to) = (self.config.grid(self.config.image), self.config.grid(image));
        positions::stretch(learned, self.config.placed(), from, to, self.config.antialias)
    }

    /// Runs the blocks on tokens `[batch, tokens, width]`, and the norm behind them.
    pub fn run(&self, tokens: Tensor<3>, attend: &mut dyn Attend) -> Tensor<3> {
        self.normed(self.blocks(tokens, attend))
    }

    /// What leaves the blocks, before the norm behind them: `[batch, tokens, width]`.
    pub fn states(&self, pixels: Tensor<4>, attend: &mut dyn Attend) -> Tensor<3> {
        let (patches, specials) = self.embed(pixels);
        self.blocks(join(specials, patches), attend)
    }

    /// What leaves the blocks, behind the norm where it is for all tokens.
    pub fn normed(&self, states: Tensor<3>) -> Tensor<3> {
        match (&self.final_norm, self.config.final_norm) {
            (Some(norm), FinalNorm::All) => norm.forward(states),
            _ => states,
        }
    }

    fn blocks(&self, tokens: Tensor<3>, attend: &mut dyn Attend) -> Tensor<3> {
        let [batch, count, width] = tokens.dims();
        let mut x = tokens.reshape([batch * count, width]);
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(x);
        }
        for (layer, block) in self.layers.iter().enumerate() {
            attend.observe(layer, &mut || x.clone());
            x = block.forward(x, attend);
        }
        attend.observe(self.layers.len(), &mut || x.clone());
        let left = x.dims()[0] / batch.max(1);
        x.reshape([batch, left, width])
    }

    /// The hidden states `[batch, tokens, width]` of images `[batch, channels, height, width]`.
    pub fn forward(&self, pixels: Tensor<4>, attend: &mut dyn Attend) -> Tensor<3> {
        let (patches, specials) = self.embed(pixels);
        self.run(join(specials, patches), attend)
    }

    /// What stands for the whole image by the original's rule, if it has one: `[batch, values]`.
    pub fn pooled(&self, hidden: &Tensor<3>) -> Option<Tensor<2>> {
        match self.config.pooled {
            Pooled::Nothing => None,
            Pooled::Class => Some(self.class_state(hidden)),
            Pooled::Dense(_) => {
                self.pooler.as_ref().map(|pooler| pooler.forward(self.class_state(hidden)).tanh())
            }
        }
    }

    /// The state of the class token, normalised: `[batch, width]`.
    pub fn class_state(&self, hidden: &Tensor<3>) -> Tensor<2> {
        let state = token(hidden, 0);
        match (&self.final_norm, self.config.final_norm) {
            (Some(norm), FinalNorm::Class) => norm.forward(state),
            _ => state,
        }
    }

    /// The pooled state in the space that images and texts share: `[batch, values]`.
    pub fn projected(&self, hidden: &Tensor<3>) -> Option<Tensor<2>> {
        Some(self.projection.as_ref()?.forward(self.class_state(hidden)))
    }

    /// The mean of the patches, each weighted with the patches that it stands for: `[batch, width]`.
    pub fn mean(&self, hidden: &Tensor<3>, sizes: Option<Tensor<2>>) -> Tensor<2> {
        mean_from(hidden, self.config.specials(), sizes)
    }

    /// Scores of the classes, if the model has them. `sizes` `[batch, tokens]` says how many patches each
    /// token stands for, where some were merged.
    pub fn logits(&self, hidden: &Tensor<3>, sizes: Option<Tensor<2>>) -> Option<Logits> {
        let classifier = self.classifier.as_ref()?;
        let input = match self.config.head {
            Head::None => return None,
            Head::Class(_) | Head::Distilled(_) => self.class_state(hidden),
            Head::WholeMean(_) => {
                let mean = mean_from(hidden, 0, sizes);
                self.final_norm.as_ref().map_or(mean.clone(), |norm| norm.forward(mean))
            }
            Head::ClassAndMean(_) => Tensor::cat(vec![token(hidden, 0), self.mean(hidden, sizes)], 1),
            Head::Mean(_) => match &self.mean_norm {
                Some(norm) => norm.forward(self.mean(hidden, sizes)),
                None => self.mean(hidden, sizes),
            },
        };
        let logits = classifier.forward(input);
        Some(match &self.distillation_classifier {
            None => Logits { logits, parts: None },
            Some(second) => {
                let parts = [logits, second.forward(token(hidden, 1))];
                let [class, distilled] = parts.clone();
                Logits { logits: (class + distilled) / 2.0, parts: Some(parts) }
            }
        })
    }

    /// Scores of the classes of every patch by itself, `[batch * patches, classes]`, if one layer sorts a state.
    pub fn patch_logits(&self, hidden: &Tensor<3>) -> Option<Tensor<2>> {
        let classifier = self.classifier.as_ref()?;
        if matches!(self.config.head, Head::None | Head::ClassAndMean(_)) {
            return None;
        }
        let [batch, tokens, width] = hidden.dims();
        let first = self.config.specials();
        let patches = hidden.clone().slice([0..batch, first..tokens, 0..width]);
        Some(classifier.forward(patches.reshape([batch * (tokens - first), width])))
    }

    /// The bytes that the large weights hold.
    pub fn bytes(&self) -> usize {
        let heads = [&self.pooler, &self.classifier, &self.distillation_classifier, &self.projection];
        self.patch_projection.bytes()
            + self.layers.iter().map(Layer::bytes).sum::<usize>()
            + heads.into_iter().flatten().map(Linear::bytes).sum::<usize>()
    }
}

/// The tokens in front `[1, specials, width]` of every image's patches `[batch, patches, width]`.
pub fn join(specials: Tensor<3>, patches: Tensor<3>) -> Tensor<3> {
    let ([batch, _, width], [_, count, _]) = (patches.dims(), specials.dims());
    Tensor::cat(vec![specials.expand([batch, count, width]), patches], 1)
}

/// The mean of the tokens from `first` on, each weighted with its size: `[batch, width]`.
fn mean_from(hidden: &Tensor<3>, first: usize, sizes: Option<Tensor<2>>) -> Tensor<2> {
    let [batch, tokens, width] = hidden.dims();
    let patches = hidden.clone().slice([0..batch, first..tokens, 0..width]);
    match sizes {
        None => patches.mean_dim(1).reshape([batch, width]),
        Some(sizes) => {
            let sizes = sizes.slice([0..batch, first..tokens]).reshape([batch, tokens - first, 1]);
            let sum = (patches * sizes.clone()).sum_dim(1).reshape([batch, width]);
            sum / sizes.sum_dim(1).reshape([batch, 1])
        }
    }
}

/// Token `index` of every image: `[batch, width]`.
fn token(hidden: &Tensor<3>, index: usize) -> Tensor<2> {
    let [batch, _, width] = hidden.dims();
    hidden.clone().slice([0..batch, index..index + 1, 0..width]).reshape([batch, width])
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::tensor::{Device, Distribution};
    use whit_kernels::op;

    use super::*;
    use crate::nn::attention::Batched;
    use crate::nn::decoder::NormConfig;
    use crate::nn::vars::{Precision, Random, Storage};

    pub(crate) fn tiny() -> VisionConfig {
        let norm = NormConfig { centred: true, epsilon: 1e-6 };
        VisionConfig {
            image: [12, 8],
            patch: [4, 4],
            channels: 3,
            patch_bias: true,
            patch_norms: false,
            distillation_token: false,
            fixed_positions: false,
            registers: 0,
            antialias: false,
            block: BlockConfig { norm_first: true, ..BlockConfig::plain(16, 24, 2, norm) },
            layers: 2,
            embedding_norm: false,
            final_norm: FinalNorm::All,
            final_epsilon: 1e-6,
            pooled: Pooled::Class,
            head: Head::Class(5),
            projection: None,
            mask_ratio: None,
        }
    }

    fn build(config: VisionConfig) -> Vision {
        let storage = Storage::Packed(Precision::Native);
        Vision::new(config, &Vars::new(&Random { seed: 4 }, &storage))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        op::host(tensor).into_vec()
    }

    #[test]
    fn patches_are_cut_row_by_row_and_what_is_left_over_is_left_out() {
        let config = VisionConfig { patch: [1, 2], channels: 2, image: [2, 4], ..tiny() };
        let model = build(config);
        let pixels: Vec<f32> = (0..20).map(|value| value as f32).collect(); // two colours of 2 x 5
        let pixels = Tensor::<1>::from_floats(&pixels[..], &Device::flex()).reshape([1, 2, 2, 5]);
        let rows = values(model.cut(pixels, false));
        assert_eq!(rows, [0., 1., 10., 11., 2., 3., 12., 13., 5., 6., 15., 16., 7., 8., 17., 18.]);
    }

    #[test]
    fn an_image_gets_the_same_alone_and_in_company() {
        let model = build(VisionConfig { head: Head::ClassAndMean(5), registers: 2, ..tiny() });
        let device = Device::flex();
        let pixels = Tensor::<4>::random([3, 3, 16, 8], Distribution::Normal(0.0, 1.0), &device);
        let run = |pixels: Tensor<4>| {
            let batch = pixels.dims()[0];
            let hidden = model.forward(pixels, &mut Batched::whole(batch, None));
            values(model.logits(&hidden, None).map_or_else(|| panic!("classes"), |logits| logits.logits))
        };
        let alone: Vec<f32> = (0..3)
            .flat_map(|image| run(pixels.clone().slice([image..image + 1, 0..3, 0..16, 0..8])))
            .collect();
        assert_eq!(run(pixels), alone);
    }

    #[test]
    fn the_inventory_is_what_the_model_asks_for() {
        let config = VisionConfig {
            head: Head::Distilled(5),
            distillation_token: true,
            projection: Some(7),
            ..tiny()
        };
        let total: usize = config.matrices().iter().map(|matrix| matrix.inputs * matrix.outputs).sum();
        let storage = Storage::Dense(Device::flex());
        let model = Vision::new(config, &Vars::new(&Random { seed: 1 }, &storage));
        let biases = 16 + 2 * (4 * 16 + 24 + 16) + 2 * 5;
        assert_eq!(model.map(|model| model.bytes()).ok(), Some(4 * (total + biases)));
    }

    #[test]
    fn sizes_weight_the_mean_of_patches() {
        let model = build(VisionConfig { head: Head::Mean(5), ..tiny() });
        let device = Device::flex();
        let hidden = Tensor::<3>::random([1, 3, 16], Distribution::Normal(0.0, 1.0), &device);
        let sizes = Tensor::<2>::from_data([[1.0, 3.0, 1.0]], &device);
        let [first, second] = [1, 2].map(|index| values(token(&hidden, index)));
        let expected: Vec<f32> = first.iter().zip(&second).map(|(a, b)| (3.0 * a + b) / 4.0).collect();
        for (ours, theirs) in values(model.mean(&hidden, Some(sizes))).iter().zip(expected) {
            assert!((ours - theirs).abs() < 1e-6);
        }
    }
}
