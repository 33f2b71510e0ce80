//! What the drafting methods promise: the same text in fewer passes, with drafters that are good, bad,
//! trained and untrained.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use burn::tensor::Device;
use whit::generate::{Request, Sampler, Sampling, Scheduler};
use whit::load::Safetensors;
use whit::methods::{
    Companions, DraftModel, ModelFacts, Plan, Selection, SideWeights, TokenTree, Vocabulary,
};
use whit::models;
use whit::nn::decoder::Decoder;
use whit::nn::vars::{Precision, Random, Storage, Vars};
use whit::train::drafter::{DrafterRecipe, Drafting, save_drafter, write_texts};
use whit::train::optimizer::AdamW;
use whit::train::run::{Run, Settings};
use whit::train::schedule::Schedule;
use whit_kernels::op::{self, Host};

const VOCABULARY: usize = 500;

/// A decoder of 4 layers and width 128, or smaller, with random weights.
fn decoder(layers: usize, width: usize, seed: u64) -> Decoder {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    });
    let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
    let storage = Storage::Packed(Precision::Native);
    Decoder::new(config, &Vars::new(&Random { seed }, &storage)).unwrap()
}

fn facts(model: &Decoder, companions: Companions) -> ModelFacts {
    ModelFacts { companions, ..ModelFacts::decoder("llama", model.config()) }
}

fn with_draft(model: &Decoder, draft: Decoder) -> ModelFacts {
    let draft = DraftModel {
        vocabulary: Vocabulary { origin: "draft".into(), size: VOCABULARY, fingerprint: None },
        facts: Box::new(ModelFacts::decoder("llama", draft.config())),
        decoder: Some(Arc::new(draft)),
    };
    facts(model, Companions { draft: Some(draft), ..Companions::default() })
}

fn with_weights(model: &Decoder, weights: SideWeights) -> ModelFacts {
    let weights = BTreeMap::from([("chimera".to_owned(), weights)]);
    facts(model, Companions { weights, ..Companions::default() })
}

fn plan(facts: &ModelFacts, method: &str) -> Plan {
    Plan::new(&Selection::parse(&[method]).unwrap(), facts).unwrap()
}

fn prompt(seed: u32) -> Vec<u32> {
    (0..seed % 17 + 1).map(|index| (index * index + 7 * seed) % VOCABULARY as u32).collect()
}

/// Continues 20 prompts together; gives the texts and the tokens of a pass.
fn run(model: &Decoder, plan: &Plan, tokens: usize, temperature: f32) -> (Vec<Vec<u32>>, f64) {
    let mut scheduler = Scheduler::new(model).with_chunk(7);
    for seed in 0..20 {
        let sampling = Sampling { temperature, seed: seed.into(), ..Sampling::default() };
        let request = Request { prompt: prompt(seed), max_tokens: tokens, sampling, ..Request::default() };
        scheduler.add(request, plan.begin()).unwrap();
    }
    let mut texts = vec![Vec::new(); 20];
    scheduler.run(|_, event| texts[event.id].extend(&event.tokens)).unwrap();
    let passes: usize = (0..20).map(|id| scheduler.statistics(id).unwrap().decode_passes).sum();
    (texts, (20 * (tokens - 1)) as f64 / passes as f64)
}

/// Greedy and sampled texts of [`large`] are those of plain decoding; gives the tokens of a greedy pass.
fn lossless(model: &Decoder, facts: &ModelFacts, method: &str) -> f64 {
    let drafting = plan(facts, method);
    let (found, rate) = run(model, &drafting, 128, 0.0);
    assert!(found == PLAIN[0], "{method}: greedy text differs");
    assert!(run(model, &drafting, 24, 0.3).0 == PLAIN[1], "{method}: sampled text differs");
    rate
}

/// The model whose texts are compared.
fn large() -> Decoder {
    decoder(4, 128, 5)
}

