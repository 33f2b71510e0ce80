//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::checkpoint::{self, Progress, Restored};
use super::log::{self, Log, Record};
use super::optimizer::{AdamW, Memories, Update};
use super::parameters::{self, Named};
use super::schedule::Schedule;
use super::windows::Position;
use super::{TrainError, plot, write_whole};

/// What is learnt.
pub trait Objective {
    /// The network that learns.
    type Model: Module;

    /// The mean loss of the batch at `position`, in nats for each item.
    ///
    /// # Errors
    /// If the batch cannot be made.
    fn loss(&self, model: &Self::Model, position: Position) -> Result<Tensor<1>, TrainError>;

    /// The loss on held-out data, in nats for each item; `model` is outside autodiff.
    ///
    /// # Errors
    /// If the data cannot be made.
    fn held_out_loss(&self, model: &Self::Model) -> Result<f32, TrainError>;

    /// Items (tokens, images) in one batch.
    fn items(&self) -> u64;

    /// What it must remember from step to step, for a checkpoint; nothing where the step's number is enough.
    fn memory(&self) -> Value {
        Value::Null
    }

    /// Goes on from what [`memory`](Self::memory) gave in another run.
    ///
    /// # Errors
    /// If it is not of this objective.
    fn recall(&self, memory: &Value) -> Result<(), TrainError> {
        let _ = memory;
        Ok(())
    }

    /// What makes the data what it is, in a few words and figures: a resumed run must have the same.
    fn identity(&self) -> String;
}

/// How long and how a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Learning rate and number of steps.
    pub schedule: Schedule,
    /// The optimiser.
    pub optimizer: AdamW,
    /// Batches whose gradients are averaged for one step.
    pub parts: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between measurements on held-out data.
    pub evaluate_every: u64,
}

/// One training run, in one folder.
pub struct Run<'a, O: Objective> {
    /// What is learnt.
    pub objective: &'a O,
    /// How.
    pub settings: Settings,
    /// Where checkpoints, log and plot go.
    pub folder: &'a Path,
    /// Set from outside to end the run after the current step, with a checkpoint.
    pub stop: &'a AtomicBool,
    /// Told of every step.
    pub report: &'a mut dyn FnMut(&Record),
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome<M> {
    /// The model with the averaged weights, outside autodiff.
    pub model: M,
    /// Steps done.
    pub step: u64,
    /// Seconds of training, over all its parts.
    pub seconds: f64,
    /// Whether it was stopped before its last step.
    pub interrupted: bool,
}

