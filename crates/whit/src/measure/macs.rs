//! How many multiplications with addition a vision transformer costs, given how many tokens each block has.

use crate::nn::vision::VisionConfig;

/// What the count depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisionCost {
    /// Values of a token.
    pub width: usize,
    /// Square matrices of a block's attention: 4, or 2 where queries, keys and values are the same.
    pub projections: usize,
    /// Inner values of the feed-forward part; a step of ISTA is one of the model's width.
    pub feed_forward: usize,
    /// Values of a patch of the image.
    pub patch_values: usize,
    /// Patches of the image.
    pub patches: usize,
    /// Tokens in front of the patches.
    pub specials: usize,
    /// Blocks.
    pub layers: usize,
    /// Classes.
    pub classes: usize,
}

impl VisionCost {
    /// The cost of a model on images of the size that it was trained on.
    pub fn of(config: &VisionConfig) -> Self {
        Self {
            width: config.block.width,
            projections: config.block.white.map_or(4, |_| 2),
            feed_forward: config.block.feed_forward,
            patch_values: config.patch_values(),
            patches: config.tokens() - config.specials(),
            specials: config.specials(),
            layers: config.layers,
            classes: config.head.classes().unwrap_or(0),
        }
    }

    /// All tokens that enter the first block.
    pub fn tokens(&self) -> usize {
        self.patches + self.specials
    }

    /// The cost where all tokens go through all blocks.
    pub fn dense(&self) -> u64 {
        self.reduced(&vec![self.tokens(); self.layers])
    }

    /// The cost where `left` says how many tokens leave the attention of each block. The attention of a block of n
    /// tokens of width c with p projections costs p n c² + 2 n² c, the feed-forward part of inner width f costs 2 n c f.
    pub fn reduced(&self, left: &[usize]) -> u64 {
        let mut now = self.tokens();
        let block = |&left: &usize| {
            let entering = std::mem::replace(&mut now, left);
            self.projections * entering * self.width * self.width
                + 2 * entering * entering * self.width
                + 2 * left * self.width * self.feed_forward
        };
        let blocks: usize = left.iter().map(block).sum();
        let ends = self.patches * self.patch_values * self.width + self.classes * self.width;
        (blocks + ends) as u64
    }

    /// The share of the dense cost that is saved.
    pub fn saved(&self, left: &[usize]) -> f64 {
        1.0 - self.reduced(left) as f64 / self.dense() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reducers::published::{names, published};
    use crate::methods::reducers::testing::counts;

    fn cost(width: usize, layers: usize, patch: usize) -> VisionCost {
        let side = 224 / patch;
        VisionCost {
            width,
            projections: 4,
            feed_forward: 4 * width,
            patch_values: 3 * patch * patch,
            patches: side * side,
            specials: 1,
            layers,
            classes: 1000,
        }
    }

    /// In hundredths of a giga, as published figures are given.
    fn giga(macs: u64) -> f64 {
        (macs as f64 / 1e7).round() / 100.0
    }

    fn tome(cost: &VisionCost, r: usize) -> Vec<usize> {
        counts(&format!("tome:r={r}"), cost.layers, cost.tokens())
    }

    #[test]
    fn published_figures_come_out_to_the_digit() {
        let (small, base, huge) = (cost(384, 12, 16), cost(768, 12, 16), cost(1280, 32, 14));
        assert_eq!([small, base].map(|cost| giga(cost.dense())), [4.60, 17.56]);
        assert_eq!((huge.dense() as f64 / 1e8).round() / 10.0, 167.3);
        assert_eq!([13, 16].map(|r| giga(small.reduced(&tome(&small, r)))), [2.70, 2.29]);
        assert_eq!((1000.0 * small.saved(&tome(&small, 13))).round() / 10.0, 41.2);
        assert_eq!(giga(base.reduced(&tome(&base, 16))), 8.77);
        assert_eq!((huge.reduced(&tome(&huge, 7)) as f64 / 1e8).round() / 10.0, 92.8);
    }

    /// A white-box block costs 4 c² + 2 n c for each of its n tokens of width c.
    #[test]
    fn a_white_box_costs_less_than_two_fifths() {
        let base = cost(768, 12, 16);
        let white = VisionCost { projections: 2, feed_forward: 768, ..base };
        let (tokens, width) = (197u64, 768u64);
        let blocks = 12 * tokens * (4 * width * width + 2 * tokens * width);
        assert_eq!(white.dense(), blocks + 196 * width * width + 1000 * width);
        assert_eq!((giga(white.dense()), giga(base.dense())), (6.41, 17.56));
        let products = tokens * width * width;
        let three = white.dense() + 12 * products; // the formula as it is written has 5 c²
        assert_eq!(giga(three), 7.80);
    }

    /// What the authors' formula gives for their schedules, which are named after the cost that was wanted.
    #[test]
    fn a_learnt_schedule_costs_what_it_says() {
        for (name, (width, layers, patch), wanted) in [
            ("deit-s-2.9", (384, 12, 16), 2.905),
            ("deit-b-11.5", (768, 12, 16), 11.517),
            ("mae-h-103.4", (1280, 32, 14), 103.337),
        ] {
            let rates = published(name).unwrap();
            let macs = cost(width, layers, patch).reduced(&rates.left()) as f64 / 1e9;
            assert!((macs - wanted).abs() < 0.005, "{name}: {macs}");
        }
        for name in names() {
            let (model, wanted) = name.rsplit_once('-').unwrap();
            let (width, layers, patch) = match model {
                "deit-t" => (192, 12, 16),
                "deit-s" => (384, 12, 16),
                "mae-l" => (1024, 24, 16),
                "mae-h" => (1280, 32, 14),
                _ => (768, 12, 16),
            };
            let macs = cost(width, layers, patch).reduced(&published(&name).unwrap().left()) as f64 / 1e9;
            let wanted: f64 = wanted.parse().unwrap();
            assert!((macs / wanted - 1.0).abs() < 0.1, "{name}: {macs}");
        }
    }
}
