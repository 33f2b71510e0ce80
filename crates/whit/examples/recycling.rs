//! Tokens a pass that Token Recycling gets on text of crates that the model never saw, with a table that starts hot
//! (it has seen as many other prompts before) and cold (a new one for every prompt). Arguments: MODEL [PROMPTS NEW].

use std::error::Error;

use whit::generate::{Request, Scheduler};
use whit::load::{self, Options, Tokenizer};
use whit::methods::{ModelFacts, Plan, Selection};
use whit::models;
use whit::nn::decoder::Decoder;
use whit::nn::vars::{Precision, Storage};
use whit::world::corpus::{Corpus, Limits};

/// Tokens of a prompt.
const PROMPT: usize = 96;
/// What is measured; the first is what the others are compared with.
const ROWS: [(&str, &str); 5] = [
    ("plain", ""),
    ("80 nodes, hot", "token-recycling:tree=80,tune=false"),
    ("80 nodes, cold", "token-recycling:tree=80,tune=false,hot=false"),
    ("tuned, hot", "token-recycling"),
    ("tuned, cold", "token-recycling:hot=false"),
];

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What one way of decoding did over all prompts.
#[derive(Default)]
struct Row {
    tokens: Vec<u32>,
    all: Rate,
    /// Of the first hundred tokens of every prompt.
    first: Rate,
    seconds: f64,
}

#[derive(Default)]
struct Rate {
    tokens: usize,
    passes: usize,
}

impl Rate {
    fn add(&mut self, tokens: usize) {
        self.tokens += tokens;
        self.passes += 1;
    }

    fn value(&self) -> f64 {
        self.tokens as f64 / self.passes.max(1) as f64
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (count, new) = (number(1, 20)?, number(2, 160)?);
    let files = load::open(arguments.first().map_or("models/rust-lm", String::as_str), &Options::default())?;
    let facts = models::facts(&files.config)?;
    let storage = Storage::Packed(Precision::Native);
    let model = models::decoder(&files.config, files.weights.as_ref(), &storage, &|_| {})?;
    let prompts = prompts(files.tokenizer.as_ref().ok_or("the model has no tokenizer")?, 2 * count)?;
    let (before, measured) = prompts.split_at(count);
    let plans = ROWS.iter().map(|(_, with)| plan(with, &facts)).collect::<Outcome<Vec<_>>>()?;
    for prompt in before {
        plans.iter().try_for_each(|plan| run(&model, plan, prompt, new, &mut Row::default()))?;
    }
    let mut rows: Vec<Row> = ROWS.iter().map(|_| Row::default()).collect();
    for prompt in measured {
        plans.iter().zip(&mut rows).try_for_each(|(plan, row)| run(&model, plan, prompt, new, row))?;
    }
    println!("{count} prompts of {PROMPT} tokens, {new} new ones each, after as many others");
    println!("| | tokens a pass | in the first 100 | speed-up | same tokens |\n|---|---:|---:|---:|---|");
    for ((name, _), row) in ROWS.iter().zip(&rows) {
        let (all, first) = (row.all.value(), row.first.value());
        let (faster, same) = (rows[0].seconds / row.seconds, row.tokens == rows[0].tokens);
        println!("| {name} | {all:.2} | {first:.2} | {faster:.2} | {} |", if same { "yes" } else { "NO" });
    }
    Ok(())
}

fn plan(with: &str, facts: &ModelFacts) -> Outcome<Plan> {
    let methods: Vec<&str> = Some(with).filter(|with| !with.is_empty()).into_iter().collect();
    Ok(Plan::new(&Selection::parse(&methods)?, facts)?.live()?)
}

/// The beginnings of documents of held-out crates, no two of one document.
fn prompts(tokenizer: &Tokenizer, count: usize) -> Outcome<Vec<Vec<u32>>> {
    let corpus = Corpus::of_dependencies(&std::env::current_dir()?, Limits::default())?;
    let mut prompts = Vec::new();
    for document in &corpus.held_out {
        let ids = tokenizer.encode(&document.text, false)?;
        if ids.len() >= 2 * PROMPT && prompts.len() < count {
            prompts.push(ids[PROMPT..2 * PROMPT].to_vec());
        }
    }
    if prompts.len() < count { Err("too little text is held out".into()) } else { Ok(prompts) }
}

fn run(model: &Decoder, plan: &Plan, prompt: &[u32], new: usize, row: &mut Row) -> Outcome<()> {
    let mut scheduler = Scheduler::new(model);
    let request = Request { prompt: prompt.to_vec(), max_tokens: new, ..Request::default() };
    let id = scheduler.add(request, plan.begin())?;
    let mut steps = Vec::new();
    scheduler.run(|_, event| {
        row.tokens.extend(&event.tokens);
        steps.push(event.tokens.len());
    })?;
    // The first token comes with the prompt.
    let mut passed = 0;
    for tokens in steps.into_iter().filter(|&tokens| tokens > 0).skip(1) {
        row.all.add(tokens);
        if passed < 100 {
            row.first.add(tokens);
        }
        passed += tokens;
    }
    row.seconds += scheduler.statistics(id).map_or(0.0, |statistics| statistics.decode_seconds);
    Ok(())
}
