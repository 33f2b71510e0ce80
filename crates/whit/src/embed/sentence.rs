//! What a sentence-transformers folder says besides the model: how tokens are pooled, whether vectors are
//! normalised, how long texts may be, and what stands before a query.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use whit_kernels::op;

use super::{EmbedError, Pooling};
use crate::load::file::read_json_if_present;
use crate::load::{Checkpoint, LoadError, Safetensors};
use crate::nn::activation::Activation;
use crate::nn::linear::Linear;

/// The settings of a folder; all of them may be missing.
#[derive(Debug, Default)]
pub struct Sentence {
    /// How tokens are pooled.
    pub pooling: Option<Pooling>,
    /// Whether vectors get length one.
    pub normalise: bool,
    /// The most tokens of a text, marks included.
    pub max_length: Option<usize>,
    /// What stands before a query, and before what is searched.
    pub prompts: [Option<String>; 2],
    /// Layers behind the pooling.
    dense: Vec<Dense>,
}

#[derive(Debug)]
struct Dense {
    layer: Linear,
    activation: Option<Activation>,
}

impl Sentence {
    /// Reads what `folder` says.
    ///
    /// # Errors
    /// If a file is damaged, or asks for what is not done here.
    pub fn open(folder: Option<&Path>) -> Result<Self, EmbedError> {
        let Some(folder) = folder else { return Ok(Self::default()) };
        let read = |path: PathBuf| read_json_if_present::<Value>(&path);
        let mut sentence = Self::default();
        let list = folder.join("modules.json");
        for module in read(list.clone())?.iter().filter_map(Value::as_array).flatten() {
            sentence.module(folder, module, &list)?;
        }
        if let Some(settings) = read(folder.join("sentence_bert_config.json"))? {
            sentence.max_length = settings["max_seq_length"].as_u64().map(|length| length as usize);
        }
        if let Some(settings) = read(folder.join("config_sentence_transformers.json"))? {
            let prompt = |name: &str| settings["prompts"][name].as_str().map(str::to_owned);
            sentence.prompts = [prompt("query"), prompt("document").or_else(|| prompt("passage"))];
        }
        Ok(sentence)
    }

    fn module(&mut self, folder: &Path, module: &Value, list: &Path) -> Result<(), EmbedError> {
        let kind = module["type"].as_str().unwrap_or_default();
        let own = folder.join(module["path"].as_str().unwrap_or_default());
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => Ok(()),
            "Normalize" => {
                self.normalise = true;
                Ok(())
            }
            "Pooling" => {
                self.pooling = Some(pooling(&own.join("config.json"))?);
                Ok(())
            }
            "Dense" => {
                self.dense.push(Dense::open(&own)?);
                Ok(())
            }
            _ => Err(unknown(list, kind)),
        }
    }

    /// The pooled vector through the layers behind the pooling.
    pub fn finish(&self, vector: Vec<f32>) -> Vec<f32> {
        self.dense.iter().fold(vector, |vector, dense| dense.forward(vector))
    }
}

fn unknown(path: &Path, found: &str) -> EmbedError {
    EmbedError::Module { path: path.display().to_string(), found: found.to_owned() }
}

/// The one pooling that a file turns on.
fn pooling(path: &Path) -> Result<Pooling, EmbedError> {
    const MODES: [(&str, Pooling); 4] = [
        ("pooling_mode_cls_token", Pooling::Class),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_max_tokens", Pooling::Max),
        ("pooling_mode_lasttoken", Pooling::Last),
    ];
    let settings: Option<Value> = read_json_if_present(path)?;
    let settings = settings.ok_or_else(|| unknown(path, "a Pooling without its config.json"))?;
    if let Some(mode) = settings["pooling_mode"].as_str() {
        let known = [
            ("cls", Pooling::Class),
            ("mean", Pooling::Mean),
            ("max", Pooling::Max),
            ("lasttoken", Pooling::Last),
        ];
        let found = known.iter().find(|(name, _)| *name == mode);
        return found.map(|(_, pooling)| *pooling).ok_or_else(|| unknown(path, mode));
    }
    let on = |name: &str| settings[name].as_bool() == Some(true);
    let other = settings.as_object().into_iter().flatten().find(|(name, value)| {
        name.starts_with("pooling_mode_")
            && value.as_bool() == Some(true)
            && !MODES.iter().any(|(known, _)| known == name)
    });
    match (MODES.iter().filter(|(name, _)| on(name)).collect::<Vec<_>>().as_slice(), other) {
        ([(_, pooling)], None) => Ok(*pooling),
        (_, Some((name, _))) => Err(unknown(path, name)),
        ([], None) => Ok(Pooling::Mean),
        _ => Err(unknown(path, "several poolings at once")),
    }
}

impl Dense {
    fn open(folder: &Path) -> Result<Self, EmbedError> {
        let path = folder.join("config.json");
        let settings: Value = read_json_if_present(&path)?.unwrap_or_default();
        let name = settings["activation_function"].as_str().unwrap_or("Tanh");
        let activation = match name.rsplit('.').next().unwrap_or_default() {
            "Tanh" => Some(Activation::Tanh),
            "GELU" => Some(Activation::Gelu),
            "ReLU" => Some(Activation::Relu),
            "Identity" => None,
            _ => return Err(unknown(&path, name)),
        };
        let file = Safetensors::open(&folder.join("model.safetensors"))?;
        let read = |name: &str| -> Result<(Vec<usize>, Vec<f32>), LoadError> {
            let tensor = file.read(name)?;
            Ok((tensor.shape.clone(), tensor.to_f32(name)?))
        };
        let (shape, values) = read("linear.weight")?;
        let [outputs, inputs] =
            <[usize; 2]>::try_from(shape).map_err(|_| unknown(&path, "a weight of another shape"))?;
        let bias = match file.info("linear.bias") {
            Some(_) => Some(read("linear.bias")?.1),
            None => None,
        };
        if bias.as_ref().is_some_and(|bias| bias.len() != outputs) {
            return Err(unknown(&path, "a bias of another length"));
        }
        let device = Device::flex();
        let weight = Tensor::from_data(TensorData::new(values, [outputs, inputs]), &device);
        let bias = bias.map(|bias| Tensor::from_data(TensorData::new(bias, [outputs]), &device));
        Ok(Self { layer: Linear::dense(weight, bias), activation })
    }

    fn forward(&self, vector: Vec<f32>) -> Vec<f32> {
        let length = vector.len();
        let x = Tensor::<2>::from_data(TensorData::new(vector, [1, length]), &Device::flex());
        let y = self.layer.forward(x);
        op::host(match self.activation {
            Some(activation) => activation.forward(y),
            None => y,
        })
        .into_vec()
    }

    fn inputs(&self) -> usize {
        self.layer.dense_weight().map_or(0, |weight| weight.dims()[1])
    }
}

impl Sentence {
    /// Checks that the layers behind the pooling fit vectors of `width` values.
    ///
    /// # Errors
    /// If they do not.
    pub fn check(&self, width: usize, folder: Option<&Path>) -> Result<(), EmbedError> {
        let mut width = width;
        for dense in &self.dense {
            if dense.inputs() != width {
                let found = format!("Dense of {} inputs behind {width} values", dense.inputs());
                return Err(unknown(folder.unwrap_or(Path::new("")), &found));
            }
            width = dense.layer.dense_weight().map_or(0, |weight| weight.dims()[0]);
        }
        Ok(())
    }
}
