//! Looking for the form of a model that fits: candidates are made, measured on held-out text, and the best
//! that keeps to the limits is chosen.

use serde::Serialize;

use super::text::Texts;
use super::write::Typed;
use super::{Outcome, ShrinkError, shrink};
use crate::load::{Checkpoint, Dtype, ModelFiles, TensorInfo};
use crate::measure::quality;
use crate::methods::{Plan, Selection};
use crate::models::{self, precision};
use crate::nn::vars::{Precision, Storage};
use whit_kernels::linear::WeightType;

/// A form that a model can be written in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Form {
    /// The methods that are applied first, as `--with` takes them.
    pub with: Vec<String>,
    /// The type of the matrices that no method quantises, as `--type` takes it.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Form {
    fn new(with: &[&str], kind: &str) -> Self {
        Self { with: with.iter().map(|&with| with.to_owned()).collect(), kind: kind.to_owned() }
    }

    /// What it is called.
    pub fn name(&self) -> String {
        match self.with.as_slice() {
            [] => self.kind.clone(),
            with => format!("{} + {}", with.join(" + "), self.kind),
        }
    }

    /// The command's arguments that write it.
    pub fn arguments(&self) -> String {
        let with: String = self.with.iter().map(|with| format!("--with {with} ")).collect();
        format!("{with}--type {}", self.kind)
    }
}

/// The forms that are tried: the types of the house, and the methods with settings that a GGUF file holds
/// exactly.
pub fn forms() -> Vec<Form> {
    let types = ["f32", "bf16", "q8_0", "q6_k", "q5_k", "q4_k_m", "q4_0"];
    let mut forms: Vec<Form> = types.iter().map(|kind| Form::new(&[], kind)).collect();
    for method in ["rtn", "gptq", "awq"] {
        for settings in ["bits=5,group=32,symmetric", "bits=4,group=32", "bits=4,group=32,symmetric"] {
            forms.push(Form::new(&[&format!("{method}:{settings}")], "q6_k"));
        }
    }
    forms
}

/// A form, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The form.
    #[serde(flatten)]
    pub form: Form,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Nats a token of held-out text.
    pub loss: f64,
    /// Bits a byte of held-out text.
    pub bits_per_byte: f64,
}

/// What a form must keep to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// The most bytes.
    pub bytes: Option<u64>,
    /// The most loss, as a share above the loss of the model as it is.
    pub loss: Option<f64>,
}

/// The type of a matrix, by name and shape.
pub type Choose = Box<dyn Fn(&str, &TensorInfo) -> Dtype + Send + Sync>;

/// The types that `--type` stands for. 8-bit integers become GGUF's own 8-bit blocks or, where these do
/// not fit, half floats.
///
/// # Errors
/// What [`precision`] says of an unknown word.
pub fn types(kind: &str, layers: usize) -> Result<Choose, String> {
    let plain = match kind {
        "f16" => Some(Dtype::F16),
        "f32" => Some(Dtype::F32),
        "bf16" => Some(Dtype::Bf16),
        _ => None,
    };
    if let Some(plain) = plain {
        return Ok(Box::new(move |_, _| plain));
    }
    let precision: Precision = precision(kind, layers)?;
    Ok(Box::new(move |name, info| {
        let inputs = info.shape.last().copied().unwrap_or(1);
        stored(precision.for_matrix(name, inputs, || WeightType::Q8_0))
    }))
}

fn stored(kind: WeightType) -> Dtype {
    match kind {
        WeightType::F32 => Dtype::F32,
        WeightType::Bf16 => Dtype::Bf16,
        WeightType::Int8 => Dtype::F16,
        WeightType::Q4_0 => Dtype::Q4_0,
        WeightType::Q8_0 => Dtype::Q8_0,
        WeightType::Q4K => Dtype::Q4K,
        WeightType::Q5K => Dtype::Q5K,
        WeightType::Q6K => Dtype::Q6K,
    }
}

