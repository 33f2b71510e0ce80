//! What holds for every method, checked over the list. A new method gets all of it for its one word.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use whit::generate::{Request, Sampling, Scheduler};
use whit::methods::reducers::Images;
use whit::methods::{
    Access, Claim, Companions, DraftModel, Fidelity, Kind, Knobs, METHODS, MethodError, ModelFacts,
    ModelKind, Plan, Selection, SideWeights, Spec, Value, Vocabulary, clash, find, page,
};
use whit::models;
use whit::nn::attention::{Batched, Separate};
use whit::nn::decoder::Decoder;
use whit::nn::encoder::{Encoder, EncoderTokens};
use whit::nn::reduce::{Reduce, Reducing};
use whit::nn::tempered::Tempered;
use whit::nn::vars::{Precision, Random, Storage, Vars};
use whit::nn::vision::Vision;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn kebab(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty() && word.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
    };
    name.split('-').all(word)
}

/// A model that every method works on: each gets its first kind.
fn model_for(spec: &Spec) -> ModelFacts {
    ModelFacts { kind: spec.models[0], ..example() }
}

/// The example model with all that any method needs beside it.
fn example() -> ModelFacts {
    let facts = ModelFacts::example();
    ModelFacts { companions: companions(facts.vocabulary), ..facts }
}

/// A draft model and side weights for all methods, all of them random.
fn companions(vocabulary: usize) -> Companions {
    let decoder = decoder(vocabulary, 1);
    let draft = DraftModel {
        vocabulary: Vocabulary { origin: "random".into(), size: vocabulary, fingerprint: None },
        facts: Box::new(ModelFacts::decoder("llama", decoder.config())),
        decoder: Some(Arc::new(decoder)),
    };
    let random = || SideWeights { origin: "random".into(), source: Arc::new(Random { seed: 1 }) };
    let weights = METHODS.iter().map(|spec| (spec.id.to_owned(), random())).collect();
    Companions { own: None, draft: Some(draft), weights }
}

fn plan(methods: &[Knobs], model: &ModelFacts) -> Result<Plan, MethodError> {
    let mut selection = Selection::default();
    for knobs in methods {
        selection.push(knobs.clone())?;
    }
    Plan::new(&selection, model)
}

fn pairs() -> impl Iterator<Item = (&'static Spec, &'static Spec)> {
    let later = |index: usize| METHODS[index + 1..].iter().copied();
    METHODS
        .iter()
        .enumerate()
        .flat_map(move |(index, first)| later(index).map(move |second| (*first, second)))
}

// --- What needs no model ------------------------------------------------------------------------

#[test]
fn names_are_kebab_case_and_unique() {
    let mut ids = HashSet::new();
    for spec in METHODS {
        assert!(kebab(spec.id) && ids.insert(spec.id), "{}", spec.id);
        let mut names = HashSet::new();
        for knob in spec.knobs {
            assert!(kebab(knob.name) && names.insert(knob.name), "{}:{}", spec.id, knob.name);
        }
    }
}

#[test]
fn every_spec_is_filled_in() {
    for spec in METHODS {
        let texts =
            [spec.title, spec.summary, spec.long, spec.paper.title, spec.paper.authors, spec.paper.arxiv];
        assert!(texts.iter().all(|text| !text.trim().is_empty()), "{}: a text is empty", spec.id);
        assert!(!spec.models.is_empty() && !spec.claims.is_empty() && !spec.stages.is_empty(), "{}", spec.id);
        assert!(spec.knobs.iter().all(|knob| !knob.help.is_empty()), "{}: a knob has no help", spec.id);
        assert!(spec.summary.len() < 700, "{}: the summary is a few sentences, the rest is `long`", spec.id);
    }
}

#[test]
fn defaults_and_off_values_are_allowed() {
    for spec in METHODS {
        for knob in spec.knobs {
            let named = format!("{}:{}", spec.id, knob.name);
            assert!(knob.kind.allows(&knob.default), "{named}: default");
            assert!(knob.off.as_ref().is_none_or(|off| knob.kind.allows(off)), "{named}: off");
            assert_ne!(
                knob.off.as_ref(),
                Some(&knob.default),
                "{named}: asked for without knobs, the method must be on"
            );
        }
        assert!(
            spec.knobs.iter().any(|knob| knob.off.is_some()),
            "{} has no off value to sweep through",
            spec.id
        );
    }
}

