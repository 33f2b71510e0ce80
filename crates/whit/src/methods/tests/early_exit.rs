//! By hand, and against models that really end where a step does.

use super::*;
use crate::generate::cache::{CacheShape, KvCache};
use crate::generate::forward::{Span, forward};
use crate::generate::{Request, Scheduler};
use crate::methods::testing::{model, plainly, plan, prompt, run};
use crate::nn::decoder::Decoder;
use whit_kernels::op;

fn facts(model: &Decoder) -> ModelFacts {
    ModelFacts::decoder("llama", model.config())
}

fn leaver(text: &str) -> Box<dyn Exit> {
    plan(text, &ModelFacts::example()).unwrap().begin().exit.unwrap()
}

fn leaves(exit: &mut dyn Exit, layer: usize, hidden: &[f32], logits: &[f32]) -> bool {
    exit.looks(layer) && {
        let tokens = hidden.len() / 2;
        exit.leaves(&Halfway { layers: [layer, 4], tokens, hidden, logits: &|| logits.to_vec() })
    }
}

// --- By hand ------------------------------------------------------------------------------------

#[test]
fn measures_are_what_they_are_called() {
    // Probabilities 3/6, 2/6 and 1/6.
    let logits = [1f32.ln(), 3f32.ln(), 2f32.ln()];
    let [top, second] = likeliest(&logits);
    assert!((top - 0.5).abs() < 1e-6 && (second - 1.0 / 3.0).abs() < 1e-6);
    for (measure, sure) in [("margin", 1.0 / 6.0), ("top", 0.5)] {
        for (threshold, ends) in [(sure - 0.01, true), (sure + 0.01, false)] {
            let mut exit = leaver(&format!("early-exit:measure={measure},threshold={threshold}"));
            assert_eq!(leaves(&mut *exit, 2, &[1.0, 0.0], &logits), ends, "{measure} {threshold}");
        }
    }
}

#[test]
fn a_state_is_compared_with_that_of_the_layer_before_in_the_same_step() {
    let mut exit = leaver("early-exit:measure=state,threshold=0.79,first=2");
    assert!(!leaves(&mut *exit, 1, &[1.0, 0.0], &[]) && leaves(&mut *exit, 2, &[0.8, 0.6], &[]));
    // The state that ended a step is not what the next one is compared with.
    assert!(!leaves(&mut *exit, 1, &[0.8, 0.6], &[]) && !leaves(&mut *exit, 2, &[-0.6, 0.8], &[]));
    assert!(leaves(&mut *exit, 3, &[-0.6, 0.8], &[]));
    assert!(exit.report().starts_with("2.50 of 4 layers a step, 100 % of 2 steps"), "{}", exit.report());
}

#[test]
fn the_least_sure_token_of_a_draft_decides() {
    let logits = [9.0, 0.0, 0.0, 1.0, 0.9, 0.8];
    let mut exit = leaver("early-exit:threshold=0.5");
    assert!(!leaves(&mut *exit, 2, &[1.0; 4], &logits));
    assert!(leaves(&mut *exit, 2, &[1.0; 2], &logits[..3]));
}

#[test]
fn steps_are_looked_at_where_the_knobs_say() {
    let exit = leaver("early-exit:first=1,every=2");
    assert_eq!([0, 1, 2, 3].map(|layer| exit.looks(layer)), [false, true, false, true]);
    let exit = leaver("early-exit:first=2,measure=state");
    assert_eq!([0, 1, 2, 3].map(|layer| exit.looks(layer)), [false, true, true, true]);
}

#[test]
fn a_first_layer_that_the_model_has_not_is_named() {
    let refusal = plan("early-exit:first=4", &ModelFacts::example()).unwrap_err().to_string();
    assert!(refusal.contains("first") && refusal.contains("4 layers"), "{refusal}");
}

// --- On random models ---------------------------------------------------------------------------

