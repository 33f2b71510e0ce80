//! SVD-LLM (Wang et al., 2024, arXiv 2403.07378): a matrix becomes the product of two thin ones. Which
//! directions may be dropped depends on the inputs: after the matrix is multiplied with the Cholesky factor of
//! their second moments, the sum of the squared singular values that are dropped is exactly the squared
//! error of the layer's output. So the cut is made there, and the factor is divided out again.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Need,
    Paper, Resource, Room, Spec, Stage, StageKind, Stages, Value, WeightEdit,
};
use crate::nn::attention::Port;
use crate::nn::vars::{LOW_RANK_IN, LOW_RANK_OUT};
use crate::shrink::algebra::{Svd, divide_rows, product, svd, transpose};
use crate::shrink::cholesky::lower;
use crate::shrink::{Block, Form, Outcome, ShrinkError, Want, Weight};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "low-rank",
    title: "Low rank (SVD-LLM)",
    paper: Paper {
        title: "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression",
        authors: "Xin Wang, Yu Zheng, Zhongwei Wan, Mi Zhang",
        year: 2024,
        arxiv: "2403.07378",
    },
    room: Room::Weights,
    fidelity: Fidelity::Lossy,
    summary: "Each matrix of the linear layers becomes the product of two thin ones that have fewer weights together. The \
              cut is made where the inputs are white: there the singular values that are dropped say exactly what the \
              output loses on the calibration text.",
    long: LONG,
    stages: &[StageKind::WeightEdit],
    claims: &[Claim { resource: Resource::Weights, access: Access::Own }],
    knobs: &[
        Knob {
            name: "keep",
            kind: Kind::Ratio,
            default: Value::Float(0.8),
            off: Some(Value::Float(1.0)),
            help: "the two thin matrices' weights as a share of the matrix's",
        },
        Knob {
            name: "whiten",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "cut where the inputs are white; without it, a plain singular value decomposition",
        },
        Knob {
            name: "merge",
            kind: Kind::Flag,
            default: Value::Flag(false),
            off: None,
            help: "write the product as one matrix again: loads anywhere, but is no smaller and no faster",
        },
    ],
    needs: &[Need::Calibration("some text of the kind that the model is for; 256 sequences in the paper")],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "LLaMA-7B, WikiText-2, 20 % of the weights removed",
        metric: "perplexity",
        baseline: "5.68 (dense), 20061 (plain SVD)",
        result: "7.94",
    }],
    build,
};

const LONG: &str = "\
## How it works

For a matrix `W` `[out, in]` and the second moments `G = sum x x^T` of its inputs, `L L^T = G` and `W L = U S V^T`. With
`k = floor(out * in * keep / (out + in))` the matrix becomes `A B`, `A = U_k S_k^(1/2)` `[out, k]` and
`B = S_k^(1/2) V_k^T L^-1` `[k, in]`. The squared error of the outputs on the text is the sum of the squares of the
singular values that are left out.

## What is written

The two matrices, as `NAME.low_rank_out.weight` and `NAME.low_rank_in.weight` in the place of `NAME.weight`. These keys are
Whit's own: Whit runs the layer as two multiplications. Other programs do not know them; transformers only warns, and
puts random numbers in the layer's place. `merge` writes `A B`
as `NAME.weight`, which loads anywhere, and saves nothing; a .gguf file needs it too.

## When it pays

`keep` below a half is needed before speed shows, and few models bear that; at 0.8 a token takes about as long as before.
Pruning (`sparsegpt`) loses less at the same size. The decomposition takes seconds at widths of hundreds and very long at
thousands.

## What is ours