#[test]
fn the_ends_of_every_knob_parse_from_text_and_json() {
    for spec in METHODS {
        for knob in spec.knobs {
            for end in knob.kind.ends() {
                let text = format!("{}:{}={end}", spec.id, knob.name);
                let parsed = Selection::parse(&[&text]).unwrap();
                let json = serde_json::json!({ spec.id: { knob.name: end } });
                let read = Selection::from_json(&json).unwrap();
                for knobs in [&parsed.chosen()[0], &read.chosen()[0]] {
                    let value = knobs.iter().find(|(other, _)| other.name == knob.name).unwrap().1;
                    assert_eq!(*value, end, "{text}");
                }
            }
        }
    }
}

#[test]
fn the_ends_of_every_knob_plan_or_say_what_does_not_fit() {
    for spec in METHODS {
        for knob in spec.knobs {
            for end in knob.kind.ends() {
                let mut knobs = Knobs::defaults(spec);
                knobs.set(knob.name, end.clone()).unwrap();
                match plan(&[knobs], &model_for(spec)) {
                    Ok(plan) => {
                        assert_eq!(
                            plan.is_plain(),
                            knob.off == Some(end.clone()),
                            "{}:{}",
                            spec.id,
                            knob.name
                        )
                    }
                    Err(MethodError::Unfit { method, .. }) => assert_eq!(method, spec.id),
                    Err(other) => panic!("{}:{}={end}: {other}", spec.id, knob.name),
                }
            }
        }
    }
}

#[test]
fn bad_values_are_refused_with_method_knob_value_and_what_is_allowed() {
    for spec in METHODS {
        for knob in spec.knobs {
            let bad = match knob.kind {
                Kind::Int { max, .. } => (max + 1).to_string(),
                Kind::Float { max, .. } => (max.abs() * 2.0 + 1.0).to_string(),
                Kind::Ratio => "1.5".into(),
                Kind::Choice { .. } | Kind::Flag => "perhaps".into(),
                Kind::Text { .. } => continue,
            };
            let error =
                Selection::parse(&[format!("{}:{}={bad}", spec.id, knob.name)]).unwrap_err().to_string();
            for part in [spec.id, knob.name, &bad, &knob.kind.to_string()] {
                assert!(error.contains(part), "{part} is missing in: {error}");
            }
        }
    }
}

#[test]
fn a_slip_in_a_name_is_put_right() {
    for spec in METHODS {
        let slip = &spec.id[..spec.id.len() - 1];
        assert!(find(slip).unwrap_err().hint().contains(spec.id));
    }
}

#[test]
fn methods_begin_the_stages_that_they_announce() {
    for spec in METHODS {
        let plan = plan(&[Knobs::defaults(spec)], &model_for(spec)).unwrap();
        assert_eq!(plan.begin().kinds(), spec.stages, "{}", spec.id);
        assert!(!plan.parts()[0].method.expect().is_empty(), "{} says nothing of what to expect", spec.id);
        assert_eq!(plan.fidelity(), spec.fidelity);
    }
}

#[test]
fn methods_of_weights_are_refused_where_a_model_runs_and_the_others_where_weights_change() {
    for spec in METHODS {
        let planned = || plan(&[Knobs::defaults(spec)], &model_for(spec)).unwrap();
        let (refused, taken) = match spec.is_offline() {
            true => (planned().live(), planned().offline()),
            false => (planned().offline(), planned().live()),
        };
        assert!(refused.unwrap_err().to_string().contains(spec.id) && taken.is_ok(), "{}", spec.id);
    }
}

#[test]
fn a_resource_is_claimed_once_by_a_method() {
    for spec in METHODS {
        let resources: HashSet<_> = spec.claims.iter().map(|claim: &Claim| claim.resource).collect();
        assert_eq!(resources.len(), spec.claims.len(), "{}", spec.id);
        assert!(spec.claims.iter().any(|claim| claim.access != Access::Read), "{} changes nothing", spec.id);
    }
}

#[test]
fn pairs_plan_unless_both_own_a_resource() {
    for (first, second) in pairs() {
        let Some(kind) = first.models.iter().find(|kind| second.models.contains(kind)) else { continue };
        let model = ModelFacts { kind: *kind, ..example() };
        let planned = plan(&[Knobs::defaults(first), Knobs::defaults(second)], &model);
        match clash(first, second) {
            None => assert_eq!(planned.unwrap().parts().len(), 2, "{} + {}", first.id, second.id),
            Some(resource) => {
                let refusal = planned.unwrap_err().to_string();
                for name in [first.id, second.id, resource.name()] {
                    assert!(refusal.contains(name), "{name} is missing in: {refusal}");
                }
            }
        }
    }
}

