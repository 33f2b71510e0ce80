//! By hand, and against attention written out plainly on random models.

use burn::tensor::Tensor;
use whit_kernels::attention::BitMatrix;
use whit_kernels::op::{self, Host};

use super::*;
use crate::generate::cache::{CacheShape, KvCache};
use crate::generate::forward::{Span, forward};
use crate::generate::{Request, Scheduler};
use crate::methods::{Plan, Selection, TokenTree};
use crate::models;
use crate::nn::attention::{Attend, Site};
use crate::nn::decoder::{Decoder, Tokens};
use crate::nn::vars::{Precision, Random, Storage, Vars};

const VOCABULARY: usize = 97;

/// A grouped-query model with random weights: 8 query heads on 2 key-value heads of 16.
fn model(layers: usize) -> (Decoder, ModelFacts) {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16,
        "num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    });
    let facts = models::facts(&config).unwrap();
    let config = (models::architecture(&config).unwrap().config)(&config).unwrap();
    let storage = Storage::Packed(Precision::Native);
    (Decoder::new(config, &Vars::new(&Random { seed: 11 }, &storage)).unwrap(), facts)
}

fn knobs(text: &str) -> Knobs {
    Selection::parse(&[format!("tidaldecode:{text}")]).unwrap().chosen()[0].clone()
}

fn settings(text: &str, facts: &ModelFacts) -> Arc<Settings> {
    Arc::new(Settings::new(&knobs(text), facts).unwrap())
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|index| ((index * index + 31 * index + seed * 17) % VOCABULARY) as u32).collect()
}

/// A cache that a dense pass has filled.
fn filled(model: &Decoder, ids: &[u32], length: usize) -> KvCache {
    let config = model.config();
    let shape = CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
    let mut cache = KvCache::new(shape, ids.len() + 64);
    forward(model, vec![Span::causal(&mut cache, ids.to_vec(), length as u32)]).unwrap();
    cache
}

// --- By hand ------------------------------------------------------------------------------------

/// Four query heads in two groups; the newest of five rows has the worst scores.
const SCORES: [f32; 20] = [
    5.0, 1.0, 4.0, 0.0, -9.0, //
    1.0, 2.0, 3.0, 9.0, -9.0, //
    -4.0, -1.0, -3.0, -2.0, -9.0, //
    0.0, 0.0, 0.0, 0.0, -9.0,
];

fn chosen(text: &str, looking: Looking) -> Vec<Vec<u32>> {
    let settings = settings(text, &ModelFacts::example());
    settings.choose(&looking, &SCORES).into_iter().map(|list| list.unwrap()).collect()
}

#[test]
fn heads_choose_alone_together_or_as_one() {
    let looking = Looking { layer: 2, rows: 5, new: 1 };
    let own = [vec![0, 2], vec![2, 3], vec![1, 3], vec![0, 1]];
    assert_eq!(chosen("budget=2,newest=false", looking), own);
    let together = [vec![0, 2, 3], vec![0, 1, 3]];
    assert_eq!(chosen("budget=2,newest=false,sharing=union", looking), together);
    // The best of each group: 5 2 4 9 and 0 0 0 0.
    assert_eq!(chosen("budget=2,newest=false,sharing=per-kv", looking), [vec![0, 3], vec![0, 1]]);
}

#[test]
fn the_newest_is_one_of_the_budget_and_new_nodes_are_always_there() {
    let looking = Looking { layer: 2, rows: 5, new: 1 };
    assert_eq!(chosen("budget=2", looking), [vec![0, 4], vec![3, 4], vec![1, 4], vec![0, 4]]);
    assert_eq!(chosen("budget=1", looking), [[4]; 4]);
    let draft = Looking { new: 2, ..looking };
    assert_eq!(chosen("budget=2", draft), [vec![0, 3, 4], vec![2, 3, 4], vec![1, 3, 4], vec![0, 3, 4]]);
    let free = [vec![0, 2, 3, 4], vec![2, 3, 4], vec![1, 3, 4], vec![0, 1, 3, 4]];
    assert_eq!(chosen("budget=2,newest=false", draft), free);
}

