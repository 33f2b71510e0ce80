//! What methods lose: a text's beginning is read as a prompt, and every token behind it in a step of its own, as
//! if it were being generated; so methods that thin out a cache, choose keys or leave out layers do what
//! they do.

use crate::generate::dictation::{Dictation, Heard};
use crate::generate::{GenerateError, Request, Scheduler};
use crate::methods::Plan;
use crate::nn::decoder::Decoder;

/// What the model thinks of each of `tokens` behind `prompt`.
///
/// # Errors
/// If the prompt is empty, all of it is longer than the model reads, or a method fails.
pub fn heard(
    model: &Decoder,
    plan: &Plan,
    prompt: &[u32],
    tokens: &[u32],
) -> Result<Vec<Heard>, GenerateError> {
    let (length, limit) = (prompt.len() + tokens.len(), model.config().max_positions);
    if length > limit {
        return Err(GenerateError::PromptTooLong { tokens: length, limit });
    }
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: tokens.len(),
        dictation: Some(Dictation::new(tokens.to_vec())),
        ..Request::default()
    };
    let mut scheduler = Scheduler::new(model);
    let id = scheduler.add(request, plan.begin())?;
    scheduler.run(|_, _| ())?;
    Ok(scheduler.heard(id).unwrap_or_default())
}

/// The losses in nats of the tokens of `text` from `first` on; the token before is the first that is read in a
/// step.
///
/// # Errors
/// If the text does not fit the model, or a method fails.
pub fn losses(model: &Decoder, plan: &Plan, text: &[u32], first: usize) -> Result<Vec<f32>, GenerateError> {
    let (prompt, rest) = text.split_at((first.max(2) - 1).min(text.len()));
    Ok(heard(model, plan, prompt, rest)?.iter().skip(1).map(|heard| heard.loss).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::quality;
    use crate::methods::{ModelFacts, Selection};
    use crate::models;
    use crate::nn::vars::{Precision, Random, Storage, Vars};

    #[test]
    fn step_by_step_the_losses_are_those_of_one_pass() {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 40,
        });
        let decoder = (models::architecture(&config).unwrap().config)(&config).unwrap();
        let storage = Storage::Packed(Precision::Native);
        let model = Decoder::new(decoder, &Vars::new(&Random { seed: 3 }, &storage)).unwrap();
        let plan = |methods: &[&str]| {
            Plan::new(&Selection::parse(methods).unwrap(), &ModelFacts::example()).unwrap()
        };
        let text: Vec<u32> = (0..40).map(|index| index * index % 61).collect();
        let whole = quality::token_losses(&model, &text, 40);
        let close = |found: &[f32]| found.iter().zip(&whole[19..]).all(|(a, b)| (a - b).abs() < 1e-4);
        let dense = losses(&model, &plan(&[]), &text, 20).unwrap();
        assert!(dense.len() == 20 && close(&dense), "{dense:?}");
        for method in
            ["tidaldecode:budget=2,start=0", "h2o:budget=6,slack=0", "streaming-llm:budget=6,slack=0"]
        {
            let found = losses(&model, &plan(&[method]), &text, 20).unwrap();
            assert!(found.len() == 20 && !close(&found), "{method} does not read some keys");
        }
        let longer = heard(&model, &plan(&[]), &text, &[1]);
        assert!(matches!(longer, Err(GenerateError::PromptTooLong { tokens: 41, limit: 40 })));
        assert!(heard(&model, &plan(&[]), &[], &[1]).is_err());
    }
}
