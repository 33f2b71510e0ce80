//! BlockFFN end to end: leaving experts out changes no token, alone and in company, with and without a
//! draft, in every weight type; and what is wrong is said.

use std::ops::Range;

use serde_json::json;
use whit::generate::{GenerateError, Request, Scheduler, Statistics};
use whit::methods::{ModelFacts, Plan, Selection};
use whit::models;
use whit::nn::decoder::Decoder;
use whit::nn::vars::{Init, Precision, Random, Source, Storage, Vars, VarsError};
use whit_kernels::linear::WeightType;

fn config() -> serde_json::Value {
    json!({
        "model_type": "minicpm", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 1,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "ffn_type": "block", "router_act": "relu", "norm_after_router": "rms", "num_experts": 9, "expert_size": 32,
        "scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 32, "rms_norm_eps": 1e-5,
    })
}

/// The same experts behind a router that chooses three of the nine.
fn top_k() -> serde_json::Value {
    let mut config = config();
    config.as_object_mut().unwrap().remove("norm_after_router");
    config["router_act"] = json!("topk");
    config["num_experts_per_tok"] = json!(3);
    config
}

fn build(source: &dyn Source, kind: WeightType) -> Decoder {
    build_from(&config(), source, kind)
}

fn build_from(config: &serde_json::Value, source: &dyn Source, kind: WeightType) -> Decoder {
    let settings = (models::architecture(config).unwrap().config)(config).unwrap();
    let storage = Storage::Packed(Precision::Fixed(kind));
    Decoder::new(settings, &Vars::new(source, &storage)).unwrap()
}

fn plan(model: &Decoder, methods: &[&str]) -> Plan {
    Plan::new(&Selection::parse(methods).unwrap(), &ModelFacts::decoder("minicpm", model.config())).unwrap()
}

fn request(seed: u32) -> Request {
    let prompt = (0..seed % 5 + 3).map(|at| (at * 31 + seed * 7) % 96).collect();
    Request { prompt, max_tokens: 40, ..Request::default() }
}

/// The tokens of requests that run together, and the costs of the first.
fn run(model: &Decoder, methods: &[&str], seeds: &[u32]) -> (Vec<Vec<u32>>, Statistics) {
    let (plan, mut scheduler) = (plan(model, methods), Scheduler::new(model));
    let mut texts = vec![Vec::new(); seeds.len()];
    for &seed in seeds {
        scheduler.add(request(seed), plan.begin()).unwrap();
    }
    scheduler.run(|_, event| texts[event.id].extend(&event.tokens)).unwrap();
    let statistics = scheduler.statistics(0).unwrap();
    (texts, statistics)
}

#[test]
fn leaving_experts_out_changes_no_token() {
    for kind in [WeightType::F32, WeightType::Bf16, WeightType::Q8_0] {
        let model = build(&Random { seed: 5 }, kind);
        let (plain, statistics) = run(&model, &[], &[1, 2, 3, 4]);
        assert!(statistics.experts.is_none());
        let (sparse, statistics) = run(&model, &["blockffn"], &[1, 2, 3, 4]);
        assert_eq!(sparse, plain, "{kind}");
        let report = statistics.experts.unwrap();
        assert!(report.contains("for one token") && report.contains("the same as before"), "{report}");
        let (alone, _) = run(&model, &["blockffn"], &[1]);
        assert_eq!(alone[0], plain[0], "{kind}");
        assert_eq!(run(&model, &["blockffn:sparse=false"], &[1, 2, 3, 4]).0, plain, "{kind}");
    }
}

#[test]
fn a_router_that_chooses_reads_what_it_chose_and_changes_no_token() {
    for kind in [WeightType::F32, WeightType::Bf16, WeightType::Q8_0] {
        let model = build_from(&top_k(), &Random { seed: 5 }, kind);
        let (plain, _) = run(&model, &[], &[1, 2, 3, 4]);
        let (sparse, statistics) = run(&model, &["blockffn"], &[1, 2, 3, 4]);
        assert_eq!(sparse, plain, "{kind}");
        let report = statistics.experts.unwrap();
        assert!(report.contains("33.3 % for one token"), "{report}");
        let drafted = ["blockffn", "token-recycling:tree=12,tune=false"];
        assert_eq!(run(&model, &drafted, &[1, 2, 3, 4]).0, plain, "{kind}");
    }
}

#[test]
fn a_drafted_tree_reads_the_union_and_gives_the_same_text() {
    let model = build(&Random { seed: 6 }, WeightType::F32);
    let (plain, _) = run(&model, &[], &[1, 2]);
    let (both, statistics) = run(&model, &["blockffn", "token-recycling:tree=12,tune=false"], &[1, 2]);
    assert_eq!(both, plain);
    assert!(statistics.decode_rows > statistics.decode_passes, "nothing was drafted");
    assert!(statistics.experts.unwrap().contains("together"));
}

/// Random weights, with a router that computes no number.
struct Broken(Random);

impl Source for Broken {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        self.0.check(name, shape)
    }

    fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let broken = name.contains("layers.1.mlp.router_proj");
        if broken { Ok(vec![f32::NAN; rows.len() * width]) } else { self.0.rows(name, rows, width, init) }
    }

    fn block_type(&self, name: &str) -> Option<WeightType> {
        self.0.block_type(name)
    }

    fn blocks(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>, VarsError> {
        self.0.blocks(name, rows)
    }

    fn native(&self, name: &str) -> WeightType {
        self.0.native(name)
    }
}

#[test]
fn a_gate_that_is_no_number_is_an_error() {
    let models =
        [config(), top_k()].map(|config| build_from(&config, &Broken(Random { seed: 5 }), WeightType::F32));
    let all = models.iter().flat_map(|model| [&[][..], &["blockffn"]].map(|methods| (model, methods)));
    for (model, methods) in all {
        let mut scheduler = Scheduler::new(model);
        scheduler.add(request(1), plan(model, methods).begin()).unwrap();
        assert!(matches!(scheduler.step(), Err(GenerateError::NotFinite)));
    }
}

#[test]
fn settings_that_are_not_blockffns_are_refused() {
    for (field, value) in [("norm_after_router", "sum"), ("router_act", "gelu"), ("ffn_type", "moe")] {
        let mut wrong = config();
        wrong[field] = json!(value);
        let refusal = refused(&wrong);
        assert!(refusal.contains(field) && refusal.contains(value), "{refusal}");
    }
    let mut wrong = config();
    wrong.as_object_mut().unwrap().remove("norm_after_router");
    let refusal = refused(&wrong);
    assert!(refusal.contains("`norm_after_router` is missing"), "{refusal}");
}

#[test]
fn a_choice_that_cannot_be_is_refused() {
    for (field, value, said) in [
        ("num_experts_per_tok", json!(0), "between 1 and num_experts (9)"),
        ("num_experts_per_tok", json!(10), "between 1 and num_experts (9)"),
        ("num_experts_per_tok", json!(null), "`num_experts_per_tok` is missing"),
        ("norm_after_router", json!("rms"), "a topk router has none"),
        ("router_act", json!("top"), "supported are relu and topk"),
    ] {
        let mut wrong = top_k();
        wrong[field] = value;
        let refusal = refused(&wrong);
        assert!(refusal.contains(field) && refusal.contains(said), "{refusal}");
    }
}

fn refused(config: &serde_json::Value) -> String {
    (models::architecture(config).unwrap().config)(config).unwrap_err().to_string()
}