/// What it writes without a draft, greedily and by samples.
static PLAIN: LazyLock<[Vec<Vec<u32>>; 2]> = LazyLock::new(|| {
    let model = large();
    let plain = plan_plain(&facts(&model, Companions::default()));
    [(128, 0.0), (24, 0.3)].map(|(tokens, temperature)| run(&model, &plain, tokens, temperature).0)
});

fn plan_plain(facts: &ModelFacts) -> Plan {
    Plan::new(&Selection::parse::<&str>(&[]).unwrap(), facts).unwrap()
}

#[test]
fn looking_up_leaves_the_text_as_it_is() {
    let model = large();
    let facts = facts(&model, Companions::default());
    let rate = lossless(&model, &facts, "prompt-lookup:tune=false");
    assert!(rate > 1.0, "random models repeat themselves: {rate}");
}

#[test]
fn a_draft_model_leaves_the_text_as_it_is_whether_it_is_right_or_wrong() {
    let model = large();
    let method = "draft-model:tokens=4,confidence=0,tune=false";
    let wrong = lossless(&model, &with_draft(&model, decoder(1, 32, 9)), method);
    let right = lossless(&model, &with_draft(&model, decoder(4, 128, 5)), method);
    // Random weights depend on their names, so these are the model's own first layers (LayerSkip).
    lossless(&model, &with_draft(&model, decoder(2, 128, 5)), method);
    assert!(right > 4.7, "the model itself drafts 4 right tokens a pass, but for the end: {right}");
    assert!(wrong < right, "{wrong} {right}");
}

#[test]
fn a_draft_model_that_is_not_sure_drafts_less() {
    let model = decoder(2, 64, 5);
    let facts = with_draft(&model, decoder(2, 64, 5));
    let rate = |confidence: &str| {
        run(&model, &plan(&facts, &format!("draft-model:confidence={confidence},tune=false")), 40, 0.0).1
    };
    assert_eq!(rate("1"), 1.0);
    assert!(rate("0") > 6.0);
}

fn recipe(steps: u64) -> DrafterRecipe {
    DrafterRecipe {
        heads: 5,
        previous: true,
        distill_weight: 0.1,
        texts: (32, 16),
        lengths: (8, 41),
        rows: 8,
        seed: 1,
        settings: Settings {
            schedule: Schedule { peak: 3e-3, floor: 1e-3, warm_up: 2, steps },
            optimizer: AdamW { weight_decay: 0.0, average: 0.5, ..AdamW::default() },
            parts: 1,
            checkpoint_every: 1000,
            evaluate_every: 1000,
        },
    }
}

#[test]
fn a_drafter_leaves_the_text_as_it_is_untrained_and_trained() {
    let model = large();
    let random = SideWeights { origin: "random".into(), source: Arc::new(Random { seed: 2 }) };
    let method = "chimera:tune=false";
    let untrained = lossless(&model, &with_weights(&model, random), method);

    let recipe = recipe(16);
    let prompts: Vec<Vec<u32>> =
        (0..48u32).map(|seed| (0..8).map(|i| (i * 31 + seed * 7) % 500).collect()).collect();
    let texts = write_texts(&model, &prompts, 41, 0.0, &|_| {}).unwrap();
    let (train, held_out) = texts.rows.split_at(32);
    let texts = |rows: &[Vec<u32>]| whit::train::drafter::Texts { rows: rows.to_vec(), prompt: 8 };
    let (train, held_out) = (texts(train), texts(held_out));
    let objective = Drafting::new(&model, &recipe, &train, &held_out);
    let folder = tempfile::tempdir().unwrap();
    let network = recipe.drafter(&model, &Device::flex().autodiff()).unwrap();
    let stop = AtomicBool::new(false);
    let mut losses = Vec::new();
    let run = Run {
        objective: &objective,
        settings: recipe.settings,
        folder: folder.path(),
        stop: &stop,
        report: &mut |record| losses.push(record.loss),
    };
    let trained = run.train(network, false).unwrap().model;
    assert!(losses[15] < 0.9 * losses[0], "{losses:?}");
    let agreement = objective.agreement(&trained);
    assert!(agreement.len() == 5 && agreement.iter().all(|share| (0.0..=1.0).contains(share)));

    let path = folder.path().join("drafter.safetensors");
    save_drafter(&path, &trained).unwrap();
    let stored = SideWeights::new("trained", Arc::new(Safetensors::open(&path).unwrap()));
    let rate = lossless(&model, &with_weights(&model, stored), method);
    assert!(rate > untrained, "training helps: {untrained} to {rate}");
}

