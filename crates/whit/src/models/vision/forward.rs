//! One forward pass of a vision encoder, under the peer's own names.

use burn::tensor::{Device, Int, Tensor, TensorData};
use whit_kernels::op;

use crate::load::{Checkpoint, Dtype, RawTensor};
use crate::methods::Plan;
use crate::methods::reducers::Passes;
use crate::models::forward::{ForwardError, Outputs, Recorder, named};
use crate::nn::attention::Batched;
use crate::nn::reduce::Reducing;
use crate::nn::vision::{Vision, VisionConfig, join};

/// The inputs of a vision encoder, and of one that is trained on a part of the patches.
const KNOWN: [&str; 1] = ["pixel_values"];
const MASKED: [&str; 2] = ["pixel_values", "noise"];

/// Runs `model` once on the tensors of `file`: `last_hidden_state`, `hidden_states.N` and, as the model has
/// them, `pooler_output`, `image_embeds`, `logits`, `cls_logits` and `distillation_logits`. With `noise`
/// `[batch, patches]`, a masked autoencoder leaves out the patches with the most of it and also gives `mask`
/// and `ids_restore`; without, it sees all patches in their order.
///
/// # Errors
/// If an input is unknown, missing, misshapen or of a wrong type.
pub fn forward(model: &Vision, file: &dyn Checkpoint) -> Result<Outputs, ForwardError> {
    let known = if model.config().mask_ratio.is_some() { &MASKED[..] } else { &KNOWN };
    known_inputs(file, known)?;
    let pixels = pixels(file, model.config())?;
    let batch = pixels.dims()[0];
    let (patches, specials) = model.embed(pixels);
    let mask = Mask::read(file, model.config(), [batch, patches.dims()[1]])?;
    let patches = match &mask {
        Some(mask) => mask.apply(patches),
        None => patches,
    };
    let mut recorder = Recorder::new(Batched::whole(batch, None), None);
    let hidden = model.run(join(specials, patches), &mut recorder);
    let mut outputs = outputs(model, &hidden);
    let shape = [batch, hidden.dims()[1]];
    let states = recorder.states.into_iter().enumerate();
    outputs.extend(states.map(|(layer, state)| named(format!("hidden_states.{layer}"), shape, state)));
    outputs.extend(mask.into_iter().flat_map(Mask::outputs));
    Ok(outputs)
}

/// As [`forward`], with the token reducer of `plan` where it has one; the hidden states of the layers, whose
/// numbers of tokens then differ, are left out, and so is `noise`.
///
/// # Errors
/// As [`forward`], and if a method refuses the images.
pub fn forward_with(model: &Vision, file: &dyn Checkpoint, plan: &Plan) -> Result<Outputs, ForwardError> {
    let passes = Passes::new(plan, model.config().specials());
    if passes.begin(1).is_none() {
        return forward(model, file);
    }
    known_inputs(file, &KNOWN)?;
    let pixels = pixels(file, model.config())?;
    let batch = pixels.dims()[0];
    let Some(mut reducer) = passes.begin(batch) else { return forward(model, file) };
    let hidden = model.forward(pixels, &mut Reducing::new(batch, reducer.as_mut()));
    passes.finish()?;
    Ok(outputs_of(model, &hidden, reducer.sizes()))
}

/// What the original reports of the hidden states of a pass.
fn outputs(model: &Vision, hidden: &Tensor<3>) -> Outputs {
    outputs_of(model, hidden, None)
}

fn outputs_of(model: &Vision, hidden: &Tensor<3>, sizes: Option<Tensor<2>>) -> Outputs {
    let mut outputs = vec![raw("last_hidden_state", hidden.clone())];
    outputs.extend(model.pooled(hidden).map(|pooled| raw("pooler_output", pooled)));
    outputs.extend(model.projected(hidden).map(|embeds| raw("image_embeds", embeds)));
    if let Some(logits) = model.logits(hidden, sizes) {
        outputs.push(raw("logits", logits.logits));
        let names = ["cls_logits", "distillation_logits"];
        outputs.extend(
            names.into_iter().zip(logits.parts.into_iter().flatten()).map(|(name, part)| raw(name, part)),
        );
    }
    outputs
}

pub(in crate::models) fn raw<const D: usize>(name: &str, tensor: Tensor<D>) -> (String, RawTensor) {
    let values = op::host(tensor);
    (name.to_owned(), RawTensor::from_f32(values.shape(), values.data()))
}

