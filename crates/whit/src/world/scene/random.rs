//! Randomness that depends on nothing but the seed, the sample and what it is for: one stream never
//! moves because another was asked for more numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Labels = 1,
    Scene,
    Caption,
    Questions,
    Clip,
    Degradation,
    Shape,
    Volume,
    Noise,
}

/// The stream of sample `index` for one purpose.
pub(crate) fn stream(seed: u64, index: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    for (word, value) in bytes.chunks_exact_mut(8).zip([seed, index, purpose as u64, 0x7768_6974]) {
        word.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(bytes)
}

/// A hash of one number that looks random (the finaliser of SplitMix64), for noise at a place.
pub(crate) const fn scatter(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Where the noise of a picture begins.
pub(crate) const fn noise_key(seed: u64, index: u64) -> u64 {
    scatter(scatter(seed ^ Purpose::Noise as u64) ^ index)
}

/// A number of mean 0 and variance 1, nearly normal: the sum of a hash's eight bytes.
pub(crate) fn bell(key: u64) -> f32 {
    let hash = scatter(key);
    // The sum of the bytes comes from two rounds of pairwise additions in one register.
    let pairs = (hash & 0x00ff_00ff_00ff_00ff) + ((hash >> 8) & 0x00ff_00ff_00ff_00ff);
    let sum = pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48;
    // Eight uniform bytes: mean 8 * 127.5, variance 8 * (256^2 - 1) / 12.
    (sum as f32 - 1020.0) / 209.02
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, index, purpose| stream(seed, index, purpose).random::<u64>();
        assert_eq!(draw(1, 2, Purpose::Scene), draw(1, 2, Purpose::Scene));
        assert_ne!(draw(1, 2, Purpose::Scene), draw(1, 2, Purpose::Caption));
        assert_ne!(draw(1, 2, Purpose::Scene), draw(2, 2, Purpose::Scene));
        assert_ne!(draw(1, 2, Purpose::Scene), draw(1, 3, Purpose::Scene));
    }

    #[test]
    fn the_bell_has_mean_zero_and_variance_one() {
        let values: Vec<f32> = (0..20_000).map(bell).collect();
        let mean = values.iter().sum::<f32>() / 20_000.0;
        let variance = values.iter().map(|value| value * value).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
    }
}
