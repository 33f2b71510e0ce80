//! One step of AdamW (Loshchilov and Hutter, arXiv:1711.05101), fused and in place: parameter and
//! moments are read and written once.
//!
//! NaN or infinity in a gradient makes that parameter and its moments so; look at the gradient's norm
//! ([`crate::arithmetic::sum_of_squares`]) before a step.

use crate::vector::{self, Map, Vector};

/// What a step needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The learning rate, above 0.
    pub learning_rate: f32,
    /// Decay of the mean of gradients, in `0..1`.
    pub beta1: f32,
    /// Decay of the mean of their squares, in `0..1`.
    pub beta2: f32,
    /// Added to the root of the second, against division by zero.
    pub epsilon: f32,
    /// Decay of the parameter for a learning rate of 1; decoupled from the gradient.
    pub weight_decay: f32,
    /// The number of this step, from 1 on.
    pub count: u32,
}

/// Updates `parameter` and its moments `m` and `v` (zero before the first step) by `gradient`.
///
/// # Panics
/// If the lengths differ.
pub fn step(parameter: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], step: &Step) {
    step_scaled(Slices { parameter, gradient, m, v }, step, 1.0);
}

/// A parameter, its gradient and its moments, all of one length.
#[derive(Debug)]
pub struct Slices<'a> {
    /// The parameter.
    pub parameter: &'a mut [f32],
    /// The gradient of the loss by it.
    pub gradient: &'a [f32],
    /// The running mean of gradients.
    pub m: &'a mut [f32],
    /// The running mean of their squares.
    pub v: &'a mut [f32],
}

/// As [`step`], with the gradient times `factor`: clipping, or the mean of accumulated gradients,
/// without a pass of its own.
///
/// # Panics
/// If the lengths differ.
pub fn step_scaled(slices: Slices<'_>, step: &Step, factor: f32) {
    let Slices { parameter, gradient, m, v } = slices;
    let length = gradient.len();
    assert!(
        [parameter.len(), m.len(), v.len()] == [length; 3],
        "parameter, gradient and moments differ in length"
    );
    let outputs = [parameter.as_mut_ptr(), m.as_mut_ptr(), v.as_mut_ptr()];
    let [parameter, m, v] = outputs.map(|output| output.cast_const());
    let update = Update::new(step, factor);
    // SAFETY: all have `length` values; the outputs are borrowed alone, and are the last three inputs.
    unsafe { vector::apply(update, length, [gradient.as_ptr(), parameter, m, v], outputs) }
}

/// The plain step on one value: the new `(parameter, m, v)`, which the kernel is held against.
pub fn reference(step: &Step, gradient: f64, [parameter, m, v]: [f64; 3]) -> [f64; 3] {
    let [beta1, beta2] = [step.beta1, step.beta2].map(f64::from);
    let m = beta1 * m + (1.0 - beta1) * gradient;
    let v = beta2 * v + (1.0 - beta2) * gradient * gradient;
    let mean = m / (1.0 - beta1.powf(f64::from(step.count)));
    let square = v / (1.0 - beta2.powf(f64::from(step.count)));
    let rate = f64::from(step.learning_rate);
    let kept = parameter * (1.0 - rate * f64::from(step.weight_decay));
    [kept - rate * mean / (square.sqrt() + f64::from(step.epsilon)), m, v]
}

/// The step with everything that is the same for all values worked out.
#[derive(Clone, Copy)]
struct Update {
    factor: f32,
    beta1: f32,
    one_less_beta1: f32,
    beta2: f32,
    one_less_beta2: f32,
    epsilon: f32,
    /// `1 - learning_rate * weight_decay`.
    keep: f32,
    /// `learning_rate / (1 - beta1^count)`.
    rate: f32,
    /// `1 / sqrt(1 - beta2^count)`.
    correction: f32,
}

impl Update {
    fn new(step: &Step, factor: f32) -> Self {
        let count = f64::from(step.count.max(1));
        let [beta1, beta2, learning_rate] = [step.beta1, step.beta2, step.learning_rate].map(f64::from);
        Self {
            factor,
            beta1: step.beta1,
            one_less_beta1: (1.0 - beta1) as f32,
            beta2: step.beta2,
            one_less_beta2: (1.0 - beta2) as f32,
            epsilon: step.epsilon,
            keep: (1.0 - learning_rate * f64::from(step.weight_decay)) as f32,
            rate: (learning_rate / (1.0 - beta1.powf(count))) as f32,
            correction: (1.0 / (1.0 - beta2.powf(count)).sqrt()) as f32,
        }
    }
}

impl Map<4, 3> for Update {
    #[inline(always)]
    fn call<V: Vector>(self, [gradient, parameter, m, v]: [V; 4]) -> [V; 3] {
        let gradient = gradient * V::splat(self.factor);
        let m = m.mul_add(V::splat(self.beta1), gradient * V::splat(self.one_less_beta1));
        let v = v.mul_add(V::splat(self.beta2), gradient * gradient * V::splat(self.one_less_beta2));
        let root = v.sqrt().mul_add(V::splat(self.correction), V::splat(self.epsilon));
        [parameter * V::splat(self.keep) - V::splat(self.rate) * m / root, m, v]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, noise};

    const STEP: Step =
        Step { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, count: 1 };

    #[test]
    fn the_first_step_by_hand() {
        let (mut parameter, mut m, mut v) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
        step(&mut parameter, &[2.0, -0.5], &mut m, &mut v, &STEP);
        // Bias correction makes the first step the sign of the gradient; decay takes 0.001.
        assert_near(&parameter, &[0.989, 1.009], 1e-6, 1.0);
        assert_near(&m, &[0.2, -0.05], 1e-6, 1e-3);
        assert_near(&v, &[0.2, 0.0125], 1e-6, 1e-3);
    }

    #[test]
    fn many_steps_follow_the_reference() {
        let length = 40_003;
        let mut parameter = noise(length, 1, 1.0);
        let (mut m, mut v) = (vec![0.0; length], vec![0.0; length]);
        let mut wanted: Vec<[f64; 3]> = parameter.iter().map(|&x| [f64::from(x), 0.0, 0.0]).collect();
        for count in 1..=5 {
            let now = Step { count, ..STEP };
            let gradient = noise(length, 10 + u64::from(count), 0.1);
            let slices = Slices { parameter: &mut parameter, gradient: &gradient, m: &mut m, v: &mut v };
            step_scaled(slices, &now, 0.5);
            for (state, &gradient) in wanted.iter_mut().zip(&gradient) {
                *state = reference(&now, 0.5 * f64::from(gradient), *state);
            }
        }
        let column = |index: usize| wanted.iter().map(|state| state[index]).collect::<Vec<f64>>();
        assert_near(&parameter, &column(0), 3e-6, 1.0);
        assert_near(&m, &column(1), 3e-6, 1e-2);
        assert_near(&v, &column(2), 3e-6, 1e-4);
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn lengths_must_agree() {
        step(&mut [0.0; 2], &[0.0; 3], &mut [0.0; 3], &mut [0.0; 3], &STEP);
    }
}
