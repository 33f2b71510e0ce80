use super::counts::Count;
use super::*;
use crate::methods::reducers::Images;
use crate::methods::reducers::testing::{plan, vision_in};
use crate::nn::reduce::{Reduce, Reducing};
use crate::nn::vars::Storage;
use burn::tensor::Device;
use burn::tensor::Distribution;

fn cost() -> VisionCost {
    VisionCost::of(vision_in(6, &Storage::Dense(Device::flex())).config())
}

fn counts(keep: f64) -> Counts {
    Counts::new(cost(), Search { keep, ..Search::default() }).unwrap()
}

fn value(tensor: &Tensor<1>) -> f32 {
    op::host(tensor.clone()).data()[0]
}

/// Logits that make `patches` nearly certain.
fn sure(counts: &mut Counts, chosen: &[[usize; 2]]) {
    let candidates = counts.candidates();
    for (pair, patches) in counts.logits.iter_mut().zip(chosen) {
        for (logits, &patches) in pair.iter_mut().zip(patches) {
            let near = |candidate: &f32| if (*candidate - patches as f32).abs() < 0.5 { 30.0 } else { 0.0 };
            logits.values = candidates.patches.iter().map(near).collect();
        }
    }
}

#[test]
fn survival_falls_with_the_rank_and_the_count_is_its_sum() {
    let leaves = counts(0.6).begin(&Device::flex().autodiff());
    let count = &leaves[0][0];
    let survives = op::host(count.survives.clone()).into_vec();
    assert!(survives.windows(2).all(|pair| pair[1] <= pair[0]));
    assert!((survives[0] - 1.0).abs() < 1e-6, "the class token is always there");
    // Equal chances of 64, 60, ..., 4 patches: 34 on average, and the class token.
    assert_eq!((count.whole, value(&count.kept)), (35, 35.0));
}

/// The gradient of the cost by finite differences of the formula without rounding.
#[test]
fn the_gradient_of_the_cost_is_that_of_the_formula() {
    let device = Device::flex().autodiff();
    let mut counts = counts(0.6);
    sure(&mut counts, &[[48, 48], [40, 40], [32, 32], [24, 24], [16, 16]]);
    for (at, logits) in counts.logits.iter_mut().flatten().enumerate() {
        logits
            .values
            .iter_mut()
            .enumerate()
            .for_each(|(i, value)| *value = *value * 0.1 + ((i + at) as f32).sin());
    }
    let leaves = counts.begin(&device);
    let gradients = counts.share(&leaves, &device).backward();
    let expected = |counts: &Counts| -> Vec<[f64; 2]> {
        let leaves = counts.begin(&device);
        let mean = |count: &Count| f64::from(op::host(count.survives.clone().sum()).data()[0]);
        leaves.iter().map(|pair| pair.each_ref().map(mean)).collect()
    };
    let (cost, base) = (counts.cost, expected(&counts));
    // What each block leaves moves with the sum of its two counts, from where rounding put it.
    let share = |now: &[[f64; 2]]| {
        let (width, inner) = (cost.width as f64, cost.feed_forward as f64);
        let mut tokens = cost.tokens() as f64;
        let mut sum = 0.0;
        let mut least = tokens;
        for layer in 0..cost.layers {
            sum += 4.0 * tokens * width * width + 2.0 * tokens * tokens * width;
            if layer > 0 {
                let [pair, start] = [now[layer - 1], base[layer - 1]];
                let whole = leaves[layer - 1].each_ref().map(|count| count.whole as f64);
                least = least.min(whole[0]).min(whole[1]);
                tokens = least + pair[0] - start[0] + pair[1] - start[1];
            }
            sum += 2.0 * tokens * width * inner;
        }
        sum / cost.dense() as f64
    };
    for (layer, which, at) in [(0, 0, 3), (2, 1, 8), (4, 0, 12)] {
        let gradient = f64::from(op::host(leaves[layer][which].logits.grad(&gradients).unwrap()).data()[at]);
        let moved = |by: f32| {
            let mut moved = counts.clone();
            moved.logits[layer][which].values[at] += by;
            share(&expected(&moved))
        };
        let difference = (moved(0.05) - moved(-0.05)) / 0.1;
        assert!((gradient - difference).abs() < 0.01 * difference.abs(), "{gradient} {difference}");
    }
}