#[test]
fn the_same_method_twice_is_refused() {
    for spec in METHODS {
        assert!(matches!(Selection::parse(&[spec.id, spec.id]), Err(MethodError::Twice { .. })));
    }
}

#[test]
fn generated_pages_are_current() {
    for (path, page) in page::pages() {
        let found = fs::read_to_string(repository().join(&path)).unwrap_or_default();
        assert!(found == page, "{path} is not current: run `cargo run --release -- docs`");
    }
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let spliced = page::splice(&readme).expect("README.md has its two marks");
    assert!(readme == spliced, "the README's table is not current: run `cargo run --release -- docs`");
}

#[test]
fn no_page_is_left_over() {
    let pages: HashSet<_> = page::pages().into_iter().map(|(path, _)| path).collect();
    for file in fs::read_dir(repository().join("docs/methods")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(pages.contains(&format!("docs/methods/{name}")), "docs/methods/{name} belongs to no method");
    }
}

#[test]
fn flags_can_be_raised_by_name() {
    for spec in METHODS {
        for knob in spec.knobs.iter().filter(|knob| knob.kind == Kind::Flag) {
            let selection = Selection::parse(&[format!("{}:{}", spec.id, knob.name)]).unwrap();
            let value = selection.chosen()[0].iter().find(|(other, _)| other.name == knob.name).unwrap().1;
            assert_eq!(*value, Value::Flag(true));
        }
    }
}

// --- What runs a model --------------------------------------------------------------------------

/// A small decoder with random weights.
fn decoder(vocabulary: usize, layers: usize) -> Decoder {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    });
    let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
    let storage = Storage::Packed(Precision::Native);
    Decoder::new(config, &Vars::new(&Random { seed: 3 }, &storage)).unwrap()
}

fn facts(model: &Decoder) -> ModelFacts {
    let vocabulary = model.config().vocab_size;
    ModelFacts { companions: companions(vocabulary), ..ModelFacts::decoder("llama", model.config()) }
}

/// The tokens that requests get together; each samples with a seed of its own.
fn texts(model: &Decoder, plan: &Plan, prompts: &[u32]) -> Vec<Vec<u32>> {
    let mut scheduler = Scheduler::new(model);
    for &prompt in prompts {
        let sampling =
            Sampling { temperature: 0.1 * (prompt % 2) as f32, seed: prompt.into(), ..Sampling::default() };
        let prompt = (0..prompt % 7 + 2).map(|index| (index * 31 + prompt) % 96).collect();
        scheduler
            .add(Request { prompt, max_tokens: 40, sampling, ..Request::default() }, plan.begin())
            .unwrap();
    }
    let mut texts = vec![Vec::new(); prompts.len()];
    scheduler.run(|_, event| texts[event.id].extend(&event.tokens)).unwrap();
    texts
}

/// The methods that work on a decoder while it runs, whatever its architecture.
fn on_decoders() -> impl Iterator<Item = &'static Spec> {
    let general = |spec: &&Spec| !OF_ONE_ARCHITECTURE.contains(&spec.id);
    let fits = |spec: &&Spec| spec.models.contains(&ModelKind::Decoder) && !spec.is_offline();
    METHODS.iter().copied().filter(fits).filter(general)
}

/// Methods that need an architecture of their own; they have tests of their own on it.
const OF_ONE_ARCHITECTURE: [&str; 2] = ["blockffn", "crate-whitebox"];

fn with(model: &Decoder, methods: &[String]) -> Plan {
    Plan::new(&Selection::parse(methods).unwrap(), &facts(model)).unwrap()
}

#[test]
fn a_method_at_its_off_value_is_the_baseline() {
    let model = decoder(96, 4);
    let baseline = texts(&model, &with(&model, &[]), &[1, 2, 3]);
    for spec in on_decoders() {
        for (knob, off) in spec.knobs.iter().filter_map(|knob| Some((knob, knob.off.clone()?))) {
            let plan = with(&model, &[format!("{}:{}={off}", spec.id, knob.name)]);
            assert_eq!(texts(&model, &plan, &[1, 2, 3]), baseline, "{} {}", spec.id, knob.name);
        }
    }
}