impl<O: Objective> Run<'_, O> {
    /// Trains `model`, which lies on an autodiff device; goes on from the newest checkpoint in the
    /// folder if `resume` is set and there is one.
    ///
    /// # Errors
    /// If the run diverges, the disk refuses, or the checkpoint is of another run.
    pub fn train(mut self, model: O::Model, resume: bool) -> Result<Outcome<O::Model>, TrainError> {
        let mut state = self.begin(model, resume)?;
        let mut log = Log::open(&self.log_path(), state.progress.step)?;
        let steps = self.settings.schedule.steps;
        let mut clock = Instant::now();
        while state.progress.step < steps && !self.stop.load(Ordering::Relaxed) {
            state = self.step(state, &mut log, &mut clock)?;
            if state.progress.step % self.settings.checkpoint_every.max(1) == 0 {
                self.save(&state)?;
            }
        }
        self.save(&state)?;
        let Restored { progress: Progress { step, seconds, .. }, model, memories } = state;
        Ok(Outcome { model: averaged(model, &memories), step, seconds, interrupted: step < steps })
    }

    /// The model of the newest checkpoint, without training it.
    ///
    /// # Errors
    /// If there is no checkpoint, or it is damaged.
    pub fn restore(&self, model: O::Model) -> Result<Outcome<O::Model>, TrainError> {
        let folder = self.checkpoints();
        let nothing =
            || TrainError::Setting(format!("there is no checkpoint in {}; train first", folder.display()));
        let Restored { progress, model, memories } =
            checkpoint::restore(&folder, model)?.ok_or_else(nothing)?;
        let interrupted = progress.step < self.settings.schedule.steps;
        Ok(Outcome {
            model: averaged(model, &memories),
            step: progress.step,
            seconds: progress.seconds,
            interrupted,
        })
    }

    fn begin(&self, model: O::Model, resume: bool) -> Result<Restored<O::Model>, TrainError> {
        let Settings { optimizer, parts, .. } = self.settings;
        let identity = format!("{}; {}", self.objective.identity(), serde_json::json!([optimizer, parts]));
        if resume && let Some(state) = checkpoint::restore(&self.checkpoints(), model.clone())? {
            let path = self.checkpoints();
            let what = || format!("{:?} instead of {identity:?}", state.progress.identity);
            return if state.progress.identity == identity {
                self.objective.recall(&state.progress.objective)?;
                Ok(state)
            } else {
                Err(TrainError::OtherRun { path, what: what() })
            };
        }
        let progress = Progress { identity, ..Progress::default() };
        Ok(Restored { progress, model, memories: Memories::new() })
    }

    /// One optimiser step.
    fn step(
        &mut self,
        state: Restored<O::Model>,
        log: &mut Log,
        clock: &mut Instant,
    ) -> Result<Restored<O::Model>, TrainError> {
        let Restored { mut progress, model, mut memories } = state;
        let step = progress.step;
        let (gradients, loss) = self.gradients(&model, step)?;
        let learning_rate = self.settings.schedule.at(step);
        let update = Update { gradients, learning_rate, count: step + 1 };
        let norm = update.norm();
        if !loss.is_finite() || !norm.is_finite() {
            return Err(TrainError::Diverged { step, loss, norm });
        }
        let model = self.settings.optimizer.step(model, &mut memories, update, norm);
        progress.step += 1;
        progress.objective = self.objective.memory();
        let measure = progress.step % self.settings.evaluate_every.max(1) == 0
            || progress.step == self.settings.schedule.steps;
        let held_out = measure.then(|| self.objective.held_out_loss(&averaged(model.clone(), &memories)));
        progress.seconds += clock.elapsed().as_secs_f64();
        *clock = Instant::now();
        let record = Record {
            step: progress.step,
            loss,
            held_out: held_out.transpose()?,
            learning_rate,
            gradient_norm: norm,
            items: progress.step * self.settings.parts * self.objective.items(),
            seconds: progress.seconds,
        };
        log.add(&record)?;
        (self.report)(&record);
        Ok(Restored { progress, model, memories })
    }

    /// The mean gradient and the mean loss of all parts of a step.
    fn gradients(&self, model: &O::Model, step: u64) -> Result<(Named, f32), TrainError> {
        let parts = self.settings.parts.max(1);
        let mut sums = Named::new();
        let mut total = 0.0;
        for part in 0..parts {
            let loss = self.objective.loss(model, Position { step, part, parts })?;
            let mut gradients = loss.backward();
            parameters::add_gradients(model, &mut gradients, &mut sums);
            total += whit_kernels::op::host(loss).data()[0];
        }
        if parts > 1 {
            let share = 1.0 / parts as f32;
            sums.values_mut().flatten().for_each(|value| *value *= share);
        }
        Ok((sums, total / parts as f32))
    }

    fn save(&self, state: &Restored<O::Model>) -> Result<(), TrainError> {
        checkpoint::save(&self.checkpoints(), &state.progress, &state.model, &state.memories)?;
        let page = plot::page("Training", &log::read(&self.log_path())?);
        write_whole(&self.folder.join("loss.html"), page.as_bytes())
    }

    fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }
}

