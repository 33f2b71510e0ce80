use proptest::prelude::*;

use super::*;
use crate::linear::WeightType;
use crate::testing::{assert_near, assert_same_slopes, noise, tracked};

/// A block with its input and sparse gates, one of which is negative and one row without any.
struct Case {
    sizes: Sizes,
    up: Vec<f32>,
    down: Vec<f32>,
    x: Vec<f32>,
    gates: Vec<f32>,
}

impl Case {
    fn new(sizes: Sizes, rows: usize, active: f32) -> Self {
        let Sizes { experts, size, width } = sizes;
        let deviation = (width as f32).powf(-0.5);
        let cut = |value: f32| if (value * 1e3).abs().fract() < active { value } else { 0.0 };
        let mut gates: Vec<f32> = noise(rows * experts, 3, 1.0).into_iter().map(cut).collect();
        if rows > 1 {
            gates[..experts].fill(0.0);
        }
        Self {
            sizes,
            up: noise(experts * size * width, 1, deviation),
            down: noise(experts * size * width, 2, deviation),
            x: noise(rows * width, 4, 1.0),
            gates,
        }
    }

    fn packed(&self, kind: WeightType) -> Packed {
        Packed::pack(&self.up, &self.down, self.sizes, kind).unwrap()
    }

    fn run(&self, packed: &Packed, reach: &Reach) -> (Vec<f32>, Touched) {
        let mut out = vec![f32::NAN; self.x.len()];
        let touched = packed.forward(&self.x, &self.gates, reach, &mut out).unwrap();
        (out, touched)
    }

    /// What the formula gives, and the largest of it.
    fn formula(&self) -> (Vec<f64>, f64) {
        let values = self.reference();
        let largest = values.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        (values, largest)
    }

    fn reference(&self) -> Vec<f64> {
        reference(self.sizes, [&self.up, &self.down], &self.x, &self.gates)
    }
}

#[test]
fn a_block_worked_by_hand() {
    // Two experts of one inner value each; the second is off. SiLU(1) = 0.7310586.
    let sizes = Sizes { experts: 2, size: 1, width: 2 };
    let packed = Packed::pack(&[1.0, 0.0, 0.0, 1.0], &[1.0, 5.0, 2.0, 7.0], sizes, WeightType::F32).unwrap();
    let mut out = [0.0; 2];
    let touched = packed.forward(&[1.0, 3.0], &[-2.0, 0.0], &Reach::Active, &mut out).unwrap();
    assert_near(&out, &[-1.4621171572600098, -2.9242343145200196], 1e-6, 1.0);
    assert_eq!(touched, Touched { experts: 1, pairs: 1 });
}

#[test]
fn the_union_of_the_tokens_is_read() {
    let sizes = Sizes { experts: 4, size: 3, width: 5 };
    let mut case = Case::new(sizes, 3, 0.0);
    case.gates = vec![0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0];
    let packed = case.packed(WeightType::F32);
    assert_eq!(case.run(&packed, &Reach::Active).1, Touched { experts: 2, pairs: 3 });
    assert_eq!(case.run(&packed, &Reach::All).1, Touched { experts: 4, pairs: 12 });
    let marked = Reach::Marked(vec![true, false, true]);
    assert_eq!(case.run(&packed, &marked).1, Touched { experts: 4, pairs: 5 });
    assert_eq!(packed.bytes(), 4 * packed.expert_bytes());
}

#[test]
fn no_expert_gives_zero() {
    let mut case = Case::new(Sizes { experts: 3, size: 4, width: 8 }, 2, 0.5);
    case.gates.fill(0.0);
    let (out, touched) = case.run(&case.packed(WeightType::F32), &Reach::Active);
    assert_eq!((out, touched), (vec![0.0; 16], Touched::default()));
}

