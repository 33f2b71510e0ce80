//! Attention on tensors.

use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::forward::{Bias, Head, Job, Layout};
use super::mask::{Allowed, BitMatrix, Visible};
use super::tile::{Kernels, Score};
use super::{HeadView, backward};
use crate::op::{self, Host, Kernel, Pass};
use crate::simd;

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
    /// `[heads, queries, keys]`, added to the scores of every sequence; differentiable. Needs the whole
    /// matrix of scores.
    pub bias: Option<Tensor<3>>,
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
    let bias_on_host = options.key_bias.as_ref().is_none_or(op::on_host);
    if options.bias.is_some() || !(bias_on_host && [&q, &k, &v].into_iter().all(op::on_host)) {
        return portable(q, k, v, options);
    }
    let flash = Flash::new(options, &q, k.dims()[1], Order::Heads);
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(match &options.key_bias {
        Some(bias) => op::apply(flash, [q, k, v, bias.clone().into_dispatch()]),
        None => op::apply(flash, [q, k, v]),
    })
}

/// As [`attention`], on queries, keys and values `[batch, tokens, heads, head_dim]` as linear layers give
/// them, without copying them into another order where no gradient is wanted. Returns the queries' shape.
///
/// # Panics
/// As [`attention`].
pub fn attention_of_rows(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &Options) -> Tensor<4> {
    let learns = [&q, &k, &v].into_iter().any(|tensor| tensor.device().is_autodiff());
    let on_host = [&q, &k, &v].into_iter().all(op::on_host);
    let learned_bias = options.key_bias.as_ref().is_some_and(|bias| bias.device().is_autodiff());
    if learns || learned_bias || !on_host || options.bias.is_some() {
        let [q, k, v] = [q, k, v].map(|tensor| tensor.swap_dims(1, 2));
        return attention(q, k, v, options).swap_dims(1, 2);
    }
    let flash = Flash::new(options, &q, k.dims()[2], Order::Rows);
    let bias = options.key_bias.clone().map(op::host);
    let [q, k, v] = [q, k, v].map(op::host);
    let output = match &bias {
        Some(bias) => Kernel::<4>::forward(&flash, [&q, &k, &v, bias]).0,
        None => Kernel::<3>::forward(&flash, [&q, &k, &v]).0,
    };
    op::tensor(output)
}

/// The kernel behind [`attention`]; its inputs are q, k, v and perhaps the bias of the keys.
#[derive(Clone, Debug)]
struct Flash {
    scale: f32,
    softcap: Option<f32>,
    causal: bool,
    window: Option<usize>,
    mask: Option<Arc<BitMasks>>,
    order: Order,
}

/// In which order the inputs lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// `[batch, heads, tokens, head_dim]`.
    Heads,
    /// `[batch, tokens, heads, head_dim]`; forward only.
    Rows,
}

impl Order {
    /// Batch, heads, tokens and width of a head.
    fn sizes(self, host: &Host) -> [usize; 4] {
        match self {
            Self::Heads => [0, 1, 2, 3].map(|index| host.dim(index)),
            Self::Rows => [0, 2, 1, 3].map(|index| host.dim(index)),
        }
    }

    /// Where a head of a sequence begins, and the distance between two tokens.
    fn place(self, [_, heads, tokens, head_dim]: [usize; 4], sequence: usize, head: usize) -> (usize, usize) {
        match self {
            Self::Heads => ((sequence * heads + head) * tokens * head_dim, head_dim),
            Self::Rows => ((sequence * tokens * heads + head) * head_dim, heads * head_dim),
        }
    }
}

/// A mask `[batch or 1, heads or 1, queries, keys]` as bits.
#[derive(Debug)]
struct BitMasks {
    /// `[batch or 1, kv_heads or 1]`.
    matrices: Vec<BitMatrix>,
    shared_batch: bool,
    /// One row for each query; else one for each query and head of the group, the latter innermost.
    shared_heads: bool,
}

impl BitMasks {
    fn new(mask: Tensor<4, Bool>, group: usize) -> Self {
        let [batch, heads, queries, keys] = mask.dims();
        let shared_heads = heads == 1;
        let rows = if shared_heads { queries } else { queries * group };
        let mask = if shared_heads {
            mask
        } else {
            mask.reshape([batch * heads / group, group, queries, keys]).swap_dims(1, 2)
        };
        let bools: Vec<bool> = mask.into_data().iter::<bool>().collect();
        let matrix = |bools: &[bool]| BitMatrix::from_bools(rows, keys, bools);
        let matrices = bools.chunks((rows * keys).max(1)).map(matrix).collect();
        Self { matrices, shared_batch: batch == 1, shared_heads }
    }

    /// The mask of a kv head of a sequence.
    fn of(&self, batch: usize, head: usize, kv_heads: usize) -> Allowed<'_> {
        let batch = if self.shared_batch { 0 } else { batch };
        let index = if self.shared_heads { batch } else { batch * kv_heads + head };
        Allowed { bits: &self.matrices[index], each_row: !self.shared_heads }
    }
}

