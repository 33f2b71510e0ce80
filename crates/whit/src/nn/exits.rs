//! Rows of a pass that go no further than some layer, while the others go on. The layers that a row skips get
//! the keys and values that they make of its state where it left (Schuster et al., 2022, arXiv 2207.07061),
//! so that later tokens find a row of it in every layer.

use burn::tensor::Tensor;

use super::attention::Attend;
use super::decoder::Decoder;
use super::norm::Residual;
use super::rotary::{Angles, rows};

/// The rows of a pass that are still on their way, and those that are not.
#[derive(Debug)]
pub struct Passing {
    /// The sum of what the layers added to the rows that go on.
    pub stream: Residual,
    /// Their turns.
    pub angles: Option<Angles>,
    /// Which rows they are.
    going: Vec<usize>,
    /// Rows that have left, with their normalised states.
    left: Vec<(Vec<usize>, Tensor<2>)>,
}

impl Passing {
    /// All rows, before the first layer.
    pub fn new(embedded: Tensor<2>, angles: Option<Angles>) -> Self {
        let going = (0..embedded.dims()[0]).collect();
        Self { stream: Residual::new(embedded), angles, going, left: Vec::new() }
    }

    /// Whether no row goes on.
    pub fn is_over(&self) -> bool {
        self.going.is_empty()
    }

    /// Asks in front of layer `layer` which rows leave, and lets them.
    pub fn part(&mut self, model: &Decoder, layer: usize, attend: &mut dyn Attend) {
        if !attend.may_leave(layer) {
            return;
        }
        let hidden = self.stream.sum();
        let leaves = attend
            .leave(layer, &hidden, &|tokens| model.logits(model.normed(hidden.clone().slice([tokens]))));
        if !leaves.contains(&true) {
            return;
        }
        let pick = |wanted: bool| -> Vec<usize> {
            leaves.iter().enumerate().filter(|(_, leaves)| **leaves == wanted).map(|(row, _)| row).collect()
        };
        let (out, on) = (pick(true), pick(false));
        let angles = self.angles.as_ref().map(|angles| angles.select(&out));
        let states = rows(&hidden, &out);
        model.fill(layer, &states, angles.as_ref(), attend);
        self.left.push((out.iter().map(|&row| self.going[row]).collect(), model.normed(states)));
        self.going = on.iter().map(|&row| self.going[row]).collect();
        if !on.is_empty() {
            self.stream = Residual::new(rows(&hidden, &on));
            self.angles = self.angles.take().map(|angles| angles.select(&on));
        }
    }

    /// The normalised states of all rows, in their order.
    pub fn finish(mut self, model: &Decoder) -> Tensor<2> {
        if self.left.is_empty() {
            return model.finish(&mut self.stream);
        }
        if !self.is_over() {
            self.left.push((self.going, model.finish(&mut self.stream)));
        }
        let order: Vec<usize> = self.left.iter().flat_map(|(rows, _)| rows.clone()).collect();
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &row)| places[row] = at);
        let states = self.left.into_iter().map(|(_, states)| states).collect();
        rows(&Tensor::cat(states, 0), &places)
    }
}
