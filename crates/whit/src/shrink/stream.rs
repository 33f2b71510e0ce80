//! The calibration text on its way through the model: token ids, then the hidden states that enter the
//! block that is being changed.

use burn::tensor::{Tensor, TensorData};
use whit_kernels::op;

use crate::nn::attention::{Attend, Batched, Port, Site};
use crate::nn::decoder::{DecoderConfig, Layer, Tokens};
use crate::nn::norm::Residual;
use crate::nn::rotary::Angles;

/// Sequences of tokens to calibrate with.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// Token ids, sequence by sequence.
    pub sequences: Vec<Vec<u32>>,
}

impl Calibration {
    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
}

/// The hidden states of all sequences. `[tokens, width]` each
#[derive(Debug)]
pub(super) struct Stream {
    pub hidden: Vec<Vec<f32>>,
    pub width: usize,
}

impl Stream {
    /// The embedded sequences; nothing where `embed` gives nothing.
    pub fn new(calibration: &Calibration, width: usize, embed: impl Fn(&[u32]) -> Option<Tensor<2>>) -> Self {
        let embedded = |ids: &Vec<u32>| embed(ids).map(|rows| op::host(rows).into_vec());
        Self { hidden: calibration.sequences.iter().filter_map(embedded).collect(), width }
    }

    /// Runs `layer` over every sequence; `see` is shown what enters its linear layers.
    pub fn run(
        &self,
        layer: &Layer,
        config: &DecoderConfig,
        see: &mut dyn FnMut(Port, &[f32]),
    ) -> Vec<Vec<f32>> {
        self.hidden.iter().map(|hidden| self.run_one(layer, config, hidden, see)).collect()
    }

    fn run_one(
        &self,
        layer: &Layer,
        config: &DecoderConfig,
        hidden: &[f32],
        see: &mut dyn FnMut(Port, &[f32]),
    ) -> Vec<f32> {
        let mut residual = Residual::new(rows(hidden, self.width));
        let angles = angles(config, hidden.len() / self.width);
        layer.forward(&mut residual, angles.as_ref(), &mut Tap { inner: Batched::causal(1), see });
        op::host(residual.sum()).into_vec()
    }
}

/// A tensor of rows. `[rows, width]`
pub(super) fn rows(values: &[f32], width: usize) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), [values.len() / width, width]);
    Tensor::from_data(data, &burn::tensor::Device::flex())
}

/// How a sequence of `length` tokens is turned.
pub(super) fn angles(config: &DecoderConfig, length: usize) -> Option<Angles> {
    with_positions(length, |tokens| config.angles(tokens))
}

fn with_positions<T>(length: usize, work: impl FnOnce(Tokens<'_>) -> T) -> T {
    let positions: Vec<u32> = (0..length as u32).collect();
    let lengths = vec![length as u32; length];
    work(Tokens { ids: &[], positions: &positions, lengths: &lengths })
}

/// Plain attention that shows what enters the linear layers.
pub(super) struct Tap<'a> {
    pub inner: Batched,
    pub see: &'a mut dyn FnMut(Port, &[f32]),
}

impl Attend for Tap<'_> {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        self.inner.attend(site, queries, keys, values)
    }

    fn entering(&mut self, _: usize, port: Port, rows: &Tensor<2>) {
        (self.see)(port, op::host(rows.clone()).data());
    }
}
