//! By hand, and on small random models with drafts that are good, bad and too short.

use whit_kernels::attention::{HeadView, Mask, Wanted};

use super::*;
use crate::generate::cache::{CacheShape, KvCache};
use crate::generate::forward::{Span, forward};
use crate::generate::{Request, Scheduler};
use crate::methods::testing::*;
use crate::methods::{Plan, Selection};

#[test]
fn prompts_that_fit_are_plain_and_the_draft_does_not_run() {
    // A draft that could not read 60 tokens.
    let (target, draft) = (model(2, 512, 1), model(2, 32, 2));
    let plan = plan("spec-kv:capacity=60,window=8", &facts(&target, &draft)).unwrap();
    assert_eq!(run(&target, &plan, &prompt(60), 64).0, plainly(&target, &prompt(60), 64));
}

#[test]
fn one_row_less_than_the_prompt_keeps_all_that_matter_whatever_the_draft() {
    let target = model(3, 8192, 1);
    for (tokens, new) in [(61, 64), (250, 64), (4086, 10)] {
        let ids = prompt(tokens);
        let draft = model(2, 8192, tokens as u64);
        let method = format!("spec-kv:capacity={},window=8", tokens - 1);
        let (text, statistics) = run(&target, &plan(&method, &facts(&target, &draft)).unwrap(), &ids, new);
        assert_eq!(text, plainly(&target, &ids, new), "{tokens}");
        assert_eq!(statistics.prompt_tokens, tokens);
    }
}

/// Index sets by hand: n = 300, L = 7, C = 64, w = 8.
#[test]
fn heads_keep_what_the_papers_formula_says() {
    let (target, draft) = (model(4, 512, 1), model(2, 512, 2));
    let (ids, text) = (prompt(300), plainly(&draft, &prompt(300), 7));
    let plan = plan("spec-kv:capacity=64,window=8", &facts(&target, &draft)).unwrap();
    let mut voter = plan.begin().lookahead.unwrap();
    let drafted = voter.tokens(&Ahead { prompt: &ids, room: 7, stop: &[] }).unwrap().unwrap();
    assert_eq!(drafted, text);
    let all = [&ids[..], &text].concat();
    let mut cache = KvCache::new(CacheShape { layers: 4, kv_heads: 2, head_dim: 16 }, 307);
    let mut span = Span::causal(&mut cache, all.clone(), 300);
    span.look = Some(&mut *voter);
    forward(&target, vec![span]).unwrap();
    cache.truncate(299);
    let capture = Capture::of(&target, &all);
    for layer in 0..4 {
        let expected: Vec<Vec<usize>> = (0..2).map(|head| by_hand(&capture, layer, head)).collect();
        assert_eq!(positions(cache.layer(layer)), expected, "layer {layer}");
    }
    assert_ne!(positions(cache.layer(0)), positions(cache.layer(1)));
    assert_eq!(cache.position(), 299);
}

/// The rows of one kv head: the best 56 of the first 291, and the 8 that end before the last token.
fn by_hand(capture: &Capture, layer: usize, head: usize) -> Vec<usize> {
    let mut scores = vec![0.0_f64; 291];
    for query in 291..307 {
        for member in [2 * head, 2 * head + 1] {
            let weights = capture.weights(layer, member, query);
            scores.iter_mut().zip(weights).for_each(|(score, weight)| *score = score.max(weight));
        }
    }
    let around = |at: usize| scores[at.saturating_sub(3)..291.min(at + 4)].iter().copied();
    let pooled: Vec<f64> = (0..291).map(|at| around(at).fold(0.0, f64::max)).collect();
    let mut order: Vec<usize> = (0..291).collect();
    order.sort_by(|a, b| pooled[*b].total_cmp(&pooled[*a]));
    let mut rows = order[..56].to_vec();
    rows.sort_unstable();
    rows.extend(291..299);
    rows
}