/// The model in a form, not written yet.
///
/// # Errors
/// As [`shrink`].
pub fn make(
    files: &ModelFiles,
    form: &Form,
    texts: &Texts,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Outcome, ShrinkError> {
    let plan = Plan::new(&Selection::parse(&form.with)?, &models::facts(&files.config)?)?.offline()?;
    shrink(files, &plan, &texts.calibration, progress)
}

/// Makes a form and measures what its file would hold.
///
/// # Errors
/// As [`shrink`], and if the form does not suit the model.
pub fn measure(
    files: &ModelFiles,
    form: &Form,
    texts: &Texts,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Measured, ShrinkError> {
    let layers = models::facts(&files.config)?.layers;
    let choose = types(&form.kind, layers).map_err(|reason| ShrinkError::unfit(form.name(), reason))?;
    let outcome = make(files, form, texts, progress)?;
    let config = outcome.config.clone();
    let typed = Typed::new(outcome.weights, choose)?;
    let (loss, bits_per_byte) = judge(&config, &typed, texts)?;
    Ok(Measured { form: form.clone(), bytes: typed.total_bytes(), loss, bits_per_byte })
}

/// The loss of a checkpoint as it is: nats a token, and bits a byte.
///
/// # Errors
/// If the model cannot be built.
pub fn judge(
    config: &serde_json::Value,
    weights: &dyn Checkpoint,
    texts: &Texts,
) -> Result<(f64, f64), ShrinkError> {
    let model = models::decoder(config, weights, &Storage::Packed(Precision::Native), &|_| {})?;
    let losses = texts.held_out.iter().flat_map(|window| quality::token_losses(&model, window, window.len()));
    let (sum, count) = losses.fold((0.0, 0usize), |(sum, count), loss| (sum + f64::from(loss), count + 1));
    let loss = sum / count.max(1) as f64;
    Ok((loss, loss / std::f64::consts::LN_2 / texts.bytes_per_token))
}

/// Of the forms within `limits`, the best: with a limit of bytes the one with the least loss, otherwise
/// the smallest. `whole` is the loss of the model as it is.
pub fn choose(measured: &[Measured], limits: Limits, whole: f64) -> Option<&Measured> {
    let within = |one: &&Measured| {
        limits.bytes.is_none_or(|most| one.bytes <= most)
            && limits.loss.is_none_or(|most| one.loss <= whole * (1.0 + most))
    };
    let fits = measured.iter().filter(within);
    match limits.bytes {
        Some(_) => fits.min_by(|a, b| a.loss.total_cmp(&b.loss).then(a.bytes.cmp(&b.bytes))),
        None => fits.min_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss))),
    }
}

/// Whether no other form is both smaller and better.
pub fn on_front(one: &Measured, all: &[Measured]) -> bool {
    !all.iter().any(|other| {
        other.bytes <= one.bytes
            && other.loss <= one.loss
            && (other.bytes < one.bytes || other.loss < one.loss)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::testing::{calibration, model};

    fn measured(bytes: u64, loss: f64) -> Measured {
        Measured { form: Form::new(&[], "f32"), bytes, loss, bits_per_byte: loss }
    }

    #[test]
    fn the_best_within_the_limits_is_chosen() {
        let all = [measured(100, 1.0), measured(50, 1.005), measured(60, 1.1), measured(25, 1.2)];
        let bytes = |limits: Limits| choose(&all, limits, 1.0).map(|one| one.bytes);
        assert_eq!(bytes(Limits { bytes: Some(70), loss: None }), Some(50));
        assert_eq!(bytes(Limits { bytes: None, loss: Some(0.01) }), Some(50));
        assert_eq!(bytes(Limits { bytes: None, loss: Some(0.5) }), Some(25));
        assert_eq!(bytes(Limits { bytes: Some(30), loss: Some(0.1) }), None);
        let front: Vec<bool> = all.iter().map(|one| on_front(one, &all)).collect();
        assert_eq!(front, [true, true, false, true]);
    }

    #[test]
    fn every_form_of_a_model_is_made_and_its_bytes_are_those_of_its_types() {
        let files = model(8);
        let held_out = calibration(6).sequences.split_off(4);
        let texts = Texts { calibration: calibration(4), held_out, bytes_per_token: 2.0 };
        let measured = |with: &[&str], kind: &str| {
            measure(&files, &Form::new(with, kind), &texts, &mut |_, _| true).unwrap()
        };
        let whole = measured(&[], "f32");
        assert_eq!(whole.bytes, files.weights.total_bytes());
        let (loss, _) = judge(&files.config, files.weights.as_ref(), &texts).unwrap();
        assert_eq!(whole.loss, loss);
        let four = measured(&["gptq:bits=4,group=32,symmetric"], "q8_0");
        let eight = measured(&[], "q8_0");
        assert!(four.bytes < eight.bytes && eight.bytes < whole.bytes / 3);
        assert!((eight.loss - whole.loss).abs() < 0.02 * whole.loss && four.loss.is_finite());
        for form in forms() {
            Selection::parse(&form.with).unwrap();
            types(&form.kind, 2).map(|_| ()).unwrap();
        }
    }
}
