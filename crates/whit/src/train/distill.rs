//! Distillation (Hinton et al., arXiv:1503.02531): a small model learns the distribution that a large one
//! gives for each next token, and not only which token came.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use whit_kernels::cross_entropy::cross_entropy;
use whit_kernels::linear::WeightType;
use whit_kernels::{op, softmax};

use super::TrainError;
use super::language::{Language, LanguageRecipe, logits};
use super::run::Objective;
use super::windows::Position;
use crate::load::{self, ModelFiles};
use crate::models;
use crate::nn::decoder::Decoder;
use crate::nn::vars::{Precision, Storage};

/// How the teacher's scores enter the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// The share of the teacher's term, 0 to 1; the text's own tokens have the rest.
    pub share: f32,
    /// What both models' scores are divided by in the teacher's term: above 1, unlikely tokens count more.
    pub temperature: f32,
}

impl Default for Mix {
    fn default() -> Self {
        Self { share: 0.5, temperature: 1.0 }
    }
}

impl Mix {
    /// Refuses values that mean nothing.
    ///
    /// # Errors
    /// [`TrainError::Setting`].
    pub fn check(self) -> Result<(), TrainError> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(TrainError::Setting(format!(
                "the teacher's share is from 0 to 1, not {}",
                self.share
            )));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(TrainError::Setting(format!("the temperature is above 0, not {}", self.temperature)));
        }
        Ok(())
    }
}

/// Learning to continue text as a teacher does: `(1 - a) CE + a T^2 KL(p_teacher || p_student)`.
#[derive(Debug)]
pub struct Distillation<'a> {
    /// The text.
    pub language: &'a Language,
    /// The model that is learnt from.
    pub teacher: &'a Decoder,
    /// How.
    pub mix: Mix,
}

impl Objective for Distillation<'_> {
    type Model = Decoder;

    fn loss(&self, model: &Decoder, position: Position) -> Result<Tensor<1>, TrainError> {
        let (shape, Mix { share, temperature }) = (self.language.train.shape, self.mix);
        let batch = self.language.train.batch(&self.language.tokenizer, position)?;
        let student = logits(model, &batch.inputs, shape);
        let own = cross_entropy(student.clone(), &batch.targets, None);
        if share == 0.0 {
            return Ok(own);
        }
        let teacher = op::host(logits(self.teacher, &batch.inputs, shape)).into_vec();
        let divergence = divergence(teacher, student, temperature);
        Ok(own * (1.0 - share) + divergence * (share * temperature * temperature))
    }

    fn held_out_loss(&self, model: &Decoder) -> Result<f32, TrainError> {
        self.language.held_out_loss(model)
    }

    fn items(&self) -> u64 {
        self.language.items()
    }

    fn identity(&self) -> String {
        let Mix { share, temperature } = self.mix;
        format!(
            "{}, teacher of {} bytes {share} at {temperature}",
            self.language.identity(),
            self.teacher.bytes()
        )
    }
}

/// The mean of `KL(p || q)` over the rows, `p` and `q` the softmax of the teacher's and the student's
/// scores divided by `temperature`. `[rows, vocabulary]` each
pub fn divergence(mut teacher: Vec<f32>, student: Tensor<2>, temperature: f32) -> Tensor<1> {
    let [rows, width] = student.dims();
    teacher.iter_mut().for_each(|score| *score /= temperature);
    let [mut logs, mut shares] = [(); 2].map(|()| vec![0.0; teacher.len()]);
    softmax::log_softmax_rows(&teacher, width, &mut logs);
    softmax::softmax_rows(&teacher, width, &mut shares);
    // What the teacher is sure of does not depend on the student: a number.
    let certainty: f64 = logs.iter().zip(&shares).map(|(log, share)| f64::from(log * share)).sum();
    let shares = Tensor::<2>::from_data(TensorData::new(shares, [rows, width]), &student.device());
    let cross = (softmax::log_softmax(student / temperature) * shares).sum() / rows as f32;
    -cross + (certainty / rows.max(1) as f64) as f32
}

/// A model to learn from.
#[derive(Debug)]
pub struct Teacher {
    /// The model.
    pub model: Decoder,
    files: ModelFiles,
}

