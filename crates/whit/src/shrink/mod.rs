//! Making the weights of a model smaller, for good: `whit shrink`.
//!
//! Methods of this kind are weight edits, [`WeightEdit`]. [`shrink`] goes through the blocks
//! of a model in order; to each it hands the hidden states that the changed blocks before it make of the
//! calibration text, lets every method change it in turn, and passes the text on through the changed block
//! (the runner of GPTQ's, SparseGPT's and Wanda's code). One block and the hidden states are in memory at a time.
//!
//! ```
//! use whit::methods::{ModelFacts, Plan, Selection};
//!
//! let wanted = Selection::parse(&["rtn:bits=4,group=32"])?;
//! let plan = Plan::new(&wanted, &ModelFacts::example())?.offline()?;
//! assert_eq!(plan.begin().weight_edits.len(), 1);
//! # Ok::<(), whit::methods::MethodError>(())
//! ```

pub mod algebra;
mod block;
pub mod cholesky;
mod corrections;
mod error;
mod form;
pub mod grid;
pub mod groups;
pub mod layers;
pub mod pattern;
pub mod plot;
mod report;
pub mod scaling;
pub mod search;
mod statistics;
mod store;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod write;

pub use block::{Block, Weight};
pub use corrections::Corrections;
pub use error::ShrinkError;
pub use form::{Form, Levels};
pub use report::{Line, Report, relative_error};
pub use statistics::{Statistics, Want};
pub use store::Edited;
pub use stream::Calibration;

use serde_json::Value;
use whit_kernels::linear::WeightType;

use crate::load::{LoadError, ModelFiles};
use crate::methods::{Plan, WeightEdit};
use crate::models::{self, Stored};
use crate::nn::decoder::DecoderConfig;
use crate::nn::vars::{Precision, Storage, Vars};
use stream::Stream;

/// A model as the methods see it before it is changed.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Its files.
    pub files: &'a ModelFiles,
    /// What it is.
    pub config: &'a DecoderConfig,
    /// The text to calibrate with, if there is any.
    pub calibration: &'a Calibration,
}

/// A changed model, not written yet.
#[derive(Debug)]
pub struct Outcome {
    /// Its `config.json`.
    pub config: Value,
    /// Its tensors.
    pub weights: Edited,
    /// What was changed.
    pub report: Report,
}