/// `model` outside autodiff, with the moving averages of its weights.
pub fn averaged<M: Module>(model: M, memories: &Memories) -> M {
    parameters::change(model.valid(), |slot| {
        if let Some(memory) = memories.get(slot.name) {
            slot.values.copy_from_slice(&memory.average);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Param;
    use burn::tensor::{Device, Distribution, TensorData};
    use std::cell::Cell;

    /// Two layers that learn a fixed function of random points.
    #[derive(Module, Debug)]
    struct Tiny {
        embedding: Param<Tensor<2>>,
        weight: Param<Tensor<2>>,
        bias: Param<Tensor<1>>,
    }

    fn tiny() -> Tiny {
        let device = Device::flex().autodiff();
        device.seed(3);
        let random = |shape: [usize; 2]| {
            let tensor = Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.3), &device);
            Param::from_tensor(tensor.require_grad())
        };
        let bias = Tensor::<1>::from_data(TensorData::from([0.0f32; 1]), &device).require_grad();
        Tiny { embedding: random([4, 8]), weight: random([8, 1]), bias: Param::from_tensor(bias) }
    }

    #[derive(Debug, Default)]
    struct Curve {
        stop_at: Option<u64>,
        stop: AtomicBool,
        calls: Cell<u64>,
    }

    impl Curve {
        fn error(model: &Tiny, start: u64) -> Tensor<1> {
            let values = |i: u64| ((start * 16 + i) as f32 * 0.37).sin();
            let points: Vec<f32> = (0..64).map(values).collect();
            let truth: Vec<f32> = points.chunks(4).map(|p| p[0] * p[1] + 0.5 * p[2]).collect();
            let device = model.weight.val().device();
            let x = Tensor::<2>::from_data(TensorData::new(points, [16, 4]), &device);
            let y = Tensor::<2>::from_data(TensorData::new(truth, [16, 1]), &device);
            let hidden = x.matmul(model.embedding.val()).tanh();
            let error = hidden.matmul(model.weight.val()) + model.bias.val().unsqueeze() - y;
            (error.clone() * error).mean()
        }
    }

    impl Objective for Curve {
        type Model = Tiny;

        fn loss(&self, model: &Tiny, position: Position) -> Result<Tensor<1>, TrainError> {
            self.calls.set(self.calls.get() + 1);
            if Some(position.step + 1) == self.stop_at {
                self.stop.store(true, Ordering::Relaxed);
            }
            Ok(Self::error(model, position.step * position.parts + position.part))
        }

        fn held_out_loss(&self, model: &Tiny) -> Result<f32, TrainError> {
            assert!(!model.weight.val().device().is_autodiff());
            Ok(Self::error(model, 1_000).into_scalar())
        }

        fn items(&self) -> u64 {
            16
        }

        fn identity(&self) -> String {
            "curve".into()
        }
    }

    fn settings() -> Settings {
        let schedule = Schedule { peak: 0.02, floor: 0.002, warm_up: 5, steps: 60 };
        let optimizer = AdamW { average: 0.9, ..AdamW::default() };
        Settings { schedule, optimizer, parts: 2, checkpoint_every: 7, evaluate_every: 20 }
    }

    fn train(
        curve: &Curve,
        folder: &Path,
        settings: Settings,
        resume: bool,
    ) -> Result<Outcome<Tiny>, TrainError> {
        let run = Run { objective: curve, settings, folder, stop: &curve.stop, report: &mut |_| {} };
        run.train(tiny(), resume)
    }

    fn bits(model: &Tiny) -> Vec<u32> {
        let mut bits = Vec::new();
        parameters::read(model, |_, _, values| bits.extend(values.iter().map(|value| value.to_bits())));
        bits
    }

    #[test]
    fn a_stopped_and_resumed_run_equals_an_unbroken_one() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let whole = train(&Curve::default(), one.path(), settings(), false).unwrap();
        let stopping = Curve { stop_at: Some(23), ..Curve::default() };
        let first = train(&stopping, two.path(), settings(), false).unwrap();
        assert!(first.interrupted && first.step == 23);
        let second = train(&Curve::default(), two.path(), settings(), true).unwrap();
        assert!(!second.interrupted && second.step == 60);
        assert_eq!(bits(&whole.model), bits(&second.model));
        let losses = |folder: &Path| -> Vec<(u32, Option<f32>)> {
            let records = log::read(&folder.join("log.jsonl")).unwrap();
            records.iter().map(|record| (record.loss.to_bits(), record.held_out)).collect()
        };
        assert_eq!(losses(one.path()), losses(two.path()));
        assert_eq!(losses(one.path()).len(), 60);
        assert!(one.path().join("loss.html").is_file());
    }

    #[test]
    fn a_killed_run_goes_on_from_its_last_checkpoint() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let whole = train(&Curve::default(), one.path(), settings(), false).unwrap();
        let mut cut = settings();
        cut.schedule.steps = 60;
        cut.checkpoint_every = 10;
        let killed = std::panic::catch_unwind(|| {
            let curve = Curve::default();
            let mut report = |record: &Record| assert!(record.step < 38, "killed");
            let run = Run {
                objective: &curve,
                settings: cut,
                folder: two.path(),
                stop: &curve.stop,
                report: &mut report,
            };
            run.train(tiny(), false)
        });
        assert!(killed.is_err());
        let curve = Curve::default();
        let resumed = train(&curve, two.path(), cut, true).unwrap();
        assert_eq!(curve.calls.get(), 2 * 30);
        assert_eq!(bits(&whole.model), bits(&resumed.model));
    }

    #[test]
    fn it_learns_and_refuses_the_checkpoint_of_another_run() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = train(&Curve::default(), folder.path(), settings(), false).unwrap();
        let before = Curve::error(&tiny(), 1_000).into_scalar::<f32>();
        let after = Curve::error(&outcome.model, 1_000).into_scalar::<f32>();
        assert!(after < 0.5 * before, "{before} to {after}");
        let other = Settings { parts: 1, ..settings() };
        let error = train(&Curve::default(), folder.path(), other, true).unwrap_err();
        assert!(matches!(error, TrainError::OtherRun { .. }), "{error}");
    }

    #[test]
    fn a_diverging_run_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut wild = settings();
        wild.schedule = Schedule { peak: f32::INFINITY, ..wild.schedule };
        let error = train(&Curve::default(), folder.path(), wild, false).unwrap_err();
        assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
    }
}