impl Teacher {
    /// Opens a model folder, a file or a name on the hub.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(name: &str, options: &load::Options) -> Result<Self, TrainError> {
        let files = load::open(name, options)?;
        let storage = Storage::Packed(Precision::Fixed(WeightType::F32));
        let model = models::decoder(&files.config, files.weights.as_ref(), &storage, &|_| {})?;
        Ok(Self { model, files })
    }

    /// Gives `recipe` the teacher's vocabulary, so that both mean the same tokens, and puts the teacher's
    /// tokenizer at `path` if there is none.
    ///
    /// # Errors
    /// If the teacher has no `tokenizer.json`, its context is shorter than the recipe's sequences, or the disk refuses.
    pub fn prepare(&self, recipe: &mut LanguageRecipe, path: &Path) -> Result<(), TrainError> {
        let config = self.model.config();
        if config.max_positions < recipe.shape.sequence {
            let (most, wanted) = (config.max_positions, recipe.shape.sequence);
            let reason =
                format!("the teacher reads {most} tokens at most, the recipe's sequences have {wanted}");
            return Err(TrainError::Setting(reason));
        }
        recipe.vocabulary = config.vocab_size;
        if path.is_file() {
            return Ok(());
        }
        let from = self.files.origin.config_path().with_file_name("tokenizer.json");
        if !from.is_file() {
            return Err(TrainError::Setting("the teacher must be a folder with a tokenizer.json".into()));
        }
        let bytes = std::fs::read(&from).map_err(TrainError::file("read", &from))?;
        super::write_whole(path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use whit_kernels::op::Host;

    fn scores(values: &[f32], rows: usize) -> Tensor<2> {
        op::tensor(Host::new([rows, values.len() / rows], values.to_vec()))
    }

    #[test]
    fn divergences_worked_by_hand() {
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = log 2 - (log 3) / 2 ... = 0.5 log(2) + 0.5 log(2 / 3).
        let q = scores(&[0.0, 3f32.ln()], 1);
        let found = divergence(vec![1.0, 1.0], q.clone(), 1.0).into_scalar::<f32>();
        assert!((found - 0.5 * (2f32.ln() + (2.0f32 / 3.0).ln())).abs() < 1e-6, "{found}");
        // At temperature 2, q = (1, sqrt 3) / (1 + sqrt 3).
        let found = divergence(vec![1.0, 1.0], q, 2.0).into_scalar::<f32>();
        let sum = 1.0 + 3f32.sqrt();
        let wanted = 0.5 * ((sum / 2.0).ln() + (sum / 2.0 / 3f32.sqrt()).ln());
        assert!((found - wanted).abs() < 1e-6, "{found} for {wanted}");
    }

    #[test]
    fn a_student_that_agrees_has_no_divergence_and_no_slope() {
        let values = [0.3f32, -1.0, 2.0, 0.0, 5.0, -2.0];
        let student =
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), [2, 3]), &Device::flex().autodiff());
        let student = student.require_grad();
        let loss = divergence(values.to_vec(), student.clone(), 1.5);
        assert!(loss.clone().into_scalar::<f32>().abs() < 1e-6);
        let slope = op::host(student.grad(&loss.backward()).unwrap());
        assert!(slope.data().iter().all(|slope| slope.abs() < 1e-6), "{:?}", slope.data());
    }

    #[test]
    fn the_slope_is_the_difference_of_the_distributions() {
        let student =
            Tensor::<2>::from_data(TensorData::new(vec![0.0f32; 4], [1, 4]), &Device::flex().autodiff());
        let student = student.require_grad();
        let loss = divergence(vec![0.0, 0.0, 0.0, 3f32.ln()], student.clone(), 1.0);
        let slope = op::host(student.grad(&loss.backward()).unwrap()).into_vec();
        let wanted = [0.25 - 1.0 / 6.0, 0.25 - 1.0 / 6.0, 0.25 - 1.0 / 6.0, 0.25 - 0.5];
        assert!(slope.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{slope:?}");
    }

    #[test]
    fn mixes_that_mean_nothing_are_refused() {
        assert!(Mix::default().check().is_ok());
        for (share, temperature) in [(1.5, 1.0), (-0.1, 1.0), (0.5, 0.0), (0.5, f32::NAN), (f32::NAN, 1.0)] {
            assert!(Mix { share, temperature }.check().is_err());
        }
    }
}