#[test]
fn wrong_sizes_and_gates_are_errors() {
    let sizes = Sizes { experts: 2, size: 3, width: 4 };
    let pack = |up: usize, down: usize, sizes| {
        Packed::pack(&vec![0.0; up], &vec![0.0; down], sizes, WeightType::F32).map(|_| ()).unwrap_err()
    };
    assert_eq!(pack(23, 24, sizes), BlockFfnError::Shape { which: "up_proj", sizes, wanted: 24, found: 23 });
    assert_eq!(
        pack(24, 20, sizes),
        BlockFfnError::Shape { which: "down_proj", sizes, wanted: 24, found: 20 }
    );
    let none = Sizes { experts: 0, ..sizes };
    assert_eq!(pack(0, 0, none), BlockFfnError::Sizes(none));
    let case = Case::new(sizes, 2, 1.0);
    let mut gates = case.gates.clone();
    gates[3] = f32::INFINITY;
    let packed = case.packed(WeightType::F32);
    let refusal = packed.forward(&case.x, &gates, &Reach::Active, &mut [0.0; 8]).unwrap_err();
    assert_eq!(refusal, BlockFfnError::Gate { row: 1, expert: 1, value: f32::INFINITY });
    gates[2] = f32::NAN;
    let refusal = packed.forward(&case.x, &gates, &Reach::All, &mut [0.0; 8]).unwrap_err().to_string();
    assert!(refusal.contains("expert 0 for token 1 is NaN"), "{refusal}");
}

#[test]
fn every_type_holds_every_size() {
    for kind in WeightType::ALL {
        for size in [7, 32] {
            let case = Case::new(Sizes { experts: 5, size, width: 96 }, 4, 0.4);
            let packed = case.packed(kind);
            let (sparse, _) = case.run(&packed, &Reach::Active);
            let (dense, _) = case.run(&packed, &Reach::All);
            assert_eq!(sparse, dense, "{kind}");
            let (wanted, scale) = case.formula();
            let tolerance = if kind == WeightType::F32 { 1e-5 } else { 0.2 };
            assert_near(&sparse, &wanted, tolerance, scale);
        }
    }
}

#[test]
fn gradients_equal_burns_own() {
    let (inner, gates) = (noise(3 * 8, 5, 1.0), noise(3 * 4, 6, 1.0));
    let theirs = |[inner, gates]: [burn::tensor::Tensor<2>; 2]| {
        let open = inner.clone() * burn::tensor::activation::sigmoid(inner);
        (open.reshape([3, 4, 2]) * gates.reshape([3, 4, 1])).reshape([3, 8])
    };
    let inputs = [tracked(&inner, [3, 8]), tracked(&gates, [3, 4])];
    assert_same_slopes(inputs, |[inner, gates]| gated(inner, gates), theirs, 1e-5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sparse_equals_dense_and_the_formula(
        experts in 1usize..70, size in 1usize..40, width in 1usize..150,
        rows in prop::sample::select(vec![1usize, 5, 8, 32, 81, 130]), active in 0.0f32..1.0,
    ) {
        let case = Case::new(Sizes { experts, size, width }, rows, active);
        let packed = case.packed(WeightType::F32);
        let (sparse, touched) = case.run(&packed, &Reach::Active);
        let (dense, all) = case.run(&packed, &Reach::All);
        prop_assert_eq!(&sparse, &dense);
        prop_assert!(touched.pairs <= all.pairs && all.pairs == rows * experts);
        // A sum of thousands of terms is as exact as the largest of its kind, not as itself.
        let (wanted, floor) = case.formula();
        assert_near(&sparse, &wanted, 1e-5, floor.max(1.0));
        // A token has the same bits alone.
        for row in [0, rows / 2, rows - 1] {
            let mut alone = vec![0.0; width];
            let (x, gates) = (&case.x[row * width..][..width], &case.gates[row * experts..][..experts]);
            packed.forward(x, gates, &Reach::Active, &mut alone).unwrap();
            prop_assert_eq!(&alone[..], &sparse[row * width..][..width]);
        }
    }
}
