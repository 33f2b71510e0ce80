//! One block of a model, open for changes.

use std::collections::BTreeMap;
use std::ops::Range;

use whit_kernels::linear::WeightType;
use whit_kernels::op;

use super::form::{Form, Levels};
use super::statistics::{Statistics, Want};
use super::stream::{Stream, Tap, angles, rows};
use super::{ShrinkError, report::Line};
use crate::load::Checkpoint;
use crate::nn::attention::{Batched, Port};
use crate::nn::decoder::{DecoderConfig, Layer};
use crate::nn::vars::{Init, Precision, Source, Storage, Vars, VarsError};

/// A tensor of a block, in `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The sizes of its axes, `[outputs, inputs]` for a matrix.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
    /// How the values can be stored.
    pub form: Form,
}

impl Weight {
    /// Rows.
    pub fn outputs(&self) -> usize {
        self.shape[0]
    }

    /// Values in a row.
    pub fn inputs(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// A block of a model, with the inputs that the changed blocks before it give. Tensors have their
/// names below `model.layers.N.`, as `self_attn.q_proj.weight`.
#[derive(Debug)]
pub struct Block<'a> {
    /// Which one, from zero.
    pub index: usize,
    /// What the block is; a change of its sizes is made here too.
    pub config: DecoderConfig,
    tensors: BTreeMap<String, Weight>,
    before: BTreeMap<String, Weight>,
    config_before: DecoderConfig,
    stream: &'a Stream,
}

impl<'a> Block<'a> {
    /// Reads block `index` of a checkpoint.
    pub(super) fn read(
        index: usize,
        config: &DecoderConfig,
        weights: &dyn Checkpoint,
        names: &[String],
        stream: &'a Stream,
    ) -> Result<Self, ShrinkError> {
        let prefix = prefix(index);
        let mut tensors = BTreeMap::new();
        for name in names {
            let Some(own) = name.strip_prefix(&prefix) else { continue };
            let tensor = weights.read(name)?;
            if tensor.dtype.is_float() {
                let values = tensor.to_f32(name)?;
                tensors.insert(own.to_owned(), Weight { shape: tensor.shape, values, form: Form::Dense });
            }
        }
        Ok(Self {
            index,
            config: config.clone(),
            before: tensors.clone(),
            config_before: config.clone(),
            tensors,
            stream,
        })
    }

    /// The name that tensor `name` has in the model.
    pub fn full_name(&self, name: &str) -> String {
        prefix(self.index) + name
    }

    /// The names of the matrices (`....weight`) that read the rows of `port`, in the order of the block.
    pub fn matrices(&self, port: Port) -> Vec<String> {
        let parts: &[&str] = match port {
            Port::Attention => &["q_proj.weight", "k_proj.weight", "v_proj.weight"],
            Port::Output => &["o_proj.weight"],
            Port::FeedForward => &["gate_proj.weight", "up_proj.weight", "w1.weight", "w3.weight"],
            Port::Down => &["down_proj.weight", "w2.weight"],
        };
        let ending = |part: &str| -> Vec<String> {
            self.tensors.keys().filter(|name| name.ends_with(part)).cloned().collect()
        };
        parts.iter().flat_map(|part| ending(part)).collect()
    }

    /// All matrices that [`matrices`](Self::matrices) gives, port after port.
    pub fn all_matrices(&self) -> Vec<String> {
        Port::ALL.into_iter().flat_map(|port| self.matrices(port)).collect()
    }

    /// The norm whose output enters `port`, where it is a norm.
    pub fn norm_before(&self, port: Port) -> Option<&'static str> {
        match port {
            Port::Attention => Some("input_layernorm"),
            Port::FeedForward => Some("post_attention_layernorm"),
            Port::Output | Port::Down => None,
        }
    }

