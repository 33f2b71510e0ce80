//! What distinguishes one vision transformer from another.

use crate::nn::block::BlockConfig;
use crate::nn::inventory::{Matrix, Role};

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

    pub(super) fn inputs(self, width: usize) -> usize {
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
    pub(super) fn placed(&self) -> usize {
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