#[test]
fn the_cost_alone_leads_to_the_wanted_cost() {
    for keep in [0.4, 0.8] {
        let device = Device::flex().autodiff();
        let mut counts = counts(keep);
        for step in 0..300 {
            let leaves = counts.begin(&device);
            let distance = counts.share(&leaves, &device) - keep;
            counts.step(&leaves, distance.clone() * distance * PRESSURE, step);
        }
        let rates = counts.rates();
        rates.check(6).unwrap();
        let share = 1.0 - counts.cost.saved(&rates.left());
        assert!((share / keep - 1.0).abs() < 0.02, "{share} instead of {keep}: {rates}");
    }
}

/// Masking all through the blocks is what removing is.
#[test]
fn a_masked_pass_equals_one_with_fewer_tokens() {
    let device = Device::flex().autodiff();
    let model = vision_in(6, &Storage::Dense(device.clone())).no_grad();
    let pixels = Tensor::<4>::random([3, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
    for chosen in
        [[[48, 64], [48, 64], [32, 64], [24, 64], [8, 64]], [[64, 60], [52, 48], [48, 40], [40, 20], [16, 4]]]
    {
        let mut counts = counts(0.6);
        sure(&mut counts, &chosen);
        let leaves = counts.begin(&device);
        let mut pass = Masked::new(&leaves, 1, 1);
        let masked = op::host(pass.scores(&model, pixels.clone()).unwrap()).into_vec();
        let mask = op::host(pass.mask.clone().unwrap()).into_vec();
        assert!(mask.iter().all(|value| *value == 0.0 || *value == 1.0));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rates.json");
        std::fs::write(&path, counts.rates().to_json()).unwrap();
        let plan = plan(&format!("diffrate:schedule={}", path.display()), 6).unwrap();
        let mut images = Images::new((0..3).map(|_| plan.begin().reducer.unwrap()).collect(), 1);
        let hidden = model.forward(pixels.clone(), &mut Reducing::new(3, &mut images));
        images.finish().unwrap();
        assert_eq!(images.tokens(), *counts.rates().left().last().unwrap());
        let reduced = op::host(model.logits(&hidden, images.sizes()).unwrap().logits).into_vec();
        for (a, b) in masked.iter().zip(&reduced) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
    }
}

/// The loss of the model reaches the counts through the masks.
#[test]
fn a_search_learns_and_ends_at_the_wanted_cost() {
    let device = Device::flex().autodiff();
    let model = vision_in(3, &Storage::Dense(device.clone()));
    let cost = VisionCost::of(model.config());
    let pixels = Tensor::<4>::random([2, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
    let mut seen = Vec::new();
    let search = Search { keep: 0.7, steps: 30, learning_rate: 0.1, ..Search::default() };
    let mut examples = |_| Ok(Examples { pixels: pixels.clone(), labels: None });
    let rates = learn(model, search, &mut examples, &mut |step| seen.push(*step)).unwrap();
    assert_eq!((seen.len(), rates.prune[0]), (30, 65));
    assert!(seen.iter().all(|step| step.loss.is_finite()));
    assert!((cost.saved(&rates.left()) - 0.3).abs() < 0.08, "{rates}");
}

#[test]
fn a_search_that_only_merges_prunes_nothing() {
    let device = Device::flex().autodiff();
    let model = vision_in(3, &Storage::Dense(device.clone()));
    let pixels = Tensor::<4>::random([2, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
    let search = Search { keep: 0.7, steps: 30, learning_rate: 0.1, merge_only: true, ..Search::default() };
    let mut examples = |_| Ok(Examples { pixels: pixels.clone(), labels: None });
    let rates = learn(model, search, &mut examples, &mut |_| ()).unwrap();
    let before: Vec<usize> = std::iter::once(65).chain(rates.merge.iter().copied()).take(3).collect();
    assert_eq!(rates.prune, before, "{rates}");
    assert!(rates.merge[2] < 65);
}

#[test]
fn what_cannot_be_reached_is_refused() {
    for search in [
        Search { keep: 1.1, ..Search::default() },
        Search { keep: 0.01, ..Search::default() },
        Search { granularity: 0, ..Search::default() },
        Search { spared: 6, ..Search::default() },
    ] {
        assert!(matches!(Counts::new(cost(), search), Err(TrainError::Setting(_))), "{search:?}");
    }
}
