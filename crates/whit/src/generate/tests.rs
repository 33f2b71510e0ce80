//! The loop on small random models: alone and in company, plain and with drafts.

use std::sync::{Arc, Mutex};

use whit_kernels::attention::BitMatrix;
use whit_kernels::op;

use super::cache::{CacheShape, HeadRows, KvCache};
use super::forward::{Span, forward};
use super::{Finish, Request, Sampling, Scheduler, Statistics};
use crate::methods::{
    AttnPolicy, Edited, KvPolicy, Looking, MethodError, ModelFacts, Moment, Observation, Observed, Plan,
    Prompt, PromptEdit, Reading, Selection, Stage, Stages, TokenTree,
};
use crate::nn::activation::Activation;
use crate::nn::decoder::{Biases, Decoder, DecoderConfig, Multipliers, NormConfig, Positions};
use crate::nn::rotary::{RotaryConfig, Scaling};
use crate::nn::vars::{Precision, Random, Storage, Vars};

const VOCABULARY: usize = 101;

fn config(layers: usize, width: usize) -> DecoderConfig {
    let rotary = RotaryConfig { theta: 10_000.0, dim: 16, scaling: Scaling::None, max_positions: 512 };
    DecoderConfig {
        vocab_size: VOCABULARY,
        width,
        feed_forward: 2 * width,
        layers,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        norm: NormConfig { centred: false, epsilon: 1e-6 },
        activation: Activation::Silu,
        gated: true,
        biases: Biases::default(),
        query_key_norm: false,
        positions: Positions::Rotary(rotary),
        windows: vec![None; layers],
        scales: vec![0.25; layers],
        tied: false,
        experts: None,
        block_ffn: None,
        latent: None,
        white: None,
        multipliers: Multipliers::default(),
        max_positions: 512,
    }
}

fn model(config: DecoderConfig) -> Decoder {
    let storage = Storage::Packed(Precision::Native);
    Decoder::new(config, &Vars::new(&Random { seed: 5 }, &storage)).unwrap()
}

fn plan(methods: &[&str]) -> Plan {
    let facts = ModelFacts { vocabulary: VOCABULARY, ..ModelFacts::example() };
    Plan::new(&Selection::parse(methods).unwrap(), &facts).unwrap()
}

fn request(seed: u32, tokens: usize) -> Request {
    let prompt = (0..seed % 17 + 1).map(|i| (i * i + 7 * seed) % VOCABULARY as u32).collect();
    Request { prompt, max_tokens: tokens, ..Request::default() }
}

/// Runs requests together; gives each one's tokens, end and statistics.
fn run(
    model: &Decoder,
    plan: &Plan,
    requests: &[Request],
    chunk: usize,
) -> Vec<(Vec<u32>, Finish, Statistics)> {
    let mut scheduler = Scheduler::new(model).with_chunk(chunk);
    let ids: Vec<usize> =
        requests.iter().map(|one| scheduler.add(one.clone(), plan.begin()).unwrap()).collect();
    let mut texts = vec![(Vec::new(), None); ids.len()];
    scheduler
        .run(|_, event| {
            let text = &mut texts[event.id];
            text.0.extend(&event.tokens);
            text.1 = event.finish.or(text.1);
        })
        .unwrap();
    let done = texts.into_iter().zip(ids);
    done.map(|((tokens, end), id)| (tokens, end.unwrap(), scheduler.statistics(id).unwrap())).collect()
}

fn tokens(model: &Decoder, plan: &Plan, request: &Request) -> Vec<u32> {
    run(model, plan, std::slice::from_ref(request), 512).remove(0).0
}

#[test]
fn a_sequence_gets_the_same_tokens_alone_in_company_and_in_chunks() {
    let model = model(config(2, 64));
    let requests: Vec<Request> = [3, 8, 30, 16].map(|seed| request(seed, 24)).to_vec();
    let alone: Vec<Vec<u32>> = requests.iter().map(|one| tokens(&model, &plan(&[]), one)).collect();
    for chunk in [1, 5, 512] {
        let together = run(&model, &plan(&[]), &requests, chunk);
        assert!(together.iter().map(|one| &one.0).eq(&alone), "chunk {chunk}");
    }
}

#[test]
fn recycling_leaves_greedy_text_as_it_is_hot_and_cold_in_every_size() {
    let model = model(config(4, 64));
    for method in [
        "tree=1,tune=false",
        "tree=8,tune=false,hot=false",
        "tree=25,tune=false",
        "tree=80,tune=false",
        "tree=80",
        "prompt=true",
    ] {
        let recycling = plan(&[&format!("token-recycling:{method}")]);
        for seed in 0..20 {
            let request = request(seed, if seed < 2 { 200 } else { 40 });
            assert_eq!(
                tokens(&model, &recycling, &request),
                tokens(&model, &plan(&[]), &request),
                "{method} {seed}"
            );
        }
    }
}