#[test]
fn the_cache_holds_the_capacity_and_the_answer_and_no_more() {
    let (target, draft) = (model(3, 1024, 1), model(2, 1024, 2));
    let per_row = CacheShape { layers: 3, kv_heads: 2, head_dim: 16 }.bytes_per_token();
    for more in ["", ",lookahead=0", ",lookahead=3", ",band=64,columns=40"] {
        let method = format!("spec-kv:capacity=32,window=8{more}");
        let (text, statistics) =
            run(&target, &plan(&method, &facts(&target, &draft)).unwrap(), &prompt(700), 20);
        assert_eq!((text.len(), statistics.cache_bytes), (20, (32 + 20) * per_row), "{method}");
    }
}

/// A target whose second layer reads what the first wrote sparsely.
#[test]
fn long_prompts_are_read_in_a_band_and_the_elected_columns() {
    let (target, draft) = (model(1, 1024, 1), model(1, 1024, 2));
    let knobs = Selection::parse(&["spec-kv:capacity=32,window=8,band=64,columns=40"]).unwrap();
    let shared = Shared::new(&knobs.chosen()[0], &facts(&target, &draft)).unwrap();
    let mut voter = Voter::new(&Arc::new(shared), Arc::default());
    (voter.prompt, voter.drafted) = (300, Some(5));
    let data: Vec<f32> = (0..305 * 64).map(|at| (at * 7919 % 1013) as f32 / 506.0 - 1.0).collect();
    let views = [0, 1].map(|head| HeadView {
        keys: &data[head * 16..],
        values: &data[head * 16 + 32..],
        stride: 32,
        value_stride: 32,
        len: 305,
        rows: None,
    });
    let call = Call {
        queries: &data,
        query_count: 305,
        heads: 4,
        head_dim: 16,
        kv: &views,
        scale: 0.25,
        softcap: None,
        mask: Mask::Causal,
        window: None,
        key_bias: None,
        wanted: Wanted::default(),
    };
    let site = Site { layer: 0, heads: 4, kv_heads: 2, head_dim: 16, scale: 0.25, window: None };
    let columns = [0, 1].map(|head| voter.elect(&call, head));
    assert!(columns.iter().all(|columns| columns.len() == 40));
    let pattern = VerticalSlash::new(64, columns.to_vec());
    let output = voter.attend(&site, &call).unwrap();
    assert_eq!(output, vertical_slash::attend(&call, &pattern));
    assert_ne!(output, attention::attend(&call).output);
    let windowed = Site { window: Some(50), ..site };
    let narrow = Call { window: Some(50), ..call };
    assert_eq!(voter.attend(&windowed, &narrow).unwrap(), attention::attend(&narrow).output);
    assert!(voter.kept.is_empty());
}

/// The first layer's rows do not depend on how it is read; the second's do.
#[test]
fn without_eviction_long_prompts_are_read_sparsely_and_every_row_stays() {
    let (target, draft) = (model(3, 1024, 1), model(2, 1024, 2));
    let facts = facts(&target, &draft);
    let sparse = plan("spec-kv:evict=false,window=8,band=64,columns=40", &facts).unwrap();
    let read = |plan: &Plan, tokens: usize| {
        let mut scheduler = Scheduler::new(&target);
        let request = Request { prompt: prompt(tokens), max_tokens: 9, ..Request::default() };
        let id = scheduler.add(request, plan.begin()).unwrap();
        let mut text = Vec::new();
        while text.is_empty() {
            text.extend(scheduler.step().unwrap().into_iter().flat_map(|event| event.tokens));
        }
        scheduler.cache(id).unwrap().clone()
    };
    let (found, dense) = (read(&sparse, 300), read(&Plan::new(&Selection::default(), &facts).unwrap(), 300));
    let keys = |cache: &KvCache, layer: usize| -> Vec<f32> {
        let head = &cache.layer(layer)[0];
        (0..head.len()).flat_map(|row| head.key(row).to_vec()).collect()
    };
    assert_eq!(keys(&found, 0), keys(&dense, 0));
    assert_ne!(keys(&found, 2), keys(&dense, 2));
    assert_eq!(positions(found.layer(2)), positions(dense.layer(2)));
    let per_row = CacheShape { layers: 3, kv_heads: 2, head_dim: 16 }.bytes_per_token();
    assert!(run(&target, &sparse, &prompt(300), 20).1.cache_bytes >= (300 + 19) * per_row);
    // No longer than band and columns: nothing is asked of the draft, which could not read it.
    let blind = self::facts(&target, &model(2, 32, 2));
    let idle = plan("spec-kv:evict=false,window=8,band=64,columns=40", &blind).unwrap();
    assert_eq!(run(&target, &idle, &prompt(90), 14).0, plainly(&target, &prompt(90), 14));
}