/// A step that always ends after two layers is a step of the first two layers: the text behind the first
/// token, which the whole model gives, is that of a model of two.
#[test]
fn ending_always_is_a_shorter_model() {
    let (whole, short) = (model(4, 512, 1), model(2, 512, 1));
    let ids = prompt(30);
    let exiting = plan("early-exit:threshold=0,first=2", &facts(&whole)).unwrap();
    let (text, statistics) = run(&whole, &exiting, &ids, 40);
    let longer = [&ids[..], &text[..1]].concat();
    assert_eq!(text[..1], plainly(&whole, &ids, 1));
    assert_eq!(text[1..], plainly(&short, &longer, 39));
    assert_eq!(statistics.depth.unwrap(), "2.00 of 4 layers a step, 100 % of 39 steps ended early");
}

/// Above 1 the method is off; just below it is on and never sure.
#[test]
fn a_threshold_that_nothing_passes_leaves_the_text_as_it_is() {
    let model = model(4, 512, 1);
    for threshold in ["1.01", "1"] {
        let plan =
            plan(&format!("early-exit:threshold={threshold},measure=top,first=1"), &facts(&model)).unwrap();
        assert_eq!(run(&model, &plan, &prompt(30), 64).0, plainly(&model, &prompt(30), 64));
    }
}

/// The rows of a decoded token after a pass.
fn cached(model: &Decoder, mut exit: Option<Box<dyn Exit>>) -> (KvCache, Vec<f32>) {
    let config = model.config();
    let shape = CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
    let mut cache = KvCache::new(shape, 40);
    forward(model, vec![Span::causal(&mut cache, prompt(20), 20)]).unwrap();
    let span = Span::causal(&mut cache, vec![7], 21);
    let exit = exit.as_deref_mut().map(|exit| exit as &mut dyn Exit);
    let hidden = op::host(forward(model, vec![Span { exit, ..span }]).unwrap()).into_vec();
    (cache, hidden)
}

#[test]
fn skipped_layers_get_the_keys_and_values_of_the_last_state() {
    let (whole, short) = (model(4, 512, 1), model(2, 512, 1));
    let exit = plan("early-exit:threshold=0,first=2", &facts(&whole)).unwrap().begin().exit;
    let (filled, hidden) = cached(&whole, exit);
    let (full, _) = cached(&whole, None);
    assert_eq!(hidden, cached(&short, None).1);
    for layer in 0..4 {
        for (filled, full) in filled.layer(layer).iter().zip(full.layer(layer)) {
            assert_eq!((filled.len(), filled.positions()[20]), (21, 20));
            let far =
                filled.key(20).iter().chain(filled.value(20)).zip(full.key(20).iter().chain(full.value(20)));
            let far = far.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The state in front of layer 2 is the right one; that in front of layer 3 is not.
            assert_eq!(far < 1e-6, layer < 3, "layer {layer}: {far}");
        }
    }
}

/// Whatever the threshold, each request gets what it gets alone; and between never and always there is one at
/// which steps end at different layers.
#[test]
fn requests_end_their_steps_each_on_its_own() {
    let model = model(5, 512, 1);
    let prompts: Vec<Vec<u32>> = (5..9).map(prompt).collect();
    let mut depths = Vec::new();
    for threshold in [0.011, 0.012, 0.014, 0.017, 0.02, 0.03, 0.05] {
        let method = format!("early-exit:threshold={threshold},measure=top,first=1");
        let plan = plan(&method, &facts(&model)).unwrap();
        let mut scheduler = Scheduler::new(&model);
        for prompt in &prompts {
            let request =
                Request { prompt: prompt.clone(), max_tokens: 24, traced: true, ..Request::default() };
            scheduler.add(request, plan.begin()).unwrap();
        }
        let mut texts: Vec<Vec<u32>> = vec![Vec::new(); 4];
        scheduler.run(|_, event| texts[event.id].extend(&event.tokens)).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for (id, prompt) in prompts.iter().enumerate() {
            assert_eq!(texts[id], run(&model, &plan, prompt, 24).0, "{threshold}");
            let trace = scheduler.trace(id).unwrap();
            assert!(trace.steps()[0].layers == 5 && trace.steps().len() == 24);
            seen.extend(trace.steps()[1..].iter().map(|step| step.layers));
        }
        depths.push(seen);
    }
    assert!(depths.iter().any(|seen| seen.len() > 2), "steps of different depths: {depths:?}");
}