#[test]
fn recycling_leaves_sampled_text_and_batches_as_they_are() {
    let model = model(config(2, 64));
    let sampling = |seed| Sampling {
        temperature: 0.02,
        top_k: 20,
        repetition_penalty: 1.1,
        seed,
        ..Sampling::default()
    };
    let requests: Vec<Request> =
        (0..4).map(|seed| Request { sampling: sampling(seed.into()), ..request(seed + 2, 60) }).collect();
    let plain = run(&model, &plan(&[]), &requests, 512);
    let drafted = run(&model, &plan(&["token-recycling:tree=40,tune=false"]), &requests, 512);
    assert!(plain.iter().map(|one| &one.0).eq(drafted.iter().map(|one| &one.0)));
}

#[test]
fn text_that_repeats_needs_fewer_passes_and_hot_tables_fewer_still() {
    let model = model(config(2, 64));
    let recycling = plan(&["token-recycling:tree=80,tune=false"]);
    let passes = |_: usize| run(&model, &recycling, &[request(3, 100)], 512).remove(0).2.decode_passes;
    let (cold, hot) = (passes(0), passes(1));
    assert!(hot < cold && cold <= 99, "{cold} {hot}");
}

#[test]
fn limits_and_stop_tokens_cut_exactly() {
    let model = model(config(2, 64));
    let plain = tokens(&model, &plan(&[]), &request(4, 50));
    let stop = plain[20];
    let first = plain.iter().position(|&token| token == stop).unwrap();
    for methods in [&[][..], &["token-recycling:tree=80,tune=false"]] {
        let plan = plan(methods);
        run(&model, &plan, &[request(4, 50)], 512);
        for limit in [0, 1, 2, 17] {
            let (text, end, _) = run(&model, &plan, &[request(4, limit)], 512).remove(0);
            assert_eq!((text.as_slice(), end), (&plain[..limit], Finish::Length));
        }
        let stopping = Request { stop_tokens: vec![stop], ..request(4, 50) };
        let (text, end, _) = run(&model, &plan, &[stopping], 512).remove(0);
        assert_eq!((text.as_slice(), end), (&plain[..first], Finish::Stop));
    }
}

#[test]
fn the_context_is_a_limit_too() {
    let small = DecoderConfig { max_positions: 12, ..config(2, 64) };
    let model = model(small);
    let prompt: Vec<u32> = (0..10).collect();
    let (text, end, _) = run(
        &model,
        &plan(&["token-recycling"]),
        &[Request { prompt: prompt.clone(), max_tokens: 50, ..Request::default() }],
        512,
    )
    .remove(0);
    assert_eq!((text.len(), end), (3, Finish::Length));
    let mut scheduler = Scheduler::new(&model);
    let errors = [vec![], (0..13).collect(), vec![VOCABULARY as u32]].map(|prompt| {
        scheduler
            .add(Request { prompt, max_tokens: 1, ..Request::default() }, plan(&[]).begin())
            .unwrap_err()
            .to_string()
    });
    assert!(
        errors[0].contains("empty") && errors[1].contains("13 tokens") && errors[2].contains("101"),
        "{errors:?}"
    );
}

#[test]
fn sequences_can_be_cancelled_between_steps() {
    let model = model(config(2, 64));
    let mut scheduler = Scheduler::new(&model);
    let first = scheduler.add(request(3, 100), plan(&[]).begin()).unwrap();
    let second = scheduler.add(request(5, 20), plan(&[]).begin()).unwrap();
    let mut text = Vec::new();
    for _ in 0..3 {
        text.extend(
            scheduler
                .step()
                .unwrap()
                .into_iter()
                .filter(|event| event.id == second)
                .flat_map(|event| event.tokens),
        );
    }
    scheduler.end(first, Finish::Cancelled);
    assert_eq!(scheduler.statistics(first).unwrap().new_tokens, 3);
    scheduler.run(|_, event| text.extend(&event.tokens)).unwrap();
    assert_eq!(text, tokens(&model, &plan(&[]), &request(5, 20)));
}