/// Runs the methods of `plan` over a model. `progress` is called with the number of blocks that are done
/// and of all; it says whether to go on.
///
/// # Errors
/// If the architecture has other tensor names than llama's, a method refuses, or a file cannot be read.
pub fn shrink(
    files: &ModelFiles,
    plan: &Plan,
    calibration: &Calibration,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Outcome, ShrinkError> {
    let config = decoder_config(files)?;
    let subject = Subject { files, config: &config, calibration };
    let mut edits = plan.begin().weight_edits;
    edits.iter_mut().try_for_each(|edit| edit.survey(&subject))?;
    let weights = Edited::new(files.weights.clone())?;
    let mut outcome = Outcome { config: files.config.clone(), weights, report: Report::default() };
    if !edits.is_empty() {
        walk(&subject, &mut edits, &mut outcome, progress)?;
    }
    edits.iter_mut().try_for_each(|edit| edit.finish(&mut outcome))?;
    Ok(outcome)
}

/// Changes block after block.
fn walk(
    subject: &Subject<'_>,
    edits: &mut [Box<dyn WeightEdit>],
    outcome: &mut Outcome,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<(), ShrinkError> {
    let (config, weights) = (subject.config, subject.files.weights.as_ref());
    let names = weights.names();
    let plain = 8.0 * outcome.weights.plain_type().bytes_for(&[1]).unwrap_or(4) as f64;
    let mut stream = enter(subject)?;
    for index in 0..config.layers {
        if !progress(index, config.layers) {
            return Err(LoadError::Interrupted.into());
        }
        let mut block = Block::read(index, config, weights, &names, &stream)?;
        edits.iter_mut().try_for_each(|edit| edit.edit(&mut block))?;
        outcome.report.lines.extend(block.lines(plain));
        let mut hidden = Vec::new();
        if block.is_calibrated() {
            let (error, after) = block.compare()?;
            outcome.report.block_errors.push(error);
            hidden = after;
        }
        let (changed, gone) = block.changes();
        changed.iter().try_for_each(|(name, weight)| outcome.weights.set(name, weight))?;
        gone.iter().for_each(|name| outcome.weights.remove(name));
        stream.hidden = hidden;
    }
    Ok(())
}

/// What the model is, if its tensors have the names that blocks are read by.
fn decoder_config(files: &ModelFiles) -> Result<DecoderConfig, ShrinkError> {
    let architecture = models::architecture(&files.config)?;
    let config = (architecture.config)(&files.config).map_err(models::ModelError::from)?;
    let first = "model.layers.0.self_attn.q_proj.weight";
    if files.weights.info(first).is_none() {
        let reason = format!(
            "{} models name their tensors in another way; their weights cannot be changed",
            architecture.id
        );
        return Err(ShrinkError::unfit(first, reason));
    }
    Ok(config)
}

/// The calibration text, embedded.
fn enter(subject: &Subject<'_>) -> Result<Stream, ShrinkError> {
    let config = subject.config;
    check(subject.calibration, config)?;
    let source = Stored(subject.files.weights.as_ref());
    let storage = Storage::Packed(Precision::Fixed(WeightType::F32));
    let model = Vars::new(&source, &storage).at("model");
    let table = match subject.calibration.sequences.is_empty() {
        true => None,
        false => Some(model.embedding("embed_tokens", config.vocab_size, config.width)?),
    };
    Ok(Stream::new(subject.calibration, config.width, |ids| table.as_ref().map(|table| table.forward(ids))))
}

fn check(calibration: &Calibration, config: &DecoderConfig) -> Result<(), ShrinkError> {
    let refuse = |reason: String| Err(ShrinkError::Calibration { reason });
    for (index, ids) in calibration.sequences.iter().enumerate() {
        if ids.is_empty() || ids.len() > config.max_positions {
            let most = config.max_positions;
            return refuse(format!("sequence {index} has {} tokens, the model takes 1 to {most}", ids.len()));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return refuse(format!(
                "token {id} in sequence {index} is outside the vocabulary; tokenizer and model do not match"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::testing::{calibration, logits, model, network, shrunk};
    use super::*;
    use crate::load::{Checkpoint, Options, open};
    use crate::methods::{ModelFacts, Selection};
    use crate::nn::attention::Port;

    #[test]
    fn without_methods_nothing_changes() {
        let files = model(1);
        let outcome = shrunk(&files, "rtn:bits=16", 2).unwrap();
        assert_eq!((outcome.weights.changed().count(), outcome.report.lines.len()), (0, 0));
        let ids = &calibration(1).sequences[0];
        let [before, after] = [files.weights.as_ref(), &outcome.weights as &dyn Checkpoint]
            .map(|weights| logits(&network(&files.config, weights), ids));
        assert_eq!(before, after);
    }

    /// Looks at what the runner hands out.
    #[derive(Debug)]
    struct Watch(std::sync::mpsc::Sender<(usize, Vec<Vec<f32>>, Statistics)>);

    impl WeightEdit for Watch {
        fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
            let seen =
                (block.index, block.sequences(Port::Attention)?, block.inputs(Port::Down, Want::Gram)?);
            self.0.send(seen).unwrap();
            // A block without a feed-forward: the next one must see it so.
            let down = block.get("mlp.down_proj.weight")?.values.len();
            block.set_values("mlp.down_proj.weight", vec![0.0; down], Form::Dense)
        }
    }

    #[test]
    fn each_block_sees_what_the_changed_ones_before_it_give() {
        let (files, calibration) = (model(2), calibration(3));
        let config = decoder_config(&files).unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        let mut outcome = Outcome {
            config: files.config.clone(),
            weights: Edited::new(files.weights.clone()).unwrap(),
            report: Report::default(),
        };
        let subject = Subject { files: &files, config: &config, calibration: &calibration };
        walk(&subject, &mut [Box::new(Watch(sender))], &mut outcome, &mut |_, _| true).unwrap();
        let seen: Vec<_> = seen.into_iter().collect();
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].2.rows, seen[0].2.inputs(), seen[0].1.len()), (72, 96, 3));
        // The same from the outcome: what enters its second block.
        let again =
            Outcome { weights: Edited::new(std::sync::Arc::new(outcome.weights)).unwrap(), ..outcome };
        let stream = enter(&subject).unwrap();
        let names = again.weights.names();
        let first = Block::read(0, &config, &again.weights, &names, &stream).unwrap();
        let next = Stream { hidden: first.outputs().unwrap(), ..stream };
        let second = Block::read(1, &config, files.weights.as_ref(), &names, &next).unwrap();
        assert_eq!(second.sequences(Port::Attention).unwrap(), seen[1].1);
        assert!(again.report.block_errors.iter().all(|&error| error > 0.1));
    }

    #[test]
    fn bad_calibration_and_interrupts_are_errors() {
        let files = model(1);
        let plan = Plan::new(&Selection::parse(&["rtn:group=32"]).unwrap(), &ModelFacts::example()).unwrap();
        let run =
            |ids: Vec<u32>| shrink(&files, &plan, &Calibration { sequences: vec![ids] }, &mut |_, _| true);
        for ids in [vec![], vec![96], vec![0; 257]] {
            assert!(matches!(run(ids), Err(ShrinkError::Calibration { .. })));
        }
        let stopped = shrink(&files, &plan, &Calibration::default(), &mut |_, _| false);
        assert!(matches!(stopped, Err(ShrinkError::Load(LoadError::Interrupted))));
    }

    #[test]
    fn a_written_folder_and_a_written_file_read_back_as_the_outcome() {
        let (place, files) = (tempfile::tempdir().unwrap(), model(5));
        let [folder, file] = ["folder", "model.gguf"].map(|name| place.path().join(name));
        let ids = &calibration(1).sequences[0];
        let outcome = shrunk(&files, "rtn:bits=4,group=32,symmetric", 0).unwrap();
        let wanted = logits(&network(&files.config, &outcome.weights), ids);
        let numbers = write::Numbers { plain: crate::load::Dtype::F32, packing: None };
        write::folder(&files, &outcome, &folder, numbers).unwrap();
        assert!(write::folder(&files, &outcome, &folder, numbers).is_err(), "never written over");
        let opened = open(folder.to_str().unwrap(), &Options::default()).unwrap();
        assert_eq!(logits(&network(&opened.config, opened.weights.as_ref()), ids), wanted);
        let plain = search::types("f32", 2).unwrap();
        let lost = write::gguf_file(model(5), outcome, &file, plain, |_, _| true).unwrap();
        assert_eq!(lost, 0);
        let opened = open(file.to_str().unwrap(), &Options::default()).unwrap();
        let found = logits(&network(&opened.config, opened.weights.as_ref()), ids);
        assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4), "block types hold the levels");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn packed_folders_hold_the_same_values() {
        let (place, files) = (tempfile::tempdir().unwrap(), model(5));
        let settings =
            ["bits=4,group=32,symmetric", "bits=4,group=32", "bits=8,group=0,symmetric", "bits=8,group=16"];
        for (index, settings) in settings.into_iter().enumerate() {
            let path = place.path().join(index.to_string());
            let outcome = shrunk(&files, &format!("rtn:{settings}"), 0).unwrap();
            let packing = write::packing(&outcome.weights).unwrap();
            assert!(packing.is_some_and(|packing| packing.minus_one == settings.contains("symmetric")));
            let numbers = write::Numbers { plain: crate::load::Dtype::F32, packing };
            write::folder(&files, &outcome, &path, numbers).unwrap();
            let opened = open(path.to_str().unwrap(), &Options::default()).unwrap();
            assert_eq!(opened.weights.names(), files.weights.names());
            for name in opened.weights.names() {
                let values = |weights: &dyn Checkpoint| weights.read(&name).unwrap().to_f32(&name).unwrap();
                assert_eq!(values(opened.weights.as_ref()), values(&outcome.weights), "{name} {settings}");
            }
            let first = opened.weights.info("model.layers.0.mlp.up_proj.weight").unwrap().dtype;
            assert_eq!(first == crate::load::Dtype::Q4_0, index == 0, "{settings}");
        }
        let outcome = shrunk(&files, "rtn:bits=3,group=32", 0).unwrap();
        assert_eq!(write::packing(&outcome.weights).unwrap(), None);
    }
}