    /// A tensor.
    ///
    /// # Errors
    /// If the block has none of this name.
    pub fn get(&self, name: &str) -> Result<&Weight, ShrinkError> {
        self.tensors
            .get(name)
            .ok_or_else(|| ShrinkError::unfit(self.full_name(name), "the block has no such tensor"))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Puts a tensor in the place of another or anew.
    pub fn set(&mut self, name: &str, weight: Weight) {
        self.tensors.insert(name.to_owned(), weight);
    }

    /// Puts new values into a tensor, which keeps its shape and becomes plain.
    ///
    /// # Errors
    /// If there is no such tensor, or it has another number of values.
    pub fn set_values(&mut self, name: &str, values: Vec<f32>, form: Form) -> Result<(), ShrinkError> {
        let shape = self.get(name)?.shape.clone();
        if shape.iter().product::<usize>() != values.len() {
            return Err(ShrinkError::unfit(self.full_name(name), "its new values do not fill its shape"));
        }
        self.set(name, Weight { shape, values, form });
        Ok(())
    }

    /// Puts quantised values into a matrix.
    ///
    /// # Errors
    /// As [`set_values`](Self::set_values).
    pub fn set_levels(&mut self, name: &str, levels: Levels) -> Result<(), ShrinkError> {
        self.set_values(name, levels.values(), Form::Levels(levels))
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<Weight> {
        self.tensors.remove(name)
    }

    /// Whether there is text to calibrate with.
    pub fn is_calibrated(&self) -> bool {
        !self.stream.hidden.is_empty()
    }

    /// The statistics of the rows that enter `port`, with the block as it is now: in the order of the
    /// ports each sees what the changed ones before it give.
    ///
    /// # Errors
    /// If there is no calibration text, or the block is a mixture of experts.
    pub fn inputs(&self, port: Port, want: Want) -> Result<Statistics, ShrinkError> {
        let mut found: Option<Statistics> = None;
        self.see(port, &mut |rows, width| {
            found.get_or_insert_with(|| Statistics::new(width, want)).add(rows);
        })?;
        found.ok_or_else(|| self.uncalibrated())
    }

    /// The rows that enter `port`, sequence by sequence, of which at most `most` tokens are kept, evenly spread.
    ///
    /// # Errors
    /// As [`inputs`](Self::inputs).
    pub fn rows(&self, port: Port, most: usize) -> Result<Vec<f32>, ShrinkError> {
        let mut all = Vec::new();
        let total: usize = self.stream.hidden.iter().map(|hidden| hidden.len() / self.config.width).sum();
        let (step, mut at) = (total.div_ceil(most.max(1)), 0);
        self.see(port, &mut |rows, width| {
            for row in rows.chunks_exact(width) {
                if at % step.max(1) == 0 {
                    all.extend_from_slice(row);
                }
                at += 1;
            }
        })?;
        Ok(all)
    }

    /// The rows that enter `port`, one list for each sequence.
    ///
    /// # Errors
    /// As [`inputs`](Self::inputs).
    pub fn sequences(&self, port: Port) -> Result<Vec<Vec<f32>>, ShrinkError> {
        let mut all = Vec::new();
        self.see(port, &mut |rows, _| all.push(rows.to_vec()))?;
        Ok(all)
    }

    fn see(&self, wanted: Port, work: &mut dyn FnMut(&[f32], usize)) -> Result<(), ShrinkError> {
        if !self.is_calibrated() {
            return Err(self.uncalibrated());
        }
        let name = self.matrices(wanted).into_iter().next().unwrap_or_default();
        let width = self.get(&name)?.inputs();
        if self.config.experts.is_some() && matches!(wanted, Port::FeedForward | Port::Down) {
            let reason = "calibration of mixtures of experts is not supported; `rtn` needs none";
            return Err(ShrinkError::unfit(self.full_name(&name), reason));
        }
        let mut see = |port: Port, rows: &[f32]| {
            if port == wanted {
                work(rows, width);
            }
        };
        self.stream.run(&self.layer()?, &self.config, &mut see);
        Ok(())
    }

    fn uncalibrated(&self) -> ShrinkError {
        ShrinkError::Calibration {
            reason: "the method needs text to calibrate with, and there is none".into(),
        }
    }

    /// What the block gives for all sequences, as it is now.
    ///
    /// # Errors
    /// If its tensors do not fit its configuration.
    pub fn outputs(&self) -> Result<Vec<Vec<f32>>, ShrinkError> {
        Ok(self.stream.run(&self.layer()?, &self.config, &mut |_, _| {}))
    }

    /// The output of the attention (for [`Port::Attention`]) or the feed-forward (for
    /// [`Port::FeedForward`]) for rows as [`sequences`](Self::sequences) gives them.
    ///
    /// # Errors
    /// As [`outputs`](Self::outputs).
    pub fn module(&self, port: Port, sequences: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, ShrinkError> {
        let layer = self.layer()?;
        let width = self.config.width;
        let one = |values: &Vec<f32>| {
            let mut tap = Tap { inner: Batched::causal(1), see: &mut |_, _| {} };
            let x = rows(values, width);
            let angles = angles(&self.config, values.len() / width);
            let output = match port {
                Port::Attention | Port::Output => layer.attention(x, angles.as_ref(), &mut tap),
                Port::FeedForward | Port::Down => layer.feed_forward(x, &mut tap),
            };
            op::host(output).into_vec()
        };
        Ok(sequences.iter().map(one).collect())
    }

    /// The block as a part of a network, in `f32`.
    ///
    /// # Errors
    /// As [`outputs`](Self::outputs).
    pub fn layer(&self) -> Result<Layer, ShrinkError> {
        let storage = Storage::Packed(Precision::Fixed(WeightType::F32));
        Ok(Layer::new(&self.config, self.index, &Vars::new(&Named(&self.tensors), &storage))?)
    }

    /// The share of what the block adds to the stream that its changes got wrong, and what it gives now.
    pub(super) fn compare(&self) -> Result<(f64, Vec<Vec<f32>>), ShrinkError> {
        let after = self.outputs()?;
        let storage = Storage::Packed(Precision::Fixed(WeightType::F32));
        let layer = Layer::new(&self.config_before, self.index, &Vars::new(&Named(&self.before), &storage))?;
        let before = self.stream.run(&layer, &self.config_before, &mut |_, _| {});
        let (mut wrong, mut all) = (0.0, 0.0);
        for ((after, before), input) in after.iter().zip(&before).zip(&self.stream.hidden) {
            for ((a, b), x) in after.iter().zip(before).zip(input) {
                wrong += f64::from(a - b).powi(2);
                all += f64::from(b - x).powi(2);
            }
        }
        Ok((wrong / all.max(f64::MIN_POSITIVE), after))
    }

    /// One line of the report for each matrix that was changed.
    pub(super) fn lines(&self, plain: f64) -> Vec<Line> {
        let changed = |(name, weight): (&String, &Weight)| {
            let before = self.before.get(name)?;
            (before != weight && weight.shape.len() > 1)
                .then(|| Line::new(self.full_name(name), before, weight, plain))
        };
        self.tensors.iter().filter_map(changed).collect()
    }

    /// The tensors that are not as they were, and the names of those that are gone.
    pub(super) fn changes(self) -> (Vec<(String, Weight)>, Vec<String>) {
        let full = |name: &str| prefix(self.index) + name;
        let gone = self
            .before
            .keys()
            .filter(|name| !self.tensors.contains_key(*name))
            .map(|name| full(name))
            .collect();
        let changed = |(name, weight): &(String, Weight)| self.before.get(name) != Some(weight);
        let changed = self
            .tensors
            .into_iter()
            .filter(changed)
            .map(|(name, weight)| (prefix(self.index) + &name, weight));
        (changed.collect(), gone)
    }
}

fn prefix(index: usize) -> String {
    format!("model.layers.{index}.")
}

/// The tensors of a block as a source of variables.
struct Named<'a>(&'a BTreeMap<String, Weight>);

impl Source for Named<'_> {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        match self.0.get(name) {
            None => Err(VarsError::Missing(name.to_owned())),
            Some(weight) if weight.shape == shape => Ok(()),
            Some(weight) => {
                let (found, wanted) = (weight.shape.clone(), shape.to_vec());
                Err(VarsError::Shape { name: name.to_owned(), found, wanted })
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|weight| weight.shape.clone())
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, _: Init) -> Result<Vec<f32>, VarsError> {
        let weight = self.0.get(name).ok_or_else(|| VarsError::Missing(name.to_owned()))?;
        Ok(weight.values[rows.start * width..rows.end * width].to_vec())
    }

    fn native(&self, _: &str) -> WeightType {
        WeightType::F32
    }
}
