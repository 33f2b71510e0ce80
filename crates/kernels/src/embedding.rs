//! Rows of a table by number, with the gradient scattered back.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};

use crate::op::{self, Host, Kernel, Pass};
use crate::parallel;

/// The rows `ids` of `weight` ([vocabulary, width]), as [ids, width]. Differentiable: the gradients
/// of equal ids add up, in the order of the ids.
///
/// # Panics
/// If an id is beyond the vocabulary.
pub fn embedding(weight: Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let vocabulary = weight.dims()[0];
    let beyond = ids.iter().find(|&&id| id as usize >= vocabulary);
    assert!(beyond.is_none(), "id {beyond:?} is beyond the vocabulary of {vocabulary}");
    if op::on_host(&weight) {
        return Tensor::from_dispatch(op::apply(Gather { ids: ids.into() }, [weight.into_dispatch()]));
    }
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let count = ids.len();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &weight.device());
    weight.select(0, ids)
}

#[derive(Clone, Debug)]
struct Gather {
    ids: Arc<[u32]>,
}

impl Kernel<1> for Gather {
    type Saved = ();

    fn forward(&self, [weight]: [&Host; 1]) -> (Host, ()) {
        let width = weight.dim(1);
        let mut out = Vec::with_capacity(self.ids.len() * width);
        for &id in self.ids.iter() {
            out.extend_from_slice(&weight.data()[id as usize * width..][..width]);
        }
        (Host::new([self.ids.len(), width], out), ())
    }

    fn backward(&self, pass: Pass<'_, (), 1>) -> [Option<Host>; 1] {
        let [weight] = pass.inputs;
        let (rows, width) = (weight.dim(0), weight.dim(1));
        let mut sums = vec![0.0f32; rows * width];
        let share = rows.div_ceil(parallel::threads()).max(1);
        // Each part owns some rows of the table and looks for them in all the ids.
        parallel::pieces(&mut sums, share * width.max(1), |part, sums| {
            let owned = part * share..(part + 1) * share;
            for (&id, gradient) in self.ids.iter().zip(pass.gradient.data().chunks_exact(width.max(1))) {
                if owned.contains(&(id as usize)) {
                    let row = &mut sums[(id as usize - owned.start) * width..][..width];
                    row.iter_mut().zip(gradient).for_each(|(sum, x)| *sum += x);
                }
            }
        });
        [Some(Host::new([rows, width], sums))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn rows_are_gathered_and_their_gradients_add_up() {
        let device = Device::flex().autodiff();
        let weight = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device).require_grad();
        let rows = embedding(weight.clone(), &[2, 0, 2]);
        rows.clone().into_data().assert_eq(&TensorData::from([[5.0f32, 6.0], [1.0, 2.0], [5.0, 6.0]]), true);
        let factors = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device);
        let gradient = weight.grad(&(rows * factors).sum().backward()).map(Tensor::into_data);
        assert_eq!(gradient, Some(TensorData::from([[3.0f32, 4.0], [0.0, 0.0], [6.0, 8.0]])));
    }

    #[test]
    #[should_panic(expected = "beyond the vocabulary of 2")]
    fn an_id_beyond_the_table_is_refused() {
        embedding(Tensor::<2>::zeros([2, 3], &Device::flex()), &[0, 2]);
    }
}
