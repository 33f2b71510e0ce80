//! How well draft-based methods find things: key retrieval in long prompts, answered by a model alone,
//! by its draft alone, and by the model with each method. Arguments: MODEL DRAFT [tokens samples METHOD...], where
//! methods as `--with` takes them are measured instead of the usual ones. Prints
//! one line of JSON for each: the share of answers right to the letter, and the share of tokens that the
//! model alone would also have written.

use std::error::Error;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use whit::generate::{Request, Scheduler};
use whit::load::{self, ModelFiles, Options, Tokenizer};
use whit::methods::{Companions, DraftModel, ModelFacts, Plan, Selection, Vocabulary};
use whit::models;
use whit::nn::decoder::Decoder;
use whit::nn::vars::{Precision, Storage};
use whit::world::corpus::{Corpus, Limits};
use whit::world::tasks::{Lines, Task};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, draft, rest @ ..] = &arguments[..] else {
        return Err("draft_approx MODEL DRAFT [TOKENS SAMPLES METHOD...]".into());
    };
    let numbers: Vec<usize> = rest.iter().map_while(|text| text.parse().ok()).collect();
    let (tokens, samples) = (*numbers.first().unwrap_or(&1024), *numbers.get(1).unwrap_or(&50));
    let files = load::open(model, &Options::default())?;
    let draft_files = load::open(draft, &Options::default())?;
    let (target, small) = (decoder(&files)?, decoder(&draft_files)?);
    let companions = Companions {
        own: Some(Vocabulary::of(&files)?),
        draft: Some(DraftModel::new(&draft_files, Some(decoder(&draft_files)?))?),
        ..Companions::default()
    };
    let facts = ModelFacts { companions, ..models::facts(&files.config)? };
    let tokenizer = files.tokenizer.as_ref().ok_or("the model has no tokenizer")?;
    let questions = questions(tokenizer, tokens, samples)?;
    let bench = Bench {
        facts,
        alone: questions.iter().map(|one| one.plainly(&target)).collect::<Outcome<_>>()?,
        questions,
    };
    bench.report("model alone", &target, None, usize::MAX)?;
    bench.report("draft alone", &small, None, usize::MAX)?;
    match rest.iter().filter(|word| word.parse::<usize>().is_err()).collect::<Vec<_>>()[..] {
        [] => bench.compare(&target, tokens),
        ref methods => {
            methods.iter().try_for_each(|with| bench.report("", &target, Some(with.to_string()), usize::MAX))
        }
    }
}

/// What is asked, and what the model says without any method.
struct Bench {
    facts: ModelFacts,
    questions: Vec<Question>,
    alone: Vec<Vec<u32>>,
}

impl Bench {
    /// The methods with the budgets that are compared.
    fn compare(&self, target: &Decoder, tokens: usize) -> Outcome<()> {
        let (few, quarter) = (tokens / 10, tokens / 4);
        let rows = [
            ("SnapKV, a tenth", format!("spec-kv:capacity={few},lookahead=0")),
            ("SpecKV, a tenth", format!("spec-kv:capacity={few}")),
            (
                "SpecKV, read sparsely, nothing dropped",
                format!("spec-kv:evict=false,band=128,columns={quarter}"),
            ),
            ("SpecPC, a quarter", format!("spec-pc:capacity={quarter}")),
            ("SpecKV-PC, half and a tenth", format!("spec-kv:capacity={few},prompt={}", tokens / 2)),
        ];
        self.report("the last quarter", target, None, quarter)?;
        rows.into_iter().try_for_each(|(setting, with)| self.report(setting, target, Some(with), usize::MAX))
    }

    /// Asks all questions, with prompts cut to their `last` tokens.
    fn report(&self, setting: &str, model: &Decoder, method: Option<String>, last: usize) -> Outcome<()> {
        let plan = Plan::new(&Selection::parse(method.as_slice())?, &self.facts)?;
        let (mut right, mut same, mut tokens) = (0, 0, 0);
        for (question, alone) in self.questions.iter().zip(&self.alone) {
            let answer = question.answer(model, &plan, last)?;
            right += usize::from(answer == question.answer);
            same += answer.iter().zip(alone).filter(|(a, b)| a == b).count();
            tokens += alone.len();
        }
        let right = right as f64 / self.questions.len() as f64;
        let same = same as f64 / tokens as f64;
        let method = method.unwrap_or_default();
        println!(
            "{{\"setting\": \"{setting}\", \"with\": \"{method}\", \"right\": {right:.3}, \"tokens_as_alone\": {same:.3}}}"
        );
        Ok(())
    }
}

fn decoder(files: &ModelFiles) -> Outcome<Decoder> {
    let storage = Storage::Packed(Precision::Native);
    Ok(models::decoder(&files.config, files.weights.as_ref(), &storage, &|_| {})?)
}

/// A prompt and the tokens that answer it.
struct Question {
    prompt: Vec<u32>,
    answer: Vec<u32>,
}

/// Key retrieval among lines of code that no recipe trains on, each prompt a little shorter than `tokens`.
fn questions(tokenizer: &Tokenizer, tokens: usize, samples: usize) -> Outcome<Vec<Question>> {
    let corpus = Corpus::of_dependencies(Path::new("."), Limits::default())?;
    let lines = Lines::new(corpus.held_out.iter().map(|document| document.text.as_str()));
    let mut random = ChaCha8Rng::seed_from_u64(2506);
    let mut found = Vec::new();
    while found.len() < samples {
        let sample = Task::Retrieval.sample(&lines, random.random_range(tokens..4 * tokens), &mut random);
        let prompt = tokenizer.encode(&sample.prompt, false)?;
        let answer = tokenizer.encode(&sample.answer, false)?;
        if (tokens * 9 / 10..=tokens).contains(&prompt.len()) {
            found.push(Question { prompt, answer });
        }
    }
    Ok(found)
}

impl Question {
    /// The greedy answer, if the prompt is cut to its `last` tokens.
    fn answer(&self, model: &Decoder, plan: &Plan, last: usize) -> Outcome<Vec<u32>> {
        let prompt = self.prompt[self.prompt.len().saturating_sub(last)..].to_vec();
        let mut scheduler = Scheduler::new(model);
        scheduler
            .add(Request { prompt, max_tokens: self.answer.len(), ..Request::default() }, plan.begin())?;
        let mut text: Vec<u32> = Vec::new();
        scheduler.run(|_, event| text.extend(&event.tokens))?;
        Ok(text)
    }

    /// The answer of `model` by itself.
    fn plainly(&self, model: &Decoder) -> Outcome<Vec<u32>> {
        let facts = ModelFacts::decoder("", model.config());
        self.answer(model, &Plan::new(&Selection::default(), &facts)?, usize::MAX)
    }
}
