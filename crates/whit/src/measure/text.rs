//! Measuring text generation: the same prompts with and without methods, interleaved.

use super::cost;
use super::pairs::{self, Spread};
use super::quality;
use super::record::{BASELINE, Record, Setting};
use crate::generate::{GenerateError, Request, Scheduler, Statistics};
use crate::methods::Plan;
use crate::nn::decoder::Decoder;

/// What to measure.
#[derive(Debug)]
pub struct TextTask<'m> {
    /// The model.
    pub model: &'m Decoder,
    /// What to continue; all of them one after the other in every run.
    pub prompts: Vec<Request>,
    /// Tokens to add to each.
    pub new_tokens: usize,
    /// Rounds to time, after one that is not counted.
    pub rounds: usize,
    /// Text whose loss is reported.
    pub held_out: Option<Vec<u32>>,
    /// Where and with what.
    pub setting: Setting,
}

/// One way of doing the task.
#[derive(Debug)]
pub struct Variant {
    /// Its name in the table.
    pub name: String,
    /// Its methods.
    pub plan: Plan,
}

/// What one run gave.
#[derive(Clone, Debug, Default)]
struct Run {
    tokens: Vec<u32>,
    statistics: Statistics,
}

impl TextTask<'_> {
    /// Measures the baseline and every variant; the baseline's record comes first. `progress` is called
    /// after each run.
    ///
    /// # Errors
    /// If a prompt does not fit the model or a method fails.
    pub fn measure(
        &self,
        baseline: Plan,
        variants: Vec<Variant>,
        progress: &dyn Fn(),
    ) -> Result<Vec<Record>, GenerateError> {
        let first = Variant { name: BASELINE.to_owned(), plan: baseline };
        let all: Vec<Variant> = std::iter::once(first).chain(variants).collect();
        for variant in &all {
            self.run(&variant.plan)?;
            progress();
        }
        let runs = pairs::interleave(all.len(), self.rounds.max(1), |index| {
            let run = self.run(&all[index].plan);
            progress();
            run
        })?;
        let loss = self.held_out.as_ref().and_then(|text| quality::loss(self.model, text, 512));
        let mut records: Vec<Record> =
            all.iter().zip(&runs).map(|(variant, own)| self.record(variant, own, &runs[0])).collect();
        records[0].loss = loss;
        Ok(records)
    }

    fn run(&self, plan: &Plan) -> Result<Run, GenerateError> {
        let mut total = Run::default();
        for prompt in &self.prompts {
            let mut scheduler = Scheduler::new(self.model);
            let request = Request { max_tokens: self.new_tokens, ..prompt.clone() };
            let id = scheduler.add(request, plan.begin())?;
            scheduler.run(|_, event| total.tokens.extend(&event.tokens))?;
            total.statistics.add(&scheduler.statistics(id).unwrap_or_default());
        }
        Ok(total)
    }

    fn record(&self, variant: &Variant, runs: &[Run], baseline: &[Run]) -> Record {
        let seconds =
            |runs: &[Run]| -> Vec<f64> { runs.iter().map(|run| run.statistics.decode_seconds).collect() };
        let prompt =
            |runs: &[Run]| -> Vec<f64> { runs.iter().map(|run| run.statistics.prompt_seconds).collect() };
        let (first, decode) = (Spread::of(&prompt(runs)), Spread::of(&seconds(runs)));
        let last = runs.last().cloned().unwrap_or_default();
        let statistics = &last.statistics;
        let decoded = statistics.new_tokens.saturating_sub(self.prompts.len()) as f64;
        let rows = statistics.decode_rows as u64;
        let keys = (statistics.prompt_tokens / self.prompts.len().max(1)) as u64;
        let agreement = baseline.last().map_or(1.0, |run| quality::agreement(&run.tokens, &last.tokens));
        let mut record = Record {
            task: "text",
            setting: self.setting.clone(),
            methods: variant.name.clone(),
            original_tokens: statistics.original_tokens,
            prompt_tokens: statistics.prompt_tokens,
            new_tokens: statistics.new_tokens,
            first_token_seconds: first,
            first_token_speedup: pairs::ratio(&prompt(baseline), &prompt(runs)),
            prompt_rate: rate(statistics.prompt_tokens as f64, first.median),
            decode_seconds: decode,
            decode_rate: rate(decoded, decode.median),
            tokens_per_pass: decoded / (statistics.decode_passes.max(1)) as f64,
            speedup: pairs::ratio(&seconds(baseline), &seconds(runs)),
            decode_gmacs: cost::decoder(self.model.config(), rows, keys, rows).total() as f64 / 1e9,
            cache_bytes: statistics.cache_bytes,
            weight_bytes: self.model.bytes(),
            peak_bytes: super::memory::peak(),
            agreement,
            loss: None,
            warnings: statistics.draft.iter().filter(|text| text.contains("switched off")).cloned().collect(),
        };
        record.judge();
        record
    }
}

fn rate(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}