impl Flash {
    fn new(options: &Options, q: &Tensor<4>, kv_heads: usize, order: Order) -> Self {
        let [_, first, second, head_dim] = q.dims();
        let heads = if order == Order::Heads { first } else { second };
        Self {
            scale: options.scale.unwrap_or((head_dim as f32).sqrt().recip()),
            softcap: options.softcap,
            causal: options.causal,
            window: options.window,
            mask: options.mask.clone().map(|mask| Arc::new(BitMasks::new(mask, heads / kv_heads))),
            order,
        }
    }

    fn biases<const N: usize>(inputs: [&Host; N]) -> Vec<Bias> {
        let rows = |bias: &&Host| bias.data().chunks(bias.width().max(1)).map(Bias::new).collect();
        inputs.get(3).map_or(Vec::new(), rows)
    }

    fn job<'a, const N: usize>(&'a self, inputs: [&'a Host; N], biases: &'a [Bias]) -> Job<'a> {
        let [q, k, v] = [inputs[0], inputs[1], inputs[2]];
        let (of_queries, of_keys) = (self.order.sizes(q), self.order.sizes(k));
        let [batch, heads, query_count, head_dim] = of_queries;
        let [_, kv_heads, len, _] = of_keys;
        assert_eq!(of_keys, [batch, kv_heads, len, head_dim], "keys for queries {:?}", q.shape());
        assert_eq!(v.shape(), k.shape(), "values and keys");
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads share {kv_heads} kv heads");
        let group = heads / kv_heads;
        let head = |index: usize| {
            let bias = biases.get(index / kv_heads);
            let (start, stride) = self.order.place(of_keys, index / kv_heads, index % kv_heads);
            let end = start + (len.max(1) - 1) * stride + if len > 0 { head_dim } else { 0 };
            let first = self.order.place(of_queries, index / kv_heads, index % kv_heads * group).0;
            Head {
                view: HeadView {
                    keys: &k.data()[start..end],
                    values: &v.data()[start..end],
                    stride,
                    value_stride: stride,
                    len,
                    rows: None,
                },
                first,
                visible: Visible {
                    len,
                    queries: query_count,
                    group,
                    causal: self.causal,
                    window: self.window.unwrap_or(usize::MAX),
                    allowed: self
                        .mask
                        .as_ref()
                        .map(|mask| mask.of(index / kv_heads, index % kv_heads, kv_heads)),
                    tree: None,
                    ends: None,
                    unbarred: bias.map(|bias| &bias.unbarred[..]),
                },
                bias,
            }
        };
        Job {
            heads: (0..batch * kv_heads).map(head).collect(),
            group,
            query_count,
            head_dim,
            score: Score::new(self.scale, self.softcap),
            layout: Layout {
                query: self.order.place(of_queries, 0, 0).1,
                head: self.order.place(of_queries, 0, 1).0,
            },
            kernels: Kernels::of(simd::level()),
            raw: None,
        }
    }
}

impl<const N: usize> Kernel<N> for Flash {
    /// The log-sum-exp of each row, to base 2.
    type Saved = Arc<Vec<f32>>;

    fn forward(&self, inputs: [&Host; N]) -> (Host, Self::Saved) {
        let biases = Self::biases(inputs);
        let job = self.job(inputs, &biases);
        let queries = inputs[0].data();
        let result = job.forward(&job.pack(queries, job.score.query_factor), queries.len());
        (Host::new(inputs[0].shape(), result.output), Arc::new(result.log_sum_exp))
    }

    fn backward(&self, pass: Pass<'_, Self::Saved, N>) -> [Option<Host>; N] {
        let biases = Self::biases(pass.inputs);
        let job = self.job(pass.inputs, &biases);
        let gradients = backward::Input {
            job: &job,
            queries: pass.inputs[0].data(),
            output: pass.output.data(),
            gradient: pass.gradient.data(),
            log_sum_exp: pass.saved,
            scale: self.scale,
            bias_wanted: pass.wanted.get(3).is_some_and(|wanted| *wanted),
        }
        .run();
        let (batch, keys) = (pass.inputs[0].dim(0), pass.inputs[1].dim(2));
        let mut results =
            [gradients.queries, gradients.keys, gradients.values, sum_heads(&gradients.bias, batch, keys)]
                .into_iter();
        std::array::from_fn(|index| {
            let result = results.next().filter(|_| pass.wanted[index]);
            result.map(|values| Host::new(pass.inputs[index].shape(), values))
        })
    }
}