The rank is the same share for every matrix; the paper's second pass, which fits `A` again by least squares, and its
fine-tuning are not built.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let keep = knobs.float("keep");
    if keep <= 0.0 {
        let reason = "a share of 0 keeps nothing; choose one above 0".into();
        return Err(MethodError::Unfit { method: SPEC.id, knob: "keep", value: keep.to_string(), reason });
    }
    Ok(Arc::new(LowRank {
        keep,
        whiten: knobs.flag("whiten"),
        merge: knobs.flag("merge"),
        ranks: Vec::new(),
    }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct LowRank {
    keep: f64,
    whiten: bool,
    merge: bool,
    ranks: Vec<usize>,
}

impl Method for LowRank {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        let kept = if self.merge { 100.0 } else { 100.0 * self.keep };
        format!("{kept:.0} % of the weights of the blocks are written")
    }
}

impl WeightEdit for LowRank {
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        for port in Port::ALL {
            let names = block.matrices(port);
            let Some(first) = names.first() else { continue };
            let root = self.root(block, port, first)?;
            for name in &names {
                self.factorise(block, name, root.as_deref())?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, outcome: &mut Outcome) -> Result<(), ShrinkError> {
        let (least, most) = (self.ranks.iter().min(), self.ranks.iter().max());
        if let (Some(least), Some(most)) = (least, most) {
            outcome
                .report
                .notes
                .push(format!("{} matrices have ranks from {least} to {most}", self.ranks.len()));
        }
        Ok(())
    }
}

impl LowRank {
    /// The factor `L` of the second moments of what enters `port`, if it is wanted.
    fn root(&self, block: &Block<'_>, port: Port, name: &str) -> Result<Option<Vec<f64>>, ShrinkError> {
        if !self.whiten {
            return Ok(None);
        }
        let seen = block.inputs(port, Want::Gram)?;
        let refused = || ShrinkError::NotPositive { tensor: block.full_name(name), damping: DAMPING };
        positive_root(seen.gram, seen.squares.len()).ok_or_else(refused).map(Some)
    }

    fn factorise(
        &mut self,
        block: &mut Block<'_>,
        name: &str,
        root: Option<&[f64]>,
    ) -> Result<(), ShrinkError> {
        let weight = block.get(name)?;
        let (outputs, inputs) = (weight.outputs(), weight.inputs());
        let rank = ((outputs * inputs) as f64 * self.keep / (outputs + inputs) as f64) as usize;
        let values: Vec<f64> = weight.values.iter().map(|&w| f64::from(w)).collect();
        let thin = Thin::new(&values, outputs, inputs, rank.max(1), root);
        self.ranks.push(thin.rank);
        if self.merge {
            return block.set_values(name, single(&thin.product(inputs)), Form::Dense);
        }
        block.remove(name);
        let stem = name.trim_end_matches("weight");
        let matrix = |outputs, inputs, values: &[f64]| Weight {
            shape: vec![outputs, inputs],
            values: single(values),
            form: Form::Dense,
        };
        block.set(&format!("{stem}{LOW_RANK_OUT}.weight"), matrix(outputs, thin.rank, &thin.out));
        block.set(&format!("{stem}{LOW_RANK_IN}.weight"), matrix(thin.rank, inputs, &thin.into));
        Ok(())
    }
}

/// What the diagonal gets before it is given up, as a share of its mean.
const DAMPING: f64 = 1e-6;

/// The lower Cholesky factor of second moments, which get a little more on the diagonal if they need it.
fn positive_root(mut gram: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let mean = (0..n).map(|i| gram[i * n + i]).sum::<f64>() / n.max(1) as f64;
    lower(&gram, n).or_else(|| {
        (0..n).for_each(|i| gram[i * n + i] += DAMPING * mean);
        lower(&gram, n)
    })
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

/// A matrix as the product of two thin ones.
#[derive(Debug)]
struct Thin {
    rank: usize,
    out: Vec<f64>,  // [outputs, rank]
    into: Vec<f64>, // [rank, inputs]
}

impl Thin {
    /// The best product of `rank` for inputs whose second moments are `root . root^T`; for white ones without.
    fn new(weight: &[f64], outputs: usize, inputs: usize, rank: usize, root: Option<&[f64]>) -> Self {
        let white = match root {
            Some(root) => product(weight, root, inputs, inputs),
            None => weight.to_vec(),
        };
        let Svd { left, values, right } = svd(&white, outputs, inputs);
        let rank = rank.min(values.len());
        let scaled = |rows: &[f64], width: usize| -> Vec<f64> {
            rows[..rank * width]
                .iter()
                .enumerate()
                .map(|(at, value)| value * values[at / width].sqrt())
                .collect()
        };
        let mut into = scaled(&right, inputs);
        if let Some(root) = root {
            divide_rows(root, inputs, &mut into);
        }
        Self { rank, out: transpose(&scaled(&left, outputs), outputs), into }
    }

    fn product(&self, inputs: usize) -> Vec<f64> {
        product(&self.out, &self.into, self.rank, inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Dtype, Options, open};
    use crate::shrink::Statistics;
    use crate::shrink::testing::{calibration, logits, model, network, shrunk};
    use crate::shrink::write;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Numbers from -1 to 1 that look random.
    fn noise(count: usize, seed: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed as u64);
        (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn the_outputs_error_is_what_was_dropped_and_never_more_than_plain_svds() {
        let (outputs, inputs) = (12, 20);
        let weight: Vec<f64> = noise(outputs * inputs, 1).iter().map(|&w| f64::from(w)).collect();
        let mut seen = Statistics::new(inputs, Want::Gram);
        for row in 0..60 {
            let x: Vec<f32> =
                noise(inputs, row).iter().enumerate().map(|(i, x)| x * (1 + i % 5) as f32).collect();
            seen.add(&x);
        }
        let root = positive_root(seen.gram.clone(), inputs).unwrap();
        let values = svd(&product(&weight, &root, inputs, inputs), outputs, inputs).values;
        let error = |rank, root| {
            let found = Thin::new(&weight, outputs, inputs, rank, root).product(inputs);
            let difference: Vec<f32> = weight.iter().zip(found).map(|(a, b)| (a - b) as f32).collect();
            seen.output_error(&difference)
        };
        for rank in 1..outputs {
            let dropped: f64 = values[rank..].iter().map(|s| s * s).sum();
            let (ours, plain) = (error(rank, Some(&root)), error(rank, None));
            assert!((ours / dropped - 1.0).abs() < 1e-3, "rank {rank}: {ours} for {dropped}");
            assert!(ours <= plain * (1.0 + 1e-9), "rank {rank}: {ours} above {plain}");
        }
        assert!(error(outputs, Some(&root)) < 1e-9 * values[0].powi(2), "the full rank loses nothing");
    }

    #[test]
    fn two_thin_matrices_run_as_their_product_does() {
        let (place, files) = (tempfile::tempdir().unwrap(), model(3));
        let ids = &calibration(1).sequences[0];
        let run = |with: &str, folder: &str| {
            let outcome = shrunk(&files, with, 4).unwrap();
            let folder = place.path().join(folder);
            write::folder(&files, &outcome, &folder, write::Numbers { plain: Dtype::F32, packing: None })
                .unwrap();
            let opened = open(folder.to_str().unwrap(), &Options::default()).unwrap();
            let name = "model.layers.0.mlp.up_proj.low_rank_in.weight";
            let shape = opened.weights.info(name).map(|info| info.shape);
            (logits(&network(&opened.config, opened.weights.as_ref()), ids), shape)
        };
        let (thin, shape) = run("low-rank:keep=0.5", "thin");
        assert_eq!(shape, Some(vec![96 * 64 / 2 / 160, 64]));
        let (merged, shape) = run("low-rank:keep=0.5,merge", "merged");
        assert_eq!(shape, None);
        let largest = merged.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(thin.iter().zip(&merged).all(|(a, b)| (a - b).abs() < 1e-3 * largest));
    }

    #[test]
    fn more_weights_err_less_and_nothing_kept_is_refused() {
        let files = model(3);
        let error = |with: &str| shrunk(&files, with, 4).unwrap().report.block_errors.iter().sum::<f64>();
        assert!(error("low-rank:keep=0.9") < error("low-rank:keep=0.4"));
        assert!(error("low-rank:keep=0.5") < error("low-rank:keep=0.5,whiten=false"));
        assert!(shrunk(&files, "low-rank:keep=0", 4).is_err());
        assert!(shrunk(&files, "low-rank", 0).is_err());
    }
}