/// Every node of a tree gets the logits that its path alone would get, and keeping a path leaves the
/// cache that plain decoding would have left.
#[test]
fn a_tree_is_verified_as_its_paths_would_be() {
    let model = model(config(4, 64));
    let shape = CacheShape { layers: 4, kv_heads: 2, head_dim: 16 };
    let prefix: Vec<u32> = (0..13).map(|i| i * 5 % 101).collect();
    let mut cache = KvCache::new(shape, 128);
    logits(&model, Span::causal(&mut cache, prefix.clone(), 13));
    let parents = [None, Some(0), Some(0), Some(0), Some(1), Some(2), Some(2), Some(5)];
    let tree = TokenTree::new(vec![7, 1, 2, 3, 4, 5, 6, 8], parents.to_vec()).unwrap();
    let bits = tree.mask();
    let mut branched = cache.clone();
    let span = Span {
        cache: &mut branched,
        ids: tree.tokens().to_vec(),
        positions: tree.depths().iter().map(|&depth| 13 + depth as u32).collect(),
        length: 14,
        tree: Some(BitMatrix::from_fn(8, 8, |node, seen| bits[node] >> seen & 1 == 1)),
        watch: None,
        policy: None,
        look: None,
        route: None,
        exit: None,
        trace: None,
    };
    let found = logits(&model, span);
    for node in 0..tree.len() {
        let path = tree.path(node);
        let mut alone = cache.clone();
        let ids: Vec<u32> = path.iter().map(|&node| tree.tokens()[node]).collect();
        let wanted = logits(&model, Span::causal(&mut alone, ids, 14));
        let wanted = &wanted[(path.len() - 1) * VOCABULARY..];
        assert!(close(&found[node * VOCABULARY..(node + 1) * VOCABULARY], wanted), "node {node}");
        let mut kept = branched.clone();
        kept.keep_of_last(8, &path);
        assert_eq!(kept.position(), alone.position());
        for (a, b) in (0..4).flat_map(|layer| kept.layer(layer).iter().zip(alone.layer(layer))) {
            assert_eq!(a.positions(), b.positions());
            assert!(
                (0..a.len()).all(|row| close(a.key(row), b.key(row)) && close(a.value(row), b.value(row)))
            );
        }
    }
}

/// Lists every row of every head, and has the newest three computed again before each step.
#[derive(Debug, Default)]
struct Whole {
    lists: Vec<Option<Vec<u32>>>,
    scored: usize,
    each_query_head: bool,
}

impl AttnPolicy for Whole {
    fn read(&mut self, looking: &Looking) -> Reading<'_> {
        let heads = if self.each_query_head { 4 } else { 2 };
        self.lists = vec![Some((0..looking.rows as u32).collect()); heads];
        self.lists[1] = None;
        if looking.layer == 1 { Reading::AllScored } else { Reading::Rows(&self.lists) }
    }

    fn scored(&mut self, looking: &Looking, scores: &[f32]) {
        assert_eq!((looking.layer, scores.len()), (1, 4 * looking.rows));
        let unseen = scores.iter().filter(|score| **score == f32::NEG_INFINITY).count();
        assert_eq!(unseen, 4 * (looking.new - 1), "the root sees all but the other nodes");
        self.scored += 1;
    }

    fn stale(&mut self, position: usize) -> Option<usize> {
        (self.scored > 0).then(|| position - 3)
    }

    fn report(&self) -> String {
        format!("{} selections", self.scored)
    }
}

#[test]
fn reading_every_row_by_its_number_is_reading_all_bit_for_bit() {
    let model = model(config(3, 64));
    for each_query_head in [false, true] {
        for methods in [&[][..], &["token-recycling:tree=25,tune=false,hot=false"]] {
            let mut scheduler = Scheduler::new(&model).with_chunk(2);
            for seed in [5, 14] {
                let policy = Stage::AttnPolicy(Box::new(Whole { each_query_head, ..Whole::default() }));
                let mut stages = plan(methods).begin();
                stages.append([policy].into_iter().collect());
                scheduler.add(request(seed, 30), stages).unwrap();
            }
            let mut texts = [Vec::<u32>::new(), Vec::new()];
            scheduler.run(|_, event| texts[event.id].extend(&event.tokens)).unwrap();
            for (text, seed) in texts.iter().zip([5, 14]) {
                assert_eq!(*text, tokens(&model, &plan(&[]), &request(seed, 30)), "{methods:?} {seed}");
            }
            assert!(scheduler.statistics(0).unwrap().attention.unwrap().ends_with("selections"));
        }
    }
}