/// From `[batch, kv_heads, keys]` to `[batch, keys]`.
fn sum_heads(bias: &[f32], batch: usize, keys: usize) -> Vec<f32> {
    let mut sums = vec![0.0; batch * keys];
    let each = bias.len() / batch.max(1);
    for (index, value) in bias.iter().enumerate() {
        sums[index / each * keys + index % keys] += value;
    }
    sums
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
    let scores = match &options.bias {
        Some(bias) => scores + bias.clone().unsqueeze_dim::<4>(0),
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
    use super::super::{Call, Mask, Wanted, reference};
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
            rows: None,
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

    struct Sizes {
        batch: usize,
        kv_heads: usize,
        group: usize,
        queries: usize,
        keys: usize,
        head_dim: usize,
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec::<f32>().unwrap()
    }

    /// Output and gradients of the kernel against those of the formula under Burn's autodiff.
    fn assert_equals_portable(sizes: &Sizes, device: &Device, options: impl Fn(&Device) -> Options) {
        let &Sizes { batch, kv_heads, group, queries, keys, head_dim } = sizes;
        let grad = |shape: [usize; 4]| random(shape, device).require_grad();
        let q = grad([batch, kv_heads * group, queries, head_dim]);
        let [k, v] = [0; 2].map(|_| grad([batch, kv_heads, keys, head_dim]));
        let bias = Tensor::<2>::random([batch, keys], Distribution::Normal(0.0, 1.0), device).require_grad();
        let mut options = options(device);
        options.key_bias = options.key_bias.map(|_| bias.clone());
        let weights = random([batch, kv_heads * group, queries, head_dim], device);
        let [ours, theirs] = [attention, portable].map(|function| {
            let output = function(q.clone(), k.clone(), v.clone(), &options);
            let gradients = (output.clone() * weights.clone()).sum().backward();
            let mut all = vec![values(output.inner())];
            all.extend([&q, &k, &v].map(|input| values(input.grad(&gradients).unwrap())));
            all.extend(options.key_bias.as_ref().map(|_| values(bias.grad(&gradients).unwrap())));
            all
        });
        for (part, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() <= 3e-5 * b.abs().max(1.0), "part {part}: {a} instead of {b}");
            }
        }
    }

    /// Both orders give the same bits, also with masks and biases and where heads share keys.
    #[test]
    fn rows_need_not_be_put_in_order() {
        let device = Device::flex();
        let [q, k, v] = [6, 2, 2].map(|heads| random([2, 70, heads, 20], &device));
        let bits = Tensor::<4>::random([2, 1, 70, 70], Distribution::Uniform(0.0, 1.0), &device);
        let bias = Tensor::<2>::random([2, 70], Distribution::Normal(0.0, 1.0), &device);
        let options = [
            Options::default(),
            Options { causal: true, window: Some(9), ..Options::default() },
            Options { key_bias: Some(bias), mask: Some(bits.greater_elem(0.4)), ..Options::default() },
        ];
        for options in options {
            let [a, b, c] = [&q, &k, &v].map(|tensor| tensor.clone().swap_dims(1, 2));
            let turned = attention(a, b, c, &options).swap_dims(1, 2);
            let straight = attention_of_rows(q.clone(), k.clone(), v.clone(), &options);
            assert_eq!(values(straight), values(turned));
        }
    }

    #[test]
    fn gradients_equal_the_formulas() {
        let device = Device::flex().autodiff();
        let none = |_: &Device| Options::default();
        let causal = |_: &Device| Options { causal: true, ..Options::default() };
        let sizes =
            |queries, keys, head_dim| Sizes { batch: 2, kv_heads: 2, group: 2, queries, keys, head_dim };
        assert_equals_portable(&sizes(5, 7, 3), &device, none);
        assert_equals_portable(&sizes(70, 70, 16), &device, causal);
        assert_equals_portable(&sizes(33, 130, 20), &device, causal);
        assert_equals_portable(&sizes(100, 61, 64), &device, none);
        let single = Sizes { batch: 1, kv_heads: 1, group: 1, queries: 200, keys: 200, head_dim: 8 };
        assert_equals_portable(&single, &device, causal);
        assert_equals_portable(&single, &Device::flex().autodiff().gradient_checkpointing(), causal);
    }

    #[test]
    fn gradients_with_window_cap_and_bias() {
        let device = Device::flex().autodiff();
        let sizes = Sizes { batch: 2, kv_heads: 2, group: 3, queries: 40, keys: 90, head_dim: 12 };
        assert_equals_portable(&sizes, &device, |_| Options {
            causal: true,
            window: Some(20),
            softcap: Some(1.5),
            key_bias: Some(Tensor::zeros([2, 90], &Device::flex())),
            scale: Some(0.7),
            ..Options::default()
        });
    }

    #[test]
    fn gradients_with_masks_of_every_shape() {
        let device = Device::flex().autodiff();
        let sizes = Sizes { batch: 2, kv_heads: 2, group: 2, queries: 9, keys: 75, head_dim: 8 };
        for [batch, heads] in [[1, 1], [2, 1], [1, 4], [2, 4]] {
            assert_equals_portable(&sizes, &device, |device| {
                let bits =
                    Tensor::<4>::random([batch, heads, 9, 75], Distribution::Uniform(0.0, 1.0), device);
                Options { mask: Some(bits.greater_elem(0.4)), causal: true, ..Options::default() }
            });
        }
    }
}