#[test]
fn exact_methods_give_the_baselines_text() {
    let model = decoder(96, 4);
    let prompts: Vec<u32> = (0..8).collect();
    let baseline = texts(&model, &with(&model, &[]), &prompts);
    for spec in on_decoders().filter(|spec| spec.fidelity == Fidelity::Exact) {
        assert_eq!(texts(&model, &with(&model, &[spec.id.to_owned()]), &prompts), baseline, "{}", spec.id);
    }
}

#[test]
fn a_request_gets_the_same_text_alone_and_among_four() {
    let model = decoder(96, 4);
    for spec in on_decoders() {
        let plan = with(&model, &[spec.id.to_owned()]);
        let together = texts(&model, &plan, &[4, 5, 6, 7]);
        let alone: Vec<Vec<u32>> =
            [4, 5, 6, 7].map(|prompt| texts(&model, &plan, &[prompt]).remove(0)).to_vec();
        assert_eq!(together, alone, "{}", spec.id);
    }
}

#[test]
fn a_method_leaves_no_trace_on_the_model() {
    let model = decoder(96, 4);
    let before = texts(&model, &with(&model, &[]), &[1, 2]);
    for spec in on_decoders() {
        texts(&model, &with(&model, &[spec.id.to_owned()]), &[1, 2]);
        assert_eq!(texts(&model, &with(&model, &[]), &[1, 2]), before, "{}", spec.id);
    }
}

#[test]
fn the_ends_of_every_knob_and_every_pair_without_a_clash_run() {
    let model = decoder(96, 4);
    for spec in on_decoders() {
        for knob in spec.knobs {
            for value in knob.kind.ends() {
                let wanted = Selection::parse(&[format!("{}:{}={value}", spec.id, knob.name)]).unwrap();
                // What does not fit this model says so; a test above sees to it.
                let Ok(plan) = Plan::new(&wanted, &facts(&model)) else { continue };
                assert_eq!(texts(&model, &plan, &[3])[0].len(), 40, "{} {}={value}", spec.id, knob.name);
            }
        }
        for other in on_decoders().filter(|other| other.id > spec.id && clash(spec, other).is_none()) {
            let plan = with(&model, &[spec.id.to_owned(), other.id.to_owned()]);
            assert_eq!(texts(&model, &plan, &[3])[0].len(), 40, "{} {}", spec.id, other.id);
        }
    }
}

// --- What runs a vision transformer -------------------------------------------------------------

fn vision() -> Vision {
    let json = serde_json::json!({
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 20,
        "patch_size": 4, "id2label": { "0": "a", "1": "b", "2": "c" },
    });
    let config = models::vision::architecture(&json).unwrap().config(&json).unwrap();
    let storage = Storage::Packed(Precision::Native);
    Vision::new(config, &Vars::new(&Random { seed: 5 }, &storage)).unwrap()
}

fn vision_plan(methods: &[String]) -> Result<Plan, MethodError> {
    let facts = ModelFacts { kind: ModelKind::Vision, ..example() };
    Plan::new(&Selection::parse(methods).unwrap(), &facts)
}

/// The scores that images of these seeds get together.
fn scores(model: &Vision, plan: &Plan, seeds: &[u32]) -> Vec<Vec<u32>> {
    let value = |seed: u32, at: u32| ((at * at % 97 + seed * at) as f32 * 0.37).sin();
    let values: Vec<f32> =
        seeds.iter().flat_map(|&seed| (0..3 * 20 * 20).map(move |at| value(seed, at))).collect();
    let pixels = Tensor::<4>::from_data(TensorData::new(values, [seeds.len(), 3, 20, 20]), &Device::flex());
    let reducers: Option<Vec<_>> = seeds.iter().map(|_| plan.begin().reducer).collect();
    let logits = match reducers {
        None => {
            let hidden = model.forward(pixels, &mut Batched::whole(seeds.len(), None));
            model.logits(&hidden, None)
        }
        Some(reducers) => {
            let mut images = Images::new(reducers, model.config().specials());
            let hidden = model.forward(pixels, &mut Reducing::new(seeds.len(), &mut images));
            images.finish().unwrap();
            model.logits(&hidden, images.sizes())
        }
    };
    let values = whit_kernels::op::host(logits.unwrap().logits).into_vec();
    assert!(values.iter().all(|value| value.is_finite()));
    values.chunks(3).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

fn on_vision() -> impl Iterator<Item = &'static Spec> {
    METHODS.iter().copied().filter(|spec| spec.models.contains(&ModelKind::Vision) && !spec.is_offline())
}