#[test]
fn full_heads_read_everything_and_so_does_a_group_with_one() {
    let looking = Looking { layer: 2, rows: 5, new: 1 };
    let lists = |text| settings(text, &ModelFacts::example()).choose(&looking, &SCORES);
    let whole = |text| lists(text).iter().map(Option::is_none).collect::<Vec<_>>();
    assert_eq!(whole("budget=2,full=1.3"), [false, true, false, true]);
    assert_eq!(whole("budget=2,full=3,sharing=per-kv"), [false, true]);
    let tide = &mut Tide::new(settings("budget=2,start=0,full=1", &ModelFacts::example()));
    assert_eq!(tide.read(&Looking { layer: 0, ..looking }), Reading::AllScored);
    tide.scored(&Looking { layer: 0, ..looking }, &SCORES);
    assert!(matches!(tide.read(&Looking { layer: 1, ..looking }), Reading::Rows(_)));
    assert_eq!(tide.counts.read, 4 * 5 + (3 * 2 + 5));
}

#[test]
fn what_does_not_fit_the_model_is_refused_with_what_would() {
    let facts = ModelFacts::example();
    for (text, knob, range) in [
        ("start=4", "start", "0 to 3"),
        ("correction=2", "correction", "3 to 3"),
        ("correction=1,start=0,budget=9", "", ""),
        ("correction=4", "correction", "3 to 3"),
        ("full=2 4", "full", "below"),
        ("full=one", "full", "4 query heads"),
        ("start=3,correction=3", "correction", "give 0"),
    ] {
        match Settings::new(&knobs(text), &facts) {
            Ok(_) => assert_eq!(knob, "", "{text}"),
            Err(refusal) => {
                let refusal = refusal.to_string();
                assert!(refusal.contains(knob) && refusal.contains(range) && !knob.is_empty(), "{refusal}");
            }
        }
    }
    let refusal = Selection::parse(&["tidaldecode:budget=0"]).unwrap_err().to_string();
    assert!(refusal.contains("budget") && refusal.contains("from 1 to"), "{refusal}");
    let encoder = ModelFacts { kind: ModelKind::Encoder, ..facts };
    let refusal = Plan::new(&Selection::parse(&["tidaldecode"]).unwrap(), &encoder).unwrap_err().to_string();
    assert!(refusal.contains("tidaldecode") && refusal.contains("encoder"), "{refusal}");
}

#[test]
fn the_second_selection_follows_the_papers_proportion() {
    let at = |layers| {
        let facts = ModelFacts { layers, ..ModelFacts::example() };
        settings("budget=9", &facts).correction
    };
    assert_eq!([3, 4, 12, 32].map(at), [None, Some(3), Some(5), Some(13)]);
}

// --- Against plain attention --------------------------------------------------------------------

/// Attention in double precision, one query and one key at a time, over a cache of its own. Rows outside
/// the set that the last selecting layer chose for the head are masked out.
struct Naive {
    settings: Arc<Settings>,
    /// For each layer and kv head, its rows: key and value.
    rows: Vec<Vec<(Vec<f32>, Vec<f32>)>>,
    /// Which new row sees which.
    tree: BitMatrix,
    /// For each query head, the older rows that it may read.
    sets: Vec<Vec<usize>>,
    selecting: [usize; 2],
}

impl Naive {
    fn new(settings: &Arc<Settings>, cache: &KvCache, tree: BitMatrix, selecting: [usize; 2]) -> Self {
        let shape = cache.shape();
        let heads = (0..shape.layers).flat_map(|layer| cache.layer(layer));
        let rows = heads.map(|head| {
            (0..head.len()).map(|row| (head.key(row).to_vec(), head.value(row).to_vec())).collect()
        });
        Self { settings: settings.clone(), rows: rows.collect(), tree, sets: Vec::new(), selecting }
    }

