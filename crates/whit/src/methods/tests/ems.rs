//! By hand, against the paper's steps written out plainly, and on a small model.

use super::*;
use crate::generate::cache::HeadRows;
use crate::generate::{Request, Scheduler};
use crate::methods::eviction::testing::{driven, positions, refusal};
use crate::methods::scores::{Tally, norm};
use crate::methods::testing::{model, plan, prompt};
use crate::methods::{Draft, Moment, Moved, Observed, Selection, Stages, TokenTree, Verified};
use crate::nn::decoder::Decoder;
use std::sync::{Arc, Mutex};

fn same(a: &[HeadRows], b: &[HeadRows]) -> bool {
    let rows = |head: &HeadRows| -> Vec<f32> {
        (0..head.len()).flat_map(|row| [head.key(row), head.value(row)].concat()).collect()
    };
    a.iter().zip(b).all(|(a, b)| a.positions() == b.positions() && rows(a) == rows(b))
}

#[test]
fn a_prompt_within_the_budget_is_left_alone() {
    assert!(same(&driven("ems:budget=40,recent=4", 40, 0), &driven("ems:budget=4096,recent=4", 40, 0)));
    assert_eq!(positions("ems:budget=40,recent=4", 40, 0)[0].len(), 40);
}

#[test]
fn above_one_it_is_eviction_by_the_same_score() {
    for steps in [0, 3, 20] {
        let evict = driven("ems:budget=8,recent=2,slack=5,tau=1.01,rho=0,score=local", 40, steps);
        let plain = driven("snapkv:budget=8,recent=2,slack=5,pool=0", 40, steps);
        assert!(same(&evict, &plain), "{steps} steps");
    }
    let evict = driven("ems:budget=8,recent=4,tau=1.01,rho=0,score=global", 40, 0);
    assert!(same(&evict, &driven("h2o:budget=8,recent=0.5", 40, 0)));
}

/// Key 9 is a centre; keys of one direction and values of one direction differ in length only.
#[test]
fn merging_keeps_positions_and_weighs_values() {
    let evicted = driven("ems:budget=6,recent=2,tau=1.01", 40, 0);
    let merged = driven("ems:budget=6,recent=2,tau=0.5,rho=0", 40, 0);
    let values = driven("ems:budget=6,recent=2,tau=0.5,rho=0,keys=false", 40, 0);
    assert!(!same(&evicted, &merged));
    for ((evicted, merged), values) in evicted.iter().zip(&merged).zip(&values) {
        assert_eq!(evicted.positions(), merged.positions());
        for row in 0..evicted.len() {
            assert_eq!(evicted.key(row), values.key(row));
            assert_eq!(merged.value(row), values.value(row));
            let lengths = [norm(evicted.key(row)), norm(merged.key(row))];
            assert!(lengths[1] >= 1.0 && lengths[1] <= 11.0, "{lengths:?}");
        }
    }
}

#[test]
fn adaptive_heads_differ_and_keep_the_total() {
    let lens: Vec<usize> = positions("ems:budget=10,recent=2,adaptive", 40, 0).iter().map(Vec::len).collect();
    assert_eq!(lens.iter().sum::<usize>(), 20);
    let even: Vec<usize> = positions("ems:budget=10,recent=2", 40, 0).iter().map(Vec::len).collect();
    assert_eq!(even, [10, 10]);
}

#[test]
fn budgets_and_knobs_that_do_not_fit_are_named() {
    for budget in [1, 31, 32] {
        let refusal = refusal(&format!("ems:budget={budget}"));
        assert!(refusal.contains("budget") && refusal.contains("32"), "{refusal}");
    }
    for (knob, value) in [("tau", 0.0), ("tau", 1.02), ("rho", 1.0), ("rho", -0.1)] {
        let failure = Knobs::defaults(&SPEC).set(knob, Value::Float(value)).unwrap_err().to_string();
        assert!(failure.contains("ems") && failure.contains(knob), "{failure}");
    }
}

// --- Logits -------------------------------------------------------------------------------------

/// Drafts nothing and writes the logits of every step down.
#[derive(Debug, Default)]
struct Listener(Arc<Mutex<Vec<Vec<f32>>>>);

impl Draft for Listener {
    fn propose(&mut self, committed: &[u32], _: usize) -> Result<TokenTree, MethodError> {
        Ok(TokenTree::root(committed[committed.len() - 1]))
    }

    fn learn(&mut self, verified: &Verified<'_>) {
        self.0.lock().unwrap().push(verified.logits.to_vec());
    }

    fn report(&self) -> String {
        String::new()
    }
}

