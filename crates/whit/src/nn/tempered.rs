//! Attention at a temperature: scores, and the relative bias in them, divided by a number of each layer.

use burn::tensor::Tensor;
use whit_kernels::block_ffn::Reach;

use super::attention::{Attend, Batched, Port, Separate, Site};
use super::block_ffn::Routing;

/// Attention whose scores may have a bias that is the same in all layers.
pub trait Biased: Attend {
    /// The bias. `[heads, tokens, tokens]`
    fn bias(&mut self) -> &mut Option<Tensor<3>>;
}

impl Biased for Batched {
    fn bias(&mut self) -> &mut Option<Tensor<3>> {
        &mut self.bias
    }
}

impl Biased for Separate {
    fn bias(&mut self) -> &mut Option<Tensor<3>> {
        &mut self.bias
    }
}

/// The attention of `inner`, the whole scores of each layer divided by its temperature. Masks stay what they are.
#[derive(Debug)]
pub struct Tempered<A> {
    inner: A,
    bias: Option<Tensor<3>>,
    temperatures: Vec<f32>,
}

impl<A: Biased> Tempered<A> {
    /// Layers behind the end of `temperatures` have temperature 1, which changes nothing.
    pub fn new(mut inner: A, temperatures: Vec<f32>) -> Self {
        let bias = inner.bias().clone();
        Self { inner, bias, temperatures }
    }

    /// The attention inside.
    pub fn into_inner(self) -> A {
        self.inner
    }
}

impl<A: Biased> Attend for Tempered<A> {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        let temperature = self.temperatures.get(site.layer).copied().unwrap_or(1.0);
        let bias = self.bias.clone();
        if temperature == 1.0 {
            *self.inner.bias() = bias;
            return self.inner.attend(site, queries, keys, values);
        }
        *self.inner.bias() = bias.map(|bias| bias / temperature);
        let site = Site { scale: site.scale / temperature, ..site.clone() };
        self.inner.attend(&site, queries, keys, values)
    }

    fn observe(&mut self, layer: usize, hidden: &mut dyn FnMut() -> Tensor<2>) {
        self.inner.observe(layer, hidden);
    }

    fn entering(&mut self, layer: usize, port: Port, rows: &Tensor<2>) {
        self.inner.entering(layer, port, rows);
    }

    fn before_block(&mut self, layer: usize, rows: Tensor<2>) -> Tensor<2> {
        self.inner.before_block(layer, rows)
    }

    fn after_attention(&mut self, layer: usize, rows: Tensor<2>) -> Tensor<2> {
        self.inner.after_attention(layer, rows)
    }

    fn route(&mut self, routing: &Routing<'_>) -> Reach {
        self.inner.route(routing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Bool, Device, Distribution, TensorData};
    use whit_kernels::op;

    const HEADS: usize = 2;
    const DIM: usize = 8;

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    fn site(layer: usize, scale: f32) -> Site {
        Site { layer, heads: HEADS, kv_heads: HEADS, head_dim: DIM, scale, window: None }
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        op::host(tensor).into_vec()
    }

    /// `softmax((scale Q Kᵀ + bias) / tau) V` with loops, over the keys below `seen`.
    fn naive(
        [queries, keys, values]: [&[f32]; 3],
        (scale, tau): (f32, f32),
        bias: &dyn Fn(usize, usize, usize) -> f32,
        (tokens, seen): (usize, usize),
    ) -> Vec<f32> {
        let row = |x: &[f32], token: usize, head: usize| x[(token * HEADS + head) * DIM..][..DIM].to_vec();
        let mut output = Vec::new();
        for query in 0..tokens {
            for head in 0..HEADS {
                let asked = row(queries, query, head);
                let score = |key: usize| {
                    let dot: f32 = asked.iter().zip(row(keys, key, head)).map(|(a, b)| a * b).sum();
                    (scale * dot + bias(head, query, key)) / tau
                };
                let weights: Vec<f32> = (0..seen).map(|key| score(key).exp()).collect();
                let sum: f32 = weights.iter().sum();
                output.extend((0..DIM).map(|at| {
                    (0..seen).map(|key| weights[key] / sum * row(values, key, head)[at]).sum::<f32>()
                }));
            }
        }
        output
    }

    #[test]
    fn temperatures_are_what_the_formula_says_with_padding_and_with_a_relative_bias() {
        let (tokens, lengths) = (9, [9, 5]);
        let [queries, keys, worth] = [(); 3].map(|()| random([2 * tokens, HEADS, DIM]));
        let bias = random([HEADS, tokens, tokens]);
        let seen: Vec<bool> = lengths
            .iter()
            .flat_map(|&length| (0..tokens * tokens).map(move |at| at % tokens < length))
            .collect();
        let mask =
            Tensor::<4, Bool>::from_data(TensorData::new(seen, [2, 1, tokens, tokens]), &Device::flex());
        let parts = [&queries, &keys, &worth].map(|part| values(part.clone()));
        for (tau, scale, biased) in
            [(0.5, 0.35, false), (0.8, 0.35, false), (0.95, 1.0, true), (0.5, 1.0, true)]
        {
            let inner =
                Batched { bias: biased.then(|| bias.clone()), ..Batched::whole(2, Some(mask.clone())) };
            let mut tempered = Tempered::new(inner, vec![1.0, tau]);
            let found =
                values(tempered.attend(&site(1, scale), queries.clone(), keys.clone(), worth.clone()));
            let of_bias = values(bias.clone());
            let added = |head: usize, query: usize, key: usize| {
                if biased { of_bias[(head * tokens + query) * tokens + key] } else { 0.0 }
            };
            let size = tokens * HEADS * DIM;
            for (text, &length) in lengths.iter().enumerate() {
                let own = parts.each_ref().map(|part| &part[text * size..][..size]);
                let wanted = naive(own, (scale, tau), &added, (tokens, length));
                // Rows of padding are nobody's.
                let used = length * HEADS * DIM;
                for (a, b) in found[text * size..][..used].iter().zip(&wanted[..used]) {
                    assert!((a - b).abs() < 1e-5, "{a} {b} at {tau}");
                }
            }
        }
    }

    #[test]
    fn temperature_1_changes_no_bit_and_the_bias_comes_back_behind_another_layer() {
        let [queries, keys, worth] = [(); 3].map(|()| random([5, HEADS, DIM]));
        let plain = || Batched {
            bias: Some(Tensor::ones([HEADS, 5, 5], &Device::flex())),
            ..Batched::whole(1, None)
        };
        let run = |attend: &mut dyn Attend, layer| {
            values(attend.attend(&site(layer, 0.3), queries.clone(), keys.clone(), worth.clone()))
        };
        let mut tempered = Tempered::new(plain(), vec![0.5]);
        assert_ne!(run(&mut tempered, 0), run(&mut plain(), 0));
        assert_eq!(run(&mut tempered, 1), run(&mut plain(), 1));
    }
}