#[test]
fn one_run_of_the_draft_cuts_the_prompt_and_writes_the_text_that_votes() {
    let (target, draft) = (model(3, 1024, 1), model(4, 1024, 2));
    let facts = facts(&target, &draft);
    let ids = prompt(300);
    let both = plan("spec-kv:capacity=80,window=8,prompt=128", &facts).unwrap();
    let mut stages = both.begin();
    let whole = 0..ids.len();
    let edited = stages.prompt_edits[0].edit(&Prompt { written: None, ids: &ids, editable: &[whole] });
    let Edited::Kept(kept) = edited.unwrap() else { panic!("nothing was cut") };
    assert!(kept.len() == 128 && kept[0] == 0 && kept[64..] == *(236..300).collect::<Vec<_>>());
    let short: Vec<u32> = kept.iter().map(|&at| ids[at]).collect();
    let ahead = Ahead { prompt: &short, room: 9, stop: &[] };
    let text = stages.lookahead.as_mut().unwrap().tokens(&ahead).unwrap().unwrap();
    // The draft goes on with the whole prompt, not with what is left of it.
    assert_eq!(text, plainly(&draft, &ids, 9));
    assert_ne!(text, plainly(&draft, &short, 9));
    let (text, statistics) = run(&target, &both, &ids, 20);
    assert_eq!((text.len(), statistics.original_tokens, statistics.prompt_tokens), (20, 300, 128));
}

#[test]
fn a_failing_draft_fails_or_is_forgiven() {
    let (target, draft) = (model(2, 512, 1), model(2, 32, 2));
    let facts = facts(&target, &draft);
    let forgiving = plan("spec-kv:capacity=60,window=8,on-draft-error=dense", &facts).unwrap();
    assert_eq!(run(&target, &forgiving, &prompt(90), 30).0, plainly(&target, &prompt(90), 30));
    let mut stages = plan("spec-kv:capacity=60,window=8", &facts).unwrap().begin();
    let ids = prompt(90);
    let error = stages.lookahead.as_mut().unwrap().tokens(&Ahead { prompt: &ids, room: 9, stop: &[] });
    assert!(error.unwrap_err().to_string().contains("spec-kv"));
}

#[test]
fn knobs_and_drafts_that_do_not_fit_are_refused() {
    let (target, draft) = (model(2, 512, 1), model(2, 512, 2));
    let mut facts = facts(&target, &draft);
    for (knobs, reason) in [
        ("kernel=4", "odd"),
        ("band=100", "64"),
        ("capacity=32", "less than the capacity"),
        ("capacity=4097", "4096"),
        ("prompt=20", "64"),
    ] {
        let error = plan(&format!("spec-kv:{knobs}"), &facts).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    facts.companions.draft = Some(draft_model(&draft, 90));
    assert!(matches!(plan("spec-kv", &facts), Err(MethodError::OtherVocabulary { .. })));
    facts.companions.draft = None;
    assert!(matches!(plan("spec-kv", &facts), Err(MethodError::MissingDraftModel { .. })));
}

/// 256 of 16,384 rows, whatever the shape.
#[test]
fn the_papers_capacity_is_under_two_hundredths_of_a_long_prompt() {
    let shape = CacheShape { layers: 32, kv_heads: 8, head_dim: 128 };
    let bytes = |rows: usize| (rows * shape.bytes_per_token()) as f64;
    assert!(bytes(256) / bytes(16_384) <= 0.017);
}