#[test]
fn before_training_a_head_gives_twice_the_models_own_logits() {
    let model = decoder(1, 64, 5);
    let drafter = recipe(1).drafter(&model, &Device::flex()).unwrap();
    let states = op::tensor(Host::new([3, 64], (0..192).map(|index| (index as f32 * 0.7).sin()).collect()));
    let wanted = op::host(model.logits(states.clone()));
    for head in 0..5 {
        let found = op::host(drafter.logits(head, states.clone(), states.clone()));
        let far =
            found.data().iter().zip(wanted.data()).map(|(a, b)| (a - 2.0 * b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-5, "head {head}: {far}");
    }
}

/// The exact walk over a tree draws from the model's own distribution: 5000 draws at the root, and
/// below the child that is drawn most.
#[test]
fn the_walk_samples_the_models_distribution() {
    let tree = TokenTree::new(vec![9, 2, 4, 0, 3], vec![None, Some(0), Some(0), Some(1), Some(1)]).unwrap();
    let logits = [[1.0f32, 0.2, 1.5, -0.5, 0.7], [0.3, 1.1, -0.4, 0.9, 0.0]];
    let sampling = Sampling { temperature: 1.0, seed: 1, ..Sampling::default() };
    let mut sampler = Sampler::new(sampling, &[]);
    let (mut first, mut second) = ([0.0f64; 5], [0.0f64; 5]);
    for _ in 0..5000 {
        let choose = |node: usize| Ok::<_, ()>(sampler.choose(&logits[node.min(1)]));
        let accepted = tree.walk(choose).unwrap();
        let mut text: Vec<u32> = accepted.path[1..].iter().map(|&node| tree.tokens()[node]).collect();
        text.push(accepted.next);
        first[text[0] as usize] += 1.0;
        if text[0] == 2 {
            second[text[1] as usize] += 1.0;
        }
    }
    for (counts, logits) in [(first, logits[0]), (second, logits[1])] {
        let draws: f64 = counts.iter().sum();
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let expected = logits.map(|logit| draws * f64::from(logit).exp() / sum);
        let chi: f64 =
            counts.iter().zip(expected).map(|(found, wanted)| (found - wanted).powi(2) / wanted).sum();
        // 4 degrees of freedom: 13.28 is the 1 % point.
        assert!(chi < 13.28, "{chi}");
    }
}

#[test]
fn typical_acceptance_takes_more_and_says_that_it_is_lossy() {
    let model = decoder(2, 64, 5);
    let facts = with_draft(&model, decoder(2, 64, 5));
    let drafting = plan(&facts, "draft-model:confidence=0,tune=false");
    let methods = ["draft-model:confidence=0,tune=false", "typical-acceptance"];
    let typical = Plan::new(&Selection::parse(&methods).unwrap(), &facts).unwrap();
    assert!(typical.to_string().contains("fidelity: lossy"));
    assert!(drafting.to_string().contains("fidelity: exact"));
    // At a high temperature samples are seldom the greedy draft's tokens.
    let (exact, more) = (run(&model, &drafting, 40, 1.0).1, run(&model, &typical, 40, 1.0).1);
    assert!(more > exact, "{exact} {more}");
}
