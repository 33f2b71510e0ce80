//! What lies between the projections, for training: `a_i SiLU(u)` with its derivatives.

use burn::tensor::Tensor;

use crate::activation::Activation;
use crate::op::{self, Host, Kernel, Pass};
use crate::parallel;

/// `gates[t, i] SiLU(inner[t, i, :])`, with `inner` `[tokens, experts * size]` and `gates`
/// `[tokens, experts]`. Differentiable in both.
///
/// # Panics
/// If the sizes do not agree.
pub fn gated(inner: Tensor<2>, gates: Tensor<2>) -> Tensor<2> {
    let ([tokens, values], [rows, experts]) = (inner.dims(), gates.dims());
    assert!(tokens == rows && values.is_multiple_of(experts), "{values} values for {experts} experts");
    if op::on_host(&inner) && op::on_host(&gates) {
        return Tensor::from_dispatch(op::apply(Gated, [inner.into_dispatch(), gates.into_dispatch()]));
    }
    let open = crate::activation::silu(inner).reshape([tokens, experts, values / experts]);
    (open * gates.reshape([tokens, experts, 1])).reshape([tokens, values])
}

/// [`gated`] on slices, in place: `inner` is `[tokens, experts * size]`, `gates` `[tokens, experts]`.
///
/// # Panics
/// If the sizes do not agree.
pub fn gated_in_place(inner: &mut [f32], gates: &[f32], experts: usize) {
    let width = inner.len() / (gates.len() / experts);
    parallel::pieces(inner, width, |row, inner| {
        Activation::Silu.in_place(inner);
        scale(inner, &gates[row * experts..][..experts]);
    });
}

#[derive(Clone, Debug)]
struct Gated;

impl Kernel<2> for Gated {
    type Saved = ();

    fn forward(&self, [inner, gates]: [&Host; 2]) -> (Host, ()) {
        let mut out = inner.data().to_vec();
        gated_in_place(&mut out, gates.data(), gates.width());
        (Host::new(inner.shape(), out), ())
    }

    fn backward(&self, pass: Pass<'_, (), 2>) -> [Option<Host>; 2] {
        let [inner, gates] = pass.inputs;
        let (width, experts) = (inner.width(), gates.width());
        let row = |data: &Host, row: usize| data.data()[row * width..][..width].to_vec();
        let of_inner = || {
            let mut out = pass.gradient.data().to_vec();
            parallel::pieces(&mut out, width, |index, out| {
                let slope = Activation::Silu.backward(&row(inner, index), out);
                out.copy_from_slice(&slope);
                scale(out, &gates.data()[index * experts..][..experts]);
            });
            Host::new(inner.shape(), out)
        };
        let of_gates = || {
            let mut out = vec![0.0; gates.data().len()];
            parallel::pieces(&mut out, experts, |index, out| {
                let (mut open, gradient) = (row(inner, index), row(pass.gradient, index));
                Activation::Silu.in_place(&mut open);
                let size = width / experts;
                let pairs = open.chunks_exact(size).zip(gradient.chunks_exact(size));
                for (out, (open, gradient)) in out.iter_mut().zip(pairs) {
                    *out = open.iter().zip(gradient).map(|(open, gradient)| open * gradient).sum();
                }
            });
            Host::new(gates.shape(), out)
        };
        [pass.wanted[0].then(of_inner), pass.wanted[1].then(of_gates)]
    }
}

/// Multiplies the values of each expert with its gate.
fn scale(values: &mut [f32], gates: &[f32]) {
    let size = values.len() / gates.len();
    for (values, gate) in values.chunks_exact_mut(size).zip(gates) {
        values.iter_mut().for_each(|value| *value *= gate);
    }
}