    /// The scores of a query over all rows, those it may not see at `-inf`.
    fn scores(&self, site: &Site, head: usize, node: usize, query: &[f32]) -> Vec<f64> {
        let rows = &self.rows[site.layer * site.kv_heads + head / (site.heads / site.kv_heads)];
        let older = rows.len() - self.tree.rows();
        let score = |(row, (key, _)): (usize, &(Vec<f32>, Vec<f32>))| {
            let seen = row < older || self.tree.get(node, row - older);
            let product: f64 = query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            if seen { product * f64::from(site.scale) } else { f64::NEG_INFINITY }
        };
        rows.iter().enumerate().map(score).collect()
    }

    /// The older rows that a head keeps: the best but one by the root's scores, as the newest is always read.
    fn choose(&self, scores: &[f64]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..scores.len() - self.tree.rows()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(self.settings.budget - 1);
        order
    }
}

impl Attend for Naive {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        let [nodes, heads, dim] = queries.dims();
        let [queries, keys, values] = [queries, keys, values].map(op::host);
        for (place, (key, value)) in keys.data().chunks(dim).zip(values.data().chunks(dim)).enumerate() {
            let head = site.layer * site.kv_heads + place % site.kv_heads;
            self.rows[head].push((key.to_vec(), value.to_vec()));
        }
        let query = |node: usize, head: usize| &queries.data()[(node * heads + head) * dim..][..dim];
        let selects = self.selecting.contains(&site.layer);
        let sparse = site.layer > self.selecting[0] && !selects;
        let mut output = Vec::new();
        for node in 0..nodes {
            for head in 0..heads {
                let mut scores = self.scores(site, head, node, query(node, head));
                if sparse {
                    let older = scores.len() - nodes;
                    let hidden = |row: &usize| !self.sets[head].contains(row);
                    (0..older).filter(hidden).for_each(|row| scores[row] = f64::NEG_INFINITY);
                }
                let rows = &self.rows[site.layer * site.kv_heads + head / (heads / site.kv_heads)];
                output.extend(weighted(&scores, rows, dim));
            }
        }
        if selects {
            let root = (0..heads).map(|head| self.scores(site, head, 0, query(0, head)));
            self.sets = root.map(|scores| self.choose(&scores)).collect();
        }
        op::tensor(Host::new([nodes, heads * dim], output))
    }
}

/// The values, weighed by the softmax of the scores.
fn weighted(scores: &[f64], rows: &[(Vec<f32>, Vec<f32>)], dim: usize) -> Vec<f32> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let channel = |channel: usize| {
        rows.iter().zip(&weights).map(|((_, value), weight)| f64::from(value[channel]) * weight).sum::<f64>()
    };
    (0..dim).map(|index| (channel(index) / sum) as f32).collect()
}