fn logits(model: &Decoder, span: Span<'_>) -> Vec<f32> {
    op::host(model.logits(forward(model, vec![span]).unwrap())).into_vec()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn a_shortened_prompt_is_counted_and_gives_the_text_of_the_short_one() {
    #[derive(Debug)]
    struct Half;
    impl PromptEdit for Half {
        fn edit(&mut self, prompt: &Prompt<'_>) -> Result<Edited, MethodError> {
            Ok(Edited::Kept((0..prompt.ids.len()).step_by(2).collect()))
        }
    }
    let model = model(config(2, 64));
    let long: Vec<u32> = (0..600).map(|i| i * 7 % 101).collect();
    let short: Vec<u32> = long.iter().copied().step_by(2).collect();
    let mut scheduler = Scheduler::new(&model);
    let stages = Stages::from_iter([Stage::PromptEdit(Box::new(Half))]);
    let request = |prompt| Request { prompt, max_tokens: 20, ..Request::default() };
    let id = scheduler.add(request(long), stages).unwrap();
    let mut text: Vec<u32> = Vec::new();
    scheduler.run(|_, event| text.extend(&event.tokens)).unwrap();
    assert_eq!(text, tokens(&model, &plan(&[]), &request(short)));
    let statistics = scheduler.statistics(id).unwrap();
    assert_eq!((statistics.original_tokens, statistics.prompt_tokens), (600, 300));
}

/// What a [`Witness`] has seen: for each layer the attention that each position received, over all heads.
type Received = Arc<Mutex<Vec<Vec<f32>>>>;

/// Adds up what it sees, and evicts the middle of a cache that is longer than its budget.
#[derive(Debug)]
struct Witness {
    budget: usize,
    received: Received,
}

impl KvPolicy for Witness {
    fn observe(&self, _: usize, _: Moment) -> Observation {
        Observation { column_sums: true, last_rows: 2 }
    }

    fn lasts(&self) -> bool {
        true
    }

    fn revise(&mut self, seen: &Observed<'_>, cache: &mut [HeadRows]) -> Result<(), MethodError> {
        let mut received = self.received.lock().unwrap();
        let layers = received.len().max(seen.layer + 1);
        received.resize(layers, vec![0.0; 512]);
        for (head, sums) in seen.column_sums.chunks_exact(seen.rows).enumerate() {
            let positions = cache[head / 2].positions();
            assert!((1..=positions.len()).contains(&seen.queries) || seen.moment == Moment::Chunk);
            positions.iter().zip(sums).for_each(|(&at, sum)| received[seen.layer][at as usize] += sum);
        }
        if seen.moment != Moment::Chunk {
            for head in cache {
                let (len, half) = (head.len(), self.budget / 2);
                let keep = (0..len).filter(|&row| row < half || row + half >= len);
                head.gather_with_room(&keep.collect::<Vec<_>>(), 0);
            }
        }
        Ok(())
    }
}

/// Text, cache bytes and what was seen.
fn witnessed(methods: &[&str], chunk: usize, budget: usize) -> (Vec<u32>, usize, Vec<Vec<f32>>) {
    let model = model(config(2, 64));
    let received = Received::default();
    let mut stages = plan(methods).begin();
    stages.append(Stages::from_iter([Stage::KvPolicy(Box::new(Witness {
        budget,
        received: Arc::clone(&received),
    }))]));
    let mut scheduler = Scheduler::new(&model).with_chunk(chunk);
    let id = scheduler.add(request(33, 90), stages).unwrap();
    let mut text = Vec::new();
    scheduler.run(|_, event| text.extend(&event.tokens)).unwrap();
    let bytes = scheduler.statistics(id).unwrap().cache_bytes;
    let received = received.lock().unwrap().clone();
    (text, bytes, received)
}

#[test]
fn policies_see_every_accepted_token_once_in_chunks_and_trees() {
    let (text, _, whole) = witnessed(&[], 512, 1000);
    // 17 tokens of the prompt and 89 of the answer went through the model, each with 4 heads.
    assert!(whole.iter().all(|layer| (layer.iter().sum::<f32>() - 106.0 * 4.0).abs() < 1e-2));
    let (same, _, parts) = witnessed(&[], 5, 1000);
    assert_eq!(same, text);
    assert!(parts.iter().flatten().zip(whole.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-3));
    let (same, _, drafted) = witnessed(&["token-recycling:tree=80,tune=false"], 512, 1000);
    assert_eq!(same, text);
    for layer in drafted {
        // Whole tokens; the last pass may have accepted some beyond the limit.
        let seen = layer.iter().sum::<f32>() / 4.0;
        assert!((seen - seen.round()).abs() < 1e-2 && (106.0..113.0).contains(&seen.round()), "{seen}");
    }
}

#[test]
fn policies_free_memory_and_work_beside_drafts() {
    let per_row = CacheShape { layers: 2, kv_heads: 2, head_dim: 16 }.bytes_per_token();
    for (methods, chunk) in [(&[][..], 512), (&[], 4), (&["token-recycling:tree=80,tune=false"], 512)] {
        let (text, bytes, _) = witnessed(methods, chunk, 8);
        assert_eq!((text.len(), bytes), (90, 8 * per_row), "{methods:?}");
    }
}