/// The logits of 64 steps behind a prompt of 40.
fn logits(model: &Decoder, stages: Stages) -> Vec<Vec<f32>> {
    let heard = Arc::default();
    let stages = Stages { draft: Some(Box::new(Listener(Arc::clone(&heard)))), ..stages };
    let mut scheduler = Scheduler::new(model);
    let request = Request { prompt: prompt(40), max_tokens: 65, ..Request::default() };
    scheduler.add(request, stages).unwrap();
    scheduler.run(|_, _| ()).unwrap();
    Arc::into_inner(heard).map_or_else(Vec::new, |heard| heard.into_inner().unwrap())
}

#[test]
fn a_budget_that_is_never_reached_leaves_every_logit_of_64_steps_bit_for_bit() {
    let model = model(4, 512, 1);
    let facts = ModelFacts::decoder("llama", model.config());
    let with = |method: &str| logits(&model, plan(method, &facts).unwrap().begin());
    let full = logits(&model, Stages::default());
    assert_eq!(full.len(), 64);
    assert!(with("ems:budget=0") == full, "off");
    assert!(with("ems:budget=200,recent=4") == full, "a budget of more than all 104 tokens");
    assert!(with("ems:budget=12,recent=4") != full, "and the test can tell");
}

// --- The paper's steps, plainly -----------------------------------------------------------------

const ROWS: usize = 90;
const HEADS: usize = 3;
const DIM: usize = 16;

fn noise(seed: usize) -> f32 {
    let x = (seed.wrapping_mul(2_654_435_761) >> 7) % 10_007;
    x as f32 / 5003.5 - 1.0
}

/// Rows that come in a few directions, so that many resemble each other.
fn head(head: usize) -> HeadRows {
    let mut rows = HeadRows::with_capacity(DIM, ROWS);
    for row in 0..ROWS {
        let value = |kind: usize| -> Vec<f32> {
            let cause = (row * row + head * 5) % 7;
            let at =
                |at: usize| noise(cause * 64 + at + kind * 1000) + 0.35 * noise(row * 999 + at + kind + head);
            (0..DIM).map(at).collect()
        };
        rows.push(&value(1), &value(2), row as u32);
    }
    rows
}

/// Attention of the last `queries` queries and of all of them together: `[heads, queries, rows]`, `[heads, rows]`.
fn attention(queries: usize) -> (Vec<f32>, Vec<f32>) {
    let paid = |seed: usize| (3.0 * noise(seed)).exp();
    let last: Vec<f32> = (0..HEADS * queries * ROWS).map(|at| paid(at + 7) / 100.0).collect();
    let sums = (0..HEADS * ROWS).map(|at| {
        let (head, row) = (at / ROWS, at % ROWS);
        paid(at * 3) + (0..queries).map(|query| last[(head * queries + query) * ROWS + row]).sum::<f32>()
    });
    (last.clone(), sums.collect())
}

/// One layer thinned out by the method: its heads, what their rows have received, and which were merged.
fn thinned(rule: &Rule, heads: std::ops::Range<usize>) -> (Vec<HeadRows>, Tally, Vec<Vec<Moved>>) {
    let queries = rule.window;
    let (last, sums) = attention(queries);
    let mut tally = Tally::default();
    let seen = Observed {
        layer: 0,
        moment: Moment::Prompt,
        heads: heads.len(),
        prompt: ROWS,
        rows: ROWS,
        column_sums: &sums[heads.start * ROWS..heads.end * ROWS],
        queries,
        last_rows: &last[heads.start * queries * ROWS..heads.end * queries * ROWS],
    };
    tally.see(&seen, &vec![ROWS; heads.len()], queries);
    let mut cache: Vec<HeadRows> = heads.map(head).collect();
    let moved = rule.thin(0, &mut tally, &mut cache);
    (cache, tally, moved)
}

fn rule_of(text: &str) -> Rule {
    let knobs = Selection::parse(&[text]).unwrap().chosen()[0].clone();
    rule(&knobs, &ModelFacts { heads: HEADS, kv_heads: HEADS, ..ModelFacts::example() }).unwrap()
}

/// Cosine in double precision.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// What one head should keep: rows with their keys and values.
type Plain = Vec<(usize, Vec<f64>, Vec<f64>)>;