/// One step of `tree` on `cache` with the method, and the same written out plainly.
fn both(
    model: &Decoder,
    tide: &mut Tide,
    cache: &mut KvCache,
    tree: &TokenTree,
    selecting: [usize; 2],
) -> [Vec<f32>; 2] {
    let base = cache.position();
    let bits = tree.mask();
    let bits = BitMatrix::from_fn(tree.len(), tree.len(), |node, seen| bits[node] >> seen & 1 == 1);
    let mut naive = Naive::new(&tide.settings, cache, bits.clone(), selecting);
    let positions: Vec<u32> = tree.depths().iter().map(|&depth| (base + depth) as u32).collect();
    let lengths = vec![base as u32 + 1; tree.len()];
    let tokens = Tokens { ids: tree.tokens(), positions: &positions, lengths: &lengths };
    let expected = op::host(model.forward(tokens, &mut naive)).into_vec();
    let span = Span {
        ids: tree.tokens().to_vec(),
        positions,
        length: base as u32 + 1,
        tree: (tree.len() > 1).then_some(bits),
        policy: Some(tide),
        ..Span::causal(cache, Vec::new(), 0)
    };
    [op::host(forward(model, vec![span]).unwrap()).into_vec(), expected]
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    let worst = worst(found, expected);
    assert!(worst <= 1e-4, "{what}: {worst}");
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn sixteen_layers_equal_a_masked_softmax_and_read_what_the_formula_says() {
    let (layers, prompt, budget, start, correction) = (16, 777, 64, 2, 6);
    let (model, facts) = model(layers);
    let mut cache = filled(&model, &ids(prompt, 3), prompt);
    let mut tide = Tide::new(settings(&format!("budget={budget}"), &facts));
    for step in 0..3 {
        let before = tide.counts;
        let tree = TokenTree::root(5 + step as u32);
        let span = Span::causal(&mut cache, tree.tokens().to_vec(), (prompt + step + 1) as u32);
        let mut dense = span.cache.clone();
        let dense = op::host(forward(&model, vec![Span { cache: &mut dense, ..span }]).unwrap()).into_vec();
        let [found, expected] = both(&model, &mut tide, &mut cache, &tree, [start, correction]);
        assert_close(&found, &expected, &format!("step {step}"));
        assert!(worst(&found, &dense) > 1e-3, "it shows which keys are read");
        let rows = prompt + step + 1;
        let formula = (start + 2) * rows + (layers - start - 2) * budget;
        assert_eq!(tide.counts.read - before.read, 8 * formula, "step {step}");
        assert_eq!(tide.counts.all - before.all, 8 * layers * rows);
    }
}

#[test]
fn a_draft_reads_with_the_choice_of_its_root() {
    let (model, facts) = model(6);
    let mut cache = filled(&model, &ids(150, 4), 150);
    let parents = [None, Some(0), Some(0), Some(1), Some(3)];
    let tree = TokenTree::new(vec![7, 1, 2, 3, 4], parents.to_vec()).unwrap();
    let mut tide = Tide::new(settings("budget=20,start=1,correction=3", &facts));
    let alone = both(&model, &mut tide, &mut cache.clone(), &TokenTree::root(7), [1, 3]);
    let drafted = both(&model, &mut tide, &mut cache, &tree, [1, 3]);
    assert_close(&drafted[0], &drafted[1], "draft");
    assert_close(&drafted[0][..64], &alone[0], "the root is read as without a draft");
}

/// The tokens of requests that run together.
fn texts(model: &Decoder, plan: &Plan, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let mut scheduler = Scheduler::new(model);
    for prompt in prompts {
        let request = Request { prompt: prompt.clone(), max_tokens: count, ..Request::default() };
        scheduler.add(request, plan.begin()).unwrap();
    }
    let mut texts = vec![Vec::new(); prompts.len()];
    scheduler.run(|_, event| texts[event.id].extend(&event.tokens)).unwrap();
    texts
}

fn plan(methods: &[&str], facts: &ModelFacts) -> Plan {
    Plan::new(&Selection::parse(methods).unwrap(), facts).unwrap()
}

#[test]
fn a_budget_of_the_whole_context_is_dense_decoding_bit_for_bit() {
    let (model, facts) = model(5);
    let prompt = ids(40, 1);
    let dense = texts(&model, &plan(&[], &facts), std::slice::from_ref(&prompt), 64);
    for sharing in ["per-q", "union", "per-kv"] {
        let whole = plan(&[&format!("tidaldecode:budget=104,sharing={sharing}")], &facts);
        assert_eq!(texts(&model, &whole, std::slice::from_ref(&prompt), 64), dense);
        let mut cache = filled(&model, &prompt, 41);
        let mut other = cache.clone();
        let mut tide = Tide::new(settings(&format!("budget=41,sharing={sharing}"), &facts));
        let span = Span { policy: Some(&mut tide), ..Span::causal(&mut cache, vec![3], 41) };
        let found = op::host(model.logits(forward(&model, vec![span]).unwrap())).into_vec();
        let expected = forward(&model, vec![Span::causal(&mut other, vec![3], 41)]).unwrap();
        assert_eq!(found, op::host(model.logits(expected)).into_vec());
    }
}

#[test]
fn short_contexts_and_small_budgets_equal_the_masked_softmax() {
    let (model, facts) = model(5);
    // One row is its own budget; then one row more, and one less, than the budget.
    for (prompt, budget) in [(1, 1), (2, 1), (9, 9), (9, 10), (9, 11), (30, 2)] {
        let mut cache = filled(&model, &ids(prompt, 2), prompt);
        let mut tide = Tide::new(settings(&format!("budget={budget},start=0,correction=2"), &facts));
        let [found, expected] = both(&model, &mut tide, &mut cache, &TokenTree::root(8), [0, 2]);
        assert_close(&found, &expected, &format!("{prompt} rows, budget {budget}"));
    }
    let tide = plan(&["tidaldecode:budget=1,start=0"], &facts);
    assert_eq!(texts(&model, &tide, &[vec![5]], 12)[0].len(), 12);
}

#[test]
fn sequences_of_different_length_run_together_as_they_do_alone() {
    let (model, facts) = model(5);
    let prompts = [ids(300, 1), ids(70, 2), ids(1, 3)];
    for methods in [&["tidaldecode:budget=20"][..], &["tidaldecode:budget=20,sharing=union,newest=false"]] {
        let plan = plan(methods, &facts);
        let together = texts(&model, &plan, &prompts, 16);
        let alone =
            prompts.iter().map(|prompt| texts(&model, &plan, std::slice::from_ref(prompt), 16).remove(0));
        assert!(together.into_iter().eq(alone));
    }
}

#[test]
fn correction_leaves_the_cache_of_a_dense_pass() {
    let (model, facts) = model(8);
    let prompt = ids(60, 6);
    let plan = plan(&["tidaldecode:budget=15,period=256"], &facts);
    let mut scheduler = Scheduler::new(&model).with_chunk(100);
    let request = Request { prompt: prompt.clone(), max_tokens: 300, ..Request::default() };
    let id = scheduler.add(request, plan.begin()).unwrap();
    let (mut tokens, mut polluted) = (prompt, None);
    loop {
        let events = scheduler.step().unwrap();
        tokens.extend(events.iter().flat_map(|event| &event.tokens));
        let cache = scheduler.cache(id).unwrap();
        if events.is_empty() && cache.position() == 60 + 256 {
            break;
        }
        if !events.is_empty() {
            polluted = Some(cache.clone());
        }
        assert!(tokens.len() <= 60 + 257, "the cache is corrected after 256 tokens");
    }
    let dense = filled(&model, &tokens[..60 + 256], 60 + 257);
    let cache = scheduler.cache(id).unwrap();
    assert!(distance(cache, &dense, 316) <= 1e-4);
    assert!(distance(&polluted.unwrap(), &dense, 316) > 1e-3, "without it the cache differs");
    scheduler.run(|_, _| {}).unwrap();
    let report = scheduler.statistics(id).unwrap().attention.unwrap();
    assert!(report.contains("1 corrections"), "{report}");
}

/// The largest difference between the first `rows` keys and values of two caches.
fn distance(one: &KvCache, other: &KvCache, rows: usize) -> f32 {
    let heads = |cache: &KvCache| -> Vec<f32> {
        let layers = (0..cache.shape().layers).flat_map(|layer| cache.layer(layer));
        layers.flat_map(|head| (0..rows).flat_map(|row| [head.key(row), head.value(row)].concat())).collect()
    };
    heads(one).iter().zip(heads(other)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