/// Refuses inputs that are not among the known ones.
pub(in crate::models) fn known_inputs(file: &dyn Checkpoint, known: &[&str]) -> Result<(), ForwardError> {
    match file.names().into_iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(ForwardError::UnknownInput { name, known: known.join(", ") }),
        None => Ok(()),
    }
}

/// The images of an input file.
pub(in crate::models) fn pixels(
    file: &dyn Checkpoint,
    config: &VisionConfig,
) -> Result<Tensor<4>, ForwardError> {
    let name = "pixel_values";
    let found = file.info(name).ok_or(ForwardError::NoPixels)?.shape;
    let fits = |&[batch, channels, height, width]: &[usize; 4]| {
        batch > 0 && channels == config.channels && !config.grid([height, width]).contains(&0)
    };
    let shape: [usize; 4] = match <[usize; 4]>::try_from(&found[..]) {
        Ok(shape) if fits(&shape) => shape,
        _ => {
            let [height, width] = config.patch;
            let wanted = format!("[batch, {}, height from {height}, width from {width}]", config.channels);
            return Err(ForwardError::Shape { name, found, wanted });
        }
    };
    let values = numbers(file, name)?;
    Ok(Tensor::from_data(TensorData::new(values, shape), &Device::flex()))
}

fn numbers(file: &dyn Checkpoint, name: &'static str) -> Result<Vec<f32>, ForwardError> {
    let tensor = file.read(name)?;
    match tensor.dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => Ok(tensor.to_f32(name)?),
        dtype => Err(ForwardError::Type { name, dtype, wanted: "floating-point numbers, such as F32" }),
    }
}

/// Which patches a masked autoencoder sees: those with the least noise, in the noise's order.
pub(in crate::models) struct Mask {
    shape: [usize; 2],
    /// The patches of each image, by their noise.
    order: Vec<Vec<usize>>,
    kept: usize,
}

impl Mask {
    pub(in crate::models) fn read(
        file: &dyn Checkpoint,
        config: &VisionConfig,
        [batch, patches]: [usize; 2],
    ) -> Result<Option<Self>, ForwardError> {
        let (Some(ratio), Some(info)) = (config.mask_ratio, file.info("noise")) else { return Ok(None) };
        if info.shape != [batch, patches] {
            let wanted = format!("{:?}, a number for each patch", [batch, patches]);
            return Err(ForwardError::Shape { name: "noise", found: info.shape, wanted });
        }
        let by_noise = |noise: &[f32]| {
            let mut order: Vec<usize> = (0..patches).collect();
            order.sort_by(|&a, &b| noise[a].total_cmp(&noise[b]));
            order
        };
        let order = numbers(file, "noise")?.chunks_exact(patches).map(by_noise).collect();
        let kept = ((patches as f64 * (1.0 - ratio)) as usize).min(patches);
        Ok(Some(Self { shape: [batch, patches], order, kept }))
    }

    fn apply(&self, patches: Tensor<3>) -> Tensor<3> {
        let [batch, count, width] = patches.dims();
        let kept = self.order.iter().enumerate().flat_map(|(image, order)| {
            order[..self.kept].iter().map(move |patch| (image * count + patch) as i64)
        });
        let kept: Vec<i64> = kept.collect();
        let index = Tensor::<1, Int>::from_data(TensorData::from(&kept[..]), &patches.device());
        patches.reshape([batch * count, width]).select(0, index).reshape([batch, self.kept, width])
    }

    /// 1 for each patch that is not seen, 0 for the others.
    pub(in crate::models) fn hidden(&self) -> Vec<f32> {
        let mut hidden = vec![1.0; self.shape[0] * self.shape[1]];
        for (image, order) in self.order.iter().enumerate() {
            order[..self.kept].iter().for_each(|patch| hidden[image * order.len() + patch] = 0.0);
        }
        hidden
    }

    pub(in crate::models) fn outputs(self) -> Outputs {
        let (mut mask, mut restore) = (Vec::new(), Vec::new());
        for order in &self.order {
            let mut rank = vec![0.0; order.len()];
            order.iter().enumerate().for_each(|(place, &patch)| rank[patch] = place as f32);
            mask.extend(rank.iter().map(|&place| if place < self.kept as f32 { 0.0f32 } else { 1.0 }));
            restore.extend(rank);
        }
        let tensor = |values: &[f32]| RawTensor::from_f32(self.shape.to_vec(), values);
        vec![("mask".into(), tensor(&mask)), ("ids_restore".into(), tensor(&restore))]
    }
}