#[test]
fn a_method_of_images_is_off_at_its_off_value_leaves_no_trace_and_needs_no_company() {
    let model = vision();
    let baseline = scores(&model, &vision_plan(&[]).unwrap(), &[1, 2, 3, 4]);
    for spec in on_vision() {
        for (knob, off) in spec.knobs.iter().filter_map(|knob| Some((knob, knob.off.clone()?))) {
            let plan = vision_plan(&[format!("{}:{}={off}", spec.id, knob.name)]).unwrap();
            assert_eq!(scores(&model, &plan, &[1, 2, 3, 4]), baseline, "{} {}", spec.id, knob.name);
        }
        let plan = vision_plan(&[spec.id.to_owned()]).unwrap();
        let together = scores(&model, &plan, &[1, 2, 3, 4]);
        let alone: Vec<_> = [1, 2, 3, 4].map(|seed| scores(&model, &plan, &[seed]).remove(0)).to_vec();
        assert_eq!(together, alone, "{}", spec.id);
        assert_ne!(together, baseline, "{} does nothing", spec.id);
        let plain = vision_plan(&[]).unwrap();
        assert_eq!(scores(&model, &plain, &[1, 2, 3, 4]), baseline, "{}", spec.id);
    }
}

#[test]
fn the_ends_of_every_knob_of_a_method_of_images_run() {
    let model = vision();
    for spec in on_vision() {
        for (knob, value) in
            spec.knobs.iter().flat_map(|knob| knob.kind.ends().into_iter().map(move |end| (knob, end)))
        {
            // What does not fit this model says so; a test above sees to it.
            let Ok(plan) = vision_plan(&[format!("{}:{}={value}", spec.id, knob.name)]) else { continue };
            assert_eq!(scores(&model, &plan, &[3]).len(), 1, "{} {}={value}", spec.id, knob.name);
        }
    }
}

// --- What runs a text encoder -------------------------------------------------------------------

fn encoder() -> Encoder {
    let json = serde_json::json!({
        "model_type": "bert", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 64,
    });
    let config = models::encoder::architecture(&json).unwrap().config(&json).unwrap();
    let storage = Storage::Packed(Precision::Native);
    Encoder::new(config, &Vars::new(&Random { seed: 6 }, &storage)).unwrap()
}

fn states(model: &Encoder, plan: &Plan, lengths: &[usize]) -> Vec<u32> {
    let ids: Vec<u32> = lengths
        .iter()
        .flat_map(|&length| (0..length as u32).map(move |at| (at * 31 + length as u32) % 96))
        .collect();
    let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
    let types = vec![0; ids.len()];
    let tokens = EncoderTokens { ids: &ids, positions: &positions, types: &types };
    let separate = Separate::new(lengths.to_vec());
    let states = match plan.begin().scale {
        None => model.forward(tokens, &mut { separate }),
        Some(scale) => {
            let temperatures = (0..4).map(|layer| scale.temperature(layer)).collect();
            model.forward(tokens, &mut Tempered::new(separate, temperatures))
        }
    };
    whit_kernels::op::host(states).into_vec().iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_method_of_text_encoders_is_off_at_its_off_value_and_needs_no_company() {
    let model = encoder();
    let plan = |methods: &[String]| {
        let facts = ModelFacts { kind: ModelKind::Encoder, ..example() };
        Plan::new(&Selection::parse(methods).unwrap(), &facts)
    };
    let baseline = states(&model, &plan(&[]).unwrap(), &[9, 4, 30]);
    let encoders =
        METHODS.iter().filter(|spec| spec.models.contains(&ModelKind::Encoder) && !spec.is_offline());
    for spec in encoders {
        for knob in spec.knobs {
            if let Some(off) = &knob.off {
                let plan = plan(&[format!("{}:{}={off}", spec.id, knob.name)]).unwrap();
                assert_eq!(states(&model, &plan, &[9, 4, 30]), baseline, "{} {}", spec.id, knob.name);
            }
            for end in knob.kind.ends() {
                let Ok(plan) = plan(&[format!("{}:{}={end}", spec.id, knob.name)]) else { continue };
                assert_eq!(states(&model, &plan, &[5]).len(), 5 * 32);
            }
        }
        let plan = plan(&[spec.id.to_owned()]).unwrap();
        let together = states(&model, &plan, &[9, 4, 30]);
        let alone: Vec<u32> =
            [9, 4, 30].iter().flat_map(|&length| states(&model, &plan, &[length])).collect();
        assert_eq!(together, alone, "{}", spec.id);
        assert_ne!(together, baseline, "{} does nothing", spec.id);
    }
}
