//! Attention on tensors.

use burn::tensor::{Bool, Device, Tensor, TensorData};

/// What [`attention`] is told besides its inputs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The factor on the scores; `1 / sqrt(head_dim)` if not given.
    pub scale: Option<f32>,
    /// Query `i` sees the first `keys - queries + i + 1` keys.
    pub causal: bool,
    /// Only keys less than this many positions back.
    pub window: Option<usize>,
    /// `[batch or 1, heads or 1, queries, keys]`; `true` where a query sees a key, together with `causal`.
    pub mask: Option<Tensor<4, Bool>>,
    /// `[batch, keys]`, added to the scores; differentiable.
    pub key_bias: Option<Tensor<2>>,
    /// Scores become `cap * tanh(score / cap)`, before the bias.
    pub softcap: Option<f32>,
}

/// `softmax(scale · Q Kᵀ + bias) V`, differentiable in `q`, `k`, `v` and the bias.
///
/// `q` is `[batch, heads, queries, head_dim]`; `k` and `v` are `[batch, kv_heads, keys, head_dim]`,
/// with `heads` a multiple of `kv_heads`. Returns `[batch, heads, queries, head_dim]`; rows that see
/// no key are zero.
///
/// # Panics
/// If the shapes do not fit together.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &Options) -> Tensor<4> {
    portable(q, k, v, options)
}

/// The formula in tensor operations, for every device; needs the whole matrix of scores.
fn portable(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &Options) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = q.dims();
    let [_, kv_heads, keys, _] = k.dims();
    let device = q.device();
    let rows = heads / kv_heads * queries;
    let scale = options.scale.unwrap_or((head_dim as f32).sqrt().recip());
    let scores = q.reshape([batch, kv_heads, rows, head_dim]).matmul(k.transpose()) * scale;
    let scores = match options.softcap {
        Some(cap) => (scores / cap).tanh() * cap,
        None => scores,
    };
    let scores = scores.reshape([batch, heads, queries, keys]);
    let scores = match &options.key_bias {
        Some(bias) => scores + bias.clone().reshape([batch, 1, 1, keys]),
        None => scores,
    };
    let hidden = visible(options, [queries, keys], &device).expand([batch, heads, queries, keys]).bool_not();
    let scores = scores.mask_fill(hidden.clone(), f32::NEG_INFINITY);
    let shift = scores.clone().detach().max_dim(3).clamp_min(f32::MIN);
    let weights = (scores - shift).exp().mask_fill(hidden, 0.0);
    let sums = weights.clone().sum_dim(3).clamp_min(f32::MIN_POSITIVE);
    let weights = (weights / sums).reshape([batch, kv_heads, rows, keys]);
    weights.matmul(v).reshape([batch, heads, queries, head_dim])
}

/// `[batch or 1, heads or 1, queries, keys]`: `true` where mask, causal order and window all allow.
fn visible(options: &Options, [queries, keys]: [usize; 2], device: &Device) -> Tensor<4, Bool> {
    let window = options.window.unwrap_or(usize::MAX);
    let sees = |query: usize, key: usize| {
        let position = query + keys; // of the query, counted from `queries` places before the first key
        let key = key + queries;
        (!options.causal || key <= position) && position < key.saturating_add(window)
    };
    let bits = (0..queries * keys).map(|index| sees(index / keys, index % keys)).collect::<Vec<_>>();
    let all = Tensor::from_bool(TensorData::new(bits, [1, 1, queries, keys]), device);
    match &options.mask {
        Some(mask) => mask.clone().bool_and(all.expand(mask.dims())),
        None => all,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, HeadView, Mask, Wanted, reference};
    use super::*;
    use burn::tensor::Distribution;

    fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn one_query_by_hand() {
        let device = Device::flex();
        let q = Tensor::<4>::from_data([[[[1.0, 0.0]]]], &device);
        let k = Tensor::<4>::from_data([[[[0.0, 5.0], [3f32.ln(), 0.0], [9.0, 9.0]]]], &device);
        let v = Tensor::<4>::from_data([[[[4.0, 0.0], [0.0, 8.0], [7.0, 7.0]]]], &device);
        let mask = Tensor::<4, Bool>::from_bool(TensorData::from([[[[true, true, false]]]]), &device);
        let options = Options { scale: Some(1.0), mask: Some(mask), ..Options::default() };
        let output = attention(q, k, v, &options).into_data().try_to_vec::<f32>().unwrap();
        assert!((output[0] - 1.0).abs() < 1e-6 && (output[1] - 6.0).abs() < 1e-6, "{output:?}");
    }

    #[test]
    fn portable_equals_the_reference() {
        let device = Device::flex();
        let (queries, keys, heads, kv_heads, head_dim) = (5, 9, 4, 2, 6);
        let q = random([1, heads, queries, head_dim], &device);
        let [k, v] = [0; 2].map(|_| random([1, kv_heads, keys, head_dim], &device));
        let bias = Tensor::<2>::random([1, keys], Distribution::Normal(0.0, 1.0), &device);
        let options = Options {
            causal: true,
            window: Some(4),
            key_bias: Some(bias.clone()),
            softcap: Some(2.0),
            ..Options::default()
        };
        let output = portable(q.clone(), k.clone(), v.clone(), &options).swap_dims(1, 2).into_data();
        let [q, k, v] =
            [q.swap_dims(1, 2), k, v].map(|tensor| tensor.into_data().try_to_vec::<f32>().unwrap());
        let bias = bias.into_data().try_to_vec::<f32>().unwrap();
        let size = keys * head_dim;
        let view = |head: usize| HeadView {
            keys: &k[head * size..][..size],
            values: &v[head * size..][..size],
            stride: head_dim,
            value_stride: head_dim,
            len: keys,
        };
        let expected = reference::attend(&Call {
            queries: &q,
            query_count: queries,
            heads,
            head_dim,
            kv: &[view(0), view(1)],
            scale: (head_dim as f32).sqrt().recip(),
            softcap: options.softcap,
            mask: Mask::Causal,
            window: options.window,
            key_bias: Some(&bias),
            wanted: Wanted::default(),
        });
        for (ours, theirs) in output.try_to_vec::<f32>().unwrap().iter().zip(&expected.output) {
            assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
        }
    }
}
