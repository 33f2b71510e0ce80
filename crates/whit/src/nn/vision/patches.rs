//! From pixels to the tokens that enter the first block.

use burn::module::Param;
use burn::tensor::Tensor;

use super::Vision;
use crate::nn::positions;

impl Vision {
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
    pub(super) fn cut(&self, pixels: Tensor<4>, by_pixel: bool) -> Tensor<2> {
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
}