/// The steps of the paper's idea for one head, one after the other.
fn plainly(index: usize, [budget, recent]: [usize; 2], [tau, rho]: [f64; 2]) -> Plain {
    let (last, sums) = attention(recent);
    let rows = head(index);
    let global: Vec<f64> = sums[index * ROWS..][..ROWS].iter().map(|&sum| f64::from(sum)).collect();
    let paid = |row: usize| -> f64 {
        (0..recent).map(|query| f64::from(last[(index * recent + query) * ROWS + row])).sum()
    };
    let local: Vec<f64> = (0..ROWS).map(paid).collect();
    let factor = local.iter().sum::<f64>() / global.iter().sum::<f64>();
    let score: Vec<f64> = (0..ROWS).map(|row| local[row].max(global[row] * factor)).collect();
    let mut order: Vec<usize> = (0..ROWS - recent).collect();
    order.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
    let (chosen, rest) = order.split_at(budget - recent);
    let mut kept: Vec<usize> = chosen.iter().copied().chain(ROWS - recent..ROWS).collect();
    kept.sort_unstable();
    let allowance = rho * score.iter().sum::<f64>();
    let tail = |from: usize| rest[from..].iter().map(|&row| score[row]).sum::<f64>();
    let merged = &rest[..(0..rest.len()).find(|&from| tail(from) < allowance).unwrap_or(rest.len())];
    let alike = |row: usize, centre: usize| {
        let (key, value) =
            (cosine(rows.key(row), rows.key(centre)), cosine(rows.value(row), rows.value(centre)));
        if key > 0.0 && value > 0.0 { key * value } else { 0.0 }
    };
    let class = |row: usize| {
        let best = kept.iter().copied().max_by(|&a, &b| alike(row, a).total_cmp(&alike(row, b))).unwrap();
        (alike(row, best) > tau).then_some(best)
    };
    let double = |vector: &[f32]| -> Vec<f64> { vector.iter().map(|&x| f64::from(x)).collect() };
    let length = |vector: &[f64]| vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mean = |members: &[(f64, Vec<f64>)], total: f64| -> Vec<f64> {
        (0..DIM)
            .map(|at| members.iter().map(|(weight, vector)| weight * vector[at]).sum::<f64>() / total)
            .collect()
    };
    let centre = |&centre: &usize| {
        let members: Vec<usize> = std::iter::once(centre)
            .chain(merged.iter().copied().filter(|&row| class(row) == Some(centre)))
            .collect();
        let total: f64 = members.iter().map(|&row| score[row]).sum();
        let of = |vector: &dyn Fn(usize) -> Vec<f64>| -> Vec<(f64, Vec<f64>)> {
            members.iter().map(|&row| (score[row], vector(row))).collect()
        };
        let value = mean(&of(&|row| double(rows.value(row))), total);
        let unit = |row: usize| {
            let key = double(rows.key(row));
            let length = length(&key);
            key.into_iter().map(|x| x / length).collect()
        };
        let direction = mean(&of(&unit), total);
        let norm: f64 =
            members.iter().map(|&row| score[row] * length(&double(rows.key(row)))).sum::<f64>() / total;
        let scale = norm / length(&direction);
        (centre, direction.into_iter().map(|x| x * scale).collect(), value)
    };
    kept.iter().map(centre).collect()
}

#[test]
fn heads_together_are_heads_one_by_one_and_the_papers_steps() {
    let (budget, recent, tau, rho) = (20, 6, 0.5, 0.05);
    let rule = rule_of(&format!("ems:budget={budget},recent={recent},tau={tau},rho={rho}"));
    let (together, _, moved) = thinned(&rule, 0..HEADS);
    assert!(moved.iter().all(|moved| moved.len() > 5), "rows are merged in every head");
    for index in 0..HEADS {
        let (alone, ..) = thinned(&rule, index..index + 1);
        assert!(same(&together[index..=index], &alone), "head {index}");
        let plain = plainly(index, [budget, recent], [tau, rho]);
        let found = &together[index];
        assert_eq!(found.positions().to_vec(), plain.iter().map(|(row, ..)| *row as u32).collect::<Vec<_>>());
        for (row, (_, key, value)) in plain.iter().enumerate() {
            let pairs = found.key(row).iter().zip(key).chain(found.value(row).iter().zip(value));
            let far = pairs.map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(far < 2e-6, "head {index}, row {row}: {far}");
        }
    }
}

#[test]
fn no_attention_is_lost_when_rows_are_merged() {
    let rule = rule_of("ems:budget=20,recent=6,tau=0.5,rho=0.05");
    let (cache, tally, moved) = thinned(&rule, 0..HEADS);
    let (_, sums) = attention(rule.window);
    for index in 0..HEADS {
        let before = &sums[index * ROWS..][..ROWS];
        let stays = |row: usize| {
            let kept = cache[index].positions().contains(&(row as u32));
            kept || moved[index].iter().any(|moved| moved.from == row)
        };
        let gone: f32 = (0..ROWS).filter(|&row| !stays(row)).map(|row| before[row]).sum();
        let kept: f32 = tally.global()[index].iter().sum();
        let all: f32 = before.iter().sum();
        assert!(
            gone > 0.0 && kept < all && (kept + gone - all).abs() < 1e-4 * all,
            "{kept} + {gone} of {all}"
        );
    }
}
