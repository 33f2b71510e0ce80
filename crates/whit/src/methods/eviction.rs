//! The policy that methods with a budget share: how many rows every head keeps, which of them stay
//! whatever happens, who scores the others, how the budget is dealt out, and what becomes of the rest. A
//! method is a [`Rule`]; its state for one sequence is an [`Eviction`].

use std::sync::Arc;

use whit_kernels::parallel;

use super::merge::{Cam, Ems, Evict, Merger, Split};
use super::scores::{Fixed, Scorer, Tally, keep, share};
use super::{
    Access, Claim, Kind, Knob, Knobs, KvPolicy, Method, MethodError, ModelFacts, Moment, Moved, Observation,
    Observed, Resource, Stage, StageKind, Stages, Value,
};
use crate::generate::cache::{CacheShape, HeadRows};

/// The stage of such methods.
pub const STAGES: &[StageKind] = &[StageKind::KvPolicy];

/// The claims of such methods.
pub const CLAIMS: &[Claim] = &[
    Claim { resource: Resource::KvRows, access: Access::Own },
    Claim { resource: Resource::ScoreSums, access: Access::Read },
];

/// The knob that all of them have.
pub const BUDGET: Knob = Knob {
    name: "budget",
    kind: Kind::Int { min: 0, max: 1 << 20 },
    default: Value::Int(256),
    off: Some(Value::Int(0)),
    help: "rows that every key-value head keeps; 0 keeps all",
};

/// The last rows, which always stay.
pub const fn recent(default: usize) -> Knob {
    Knob {
        name: "recent",
        kind: Kind::Int { min: 1, max: 255 },
        default: Value::Int(default),
        off: None,
        help: "last rows that always stay, part of the budget",
    }
}

/// How far a head may grow over its budget.
pub const fn slack(default: usize) -> Knob {
    Knob {
        name: "slack",
        kind: Kind::Int { min: 0, max: 4096 },
        default: Value::Int(default),
        off: None,
        help: "rows over the budget at which decoding revises the cache again; 0 revises after the prompt only",
    }
}

/// How far scores are pooled.
pub const fn pool(default: usize) -> Knob {
    Knob {
        name: "pool",
        kind: Kind::Int { min: 0, max: 15 },
        default: Value::Int(default),
        off: None,
        help: "neighbours to either side from which a row takes the largest score",
    }
}

/// What becomes of dropped rows.
pub const MERGE: Knob = Knob {
    name: "merge",
    kind: Kind::Choice { options: &["evict", "ems", "cam"] },
    default: Value::Choice("evict"),
    off: None,
    help: "what becomes of dropped rows: nothing, or merged as EMS or CaM do with their defaults",
};

/// The merger that [`MERGE`] names.
pub fn merger(name: &str) -> Arc<dyn Merger> {
    match name {
        "ems" => Arc::new(Ems::default()),
        "cam" => Arc::new(Cam::default()),
        _ => Arc::new(Evict),
    }
}

/// How a method thins out the cache of every layer.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The method, for errors.
    pub method: &'static str,
    /// Rows a head.
    pub budget: usize,
    /// Rows over the budget at which a decode step revises again; 0 revises after the prompt only.
    pub slack: usize,
    /// Rows that always stay.
    pub fixed: Fixed,
    /// Last queries that are remembered one by one.
    pub window: usize,
    /// What the other rows are worth.
    pub scorer: Arc<dyn Scorer>,
    /// The share of the free rows that every head gets; the rest goes to the best of all heads. None deals
    /// evenly.
    pub floor: Option<f64>,
    /// What becomes of dropped rows.
    pub merger: Arc<dyn Merger>,
    /// The bytes of a full and of a thinned cache, as the plan tells them.
    pub bytes: [usize; 2],
}

impl Rule {
    /// A rule with the budget, the slack and the model's sizes; the rest is as plain as can be.
    ///
    /// # Errors
    /// If the budget leaves no row besides the fixed ones.
    pub fn new(
        knobs: &Knobs,
        model: &ModelFacts,
        fixed: Fixed,
        scorer: Arc<dyn Scorer>,
    ) -> Result<Self, MethodError> {
        let (method, budget, slack) = (knobs.spec().id, knobs.int("budget"), knobs.int("slack"));
        if budget < fixed.count().max(1) {
            let reason = format!("{} rows always stay; give at least so many", fixed.count());
            return Err(MethodError::Unfit { method, knob: "budget", value: budget.to_string(), reason });
        }
        let shape = CacheShape { layers: model.layers, kv_heads: model.kv_heads, head_dim: model.head_dim };
        let bytes = [model.context, budget + slack].map(|rows| rows * shape.bytes_per_token());
        let window = scorer.wants().last_rows;
        let merger = Arc::new(Evict);
        Ok(Self { method, budget, slack, fixed, window, scorer, floor: None, merger, bytes })
    }

    fn wants(&self) -> Observation {
        self.scorer.wants()
    }

    /// Whether `cache` holds so much that it is to be thinned out.
    fn is_due(&self, moment: Moment, cache: &[HeadRows]) -> bool {
        let rows: usize = cache.iter().map(HeadRows::len).sum();
        match moment {
            Moment::Chunk => false,
            Moment::Prompt => rows > self.budget * cache.len(),
            Moment::Step => rows >= (self.budget + self.slack) * cache.len() && self.slack > 0,
        }
    }

    /// Thins out one layer; gives for each head the rows that were merged.
    pub fn thin(&self, layer: usize, tally: &mut Tally, cache: &mut [HeadRows]) -> Vec<Vec<Moved>> {
        let scores = self.scorer.scores(tally, cache);
        let counts = match self.floor {
            Some(floor) => share(&scores, self.budget, self.fixed, floor),
            None => vec![self.budget; cache.len()],
        };
        let kept: Vec<Vec<usize>> =
            scores.iter().zip(counts).map(|(scores, count)| keep(scores, count, self.fixed)).collect();
        let task = |(index, head): (usize, _)| {
            let seed = (layer * 4096 + index) as u64;
            Task {
                head,
                split: Split { kept: &kept[index], scores: &scores[index], seed },
                moved: Vec::new(),
            }
        };
        let mut tasks: Vec<Task<'_>> = cache.iter_mut().enumerate().map(task).collect();
        parallel::pieces(&mut tasks, 1, |_, task| task[0].run(&*self.merger, self.slack));
        let moved: Vec<Vec<Moved>> = tasks.into_iter().map(|task| task.moved).collect();
        for (index, moved) in moved.iter().enumerate().filter(|_| self.merger.inherits()) {
            moved.iter().for_each(|moved| tally.absorb(index, moved.from, moved.into));
        }
        tally.gather(&kept);
        moved
    }
}

/// One head of a layer.
struct Task<'a> {
    head: &'a mut HeadRows,
    split: Split<'a>,
    moved: Vec<Moved>,
}

impl Task<'_> {
    fn run(&mut self, merger: &dyn Merger, room: usize) {
        self.moved = merger.merge(self.head, &self.split);
        self.head.gather_with_room(self.split.kept, room);
    }
}

impl Method for Rule {
    fn begin(&self) -> Stages {
        let state = Eviction { rule: Arc::new(self.clone()), layers: Vec::new(), moved: Vec::new() };
        Stages::from_iter([Stage::KvPolicy(Box::new(state))])
    }

    fn expect(&self) -> String {
        let [full, thin] = self.bytes.map(|bytes| crate::measure::bytes(bytes as u64));
        let growth = if self.slack == 0 { ", and what is generated" } else { "" };
        format!("at most {thin} of cache a sequence{growth}, where the whole context takes {full}")
    }
}

/// The state of one sequence.
#[derive(Debug)]
pub struct Eviction {
    rule: Arc<Rule>,
    layers: Vec<Tally>,
    /// What the last revision merged, for each head.
    moved: Vec<Vec<Moved>>,
}

impl KvPolicy for Eviction {
    fn observe(&self, _: usize, _: Moment) -> Observation {
        self.rule.wants()
    }

    fn lasts(&self) -> bool {
        self.rule.slack > 0
    }

    fn revise(&mut self, seen: &Observed<'_>, cache: &mut [HeadRows]) -> Result<(), MethodError> {
        self.check(seen)?;
        let count = self.layers.len().max(seen.layer + 1);
        self.layers.resize(count, Tally::default());
        let tally = &mut self.layers[seen.layer];
        let lens: Vec<usize> = cache.iter().map(HeadRows::len).collect();
        tally.see(seen, &lens, self.rule.window);
        self.moved = match self.rule.is_due(seen.moment, cache) {
            true => self.rule.thin(seen.layer, tally, cache),
            false => Vec::new(),
        };
        Ok(())
    }

    fn moved(&self) -> &[Vec<Moved>] {
        &self.moved
    }
}

impl Eviction {
    /// Whether the attention showed what was asked of it.
    fn check(&self, seen: &Observed<'_>) -> Result<(), MethodError> {
        let wants = self.rule.wants();
        let sums = if wants.column_sums { seen.heads * seen.rows } else { seen.column_sums.len() };
        let rows_missing = wants.last_rows > 0 && seen.queries == 0 && seen.moment != Moment::Chunk;
        if seen.column_sums.len() != sums || rows_missing {
            let reason = format!("the attention of layer {} did not show its weights", seen.layer);
            return Err(MethodError::Failed { method: self.rule.method, reason });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::methods::{Plan, Selection};

    /// What query `query` of head `head` pays to key `key`: much to key 9, something to every seventh for a
    /// while, and the same little to all. The second cache's heads pay a hundredth.
    fn weight(head: usize, query: usize, key: usize) -> f32 {
        let paid = match key {
            _ if key > query => 0.0,
            9 => 5.0,
            _ if key % 7 == 3 && query - key < 5 => 2.0,
            _ => 1.0 / (query + 1) as f32,
        };
        if head < 2 { paid } else { paid * 0.01 }
    }

    fn row(position: usize) -> ([f32; 16], [f32; 16]) {
        let length = (position * 7 % 11 + 1) as f32;
        (std::array::from_fn(|at| if at == position % 3 { length } else { 0.0 }), [position as f32; 16])
    }

    fn push(cache: &mut [HeadRows], position: usize) {
        let (key, value) = row(position);
        cache.iter_mut().for_each(|head| head.push(&key, &value, position as u32));
    }

    /// Shows a policy the weights of `queries` on the rows that are there.
    fn show(
        policy: &mut dyn KvPolicy,
        moment: Moment,
        queries: std::ops::Range<usize>,
        cache: &mut [HeadRows],
    ) {
        let rows = cache.iter().map(HeadRows::len).max().unwrap();
        let wants = policy.observe(0, moment);
        let line = |head: usize, query: usize| -> Vec<f32> {
            let positions = cache[head / 2].positions();
            let at = |row: usize| positions.get(row).map_or(0.0, |&key| weight(head, query, key as usize));
            (0..rows).map(at).collect()
        };
        let sum = |head: usize| {
            queries.clone().map(|query| line(head, query)).fold(vec![0.0; rows], |sum, line| {
                sum.iter().zip(line).map(|(sum, paid)| sum + paid).collect()
            })
        };
        let column_sums: Vec<f32> =
            if wants.column_sums { (0..4).flat_map(sum).collect() } else { Vec::new() };
        let last = queries.end - wants.last_rows.min(queries.len())..queries.end;
        let lines: Vec<f32> = (0..4)
            .flat_map(|head| last.clone().map(move |query| (head, query)))
            .flat_map(|(head, query)| line(head, query))
            .collect();
        let seen = Observed {
            layer: 0,
            moment,
            heads: 4,
            prompt: 0,
            rows,
            column_sums: &column_sums,
            queries: last.len(),
            last_rows: &lines,
        };
        policy.revise(&seen, cache).unwrap();
    }

    /// The caches of two heads after a prompt and some steps.
    pub fn driven(method: &str, prompt: usize, steps: usize) -> Vec<HeadRows> {
        let plan = Plan::new(&Selection::parse(&[method]).unwrap(), &ModelFacts::example()).unwrap();
        let mut policy = plan.begin().kv_policies.remove(0);
        let mut cache = vec![HeadRows::with_capacity(16, 0); 2];
        (0..prompt).for_each(|position| push(&mut cache, position));
        show(&mut *policy, Moment::Prompt, 0..prompt, &mut cache);
        for position in prompt..prompt + steps {
            push(&mut cache, position);
            if policy.lasts() {
                show(&mut *policy, Moment::Step, position..position + 1, &mut cache);
            }
        }
        cache
    }

    /// Which tokens the heads have left.
    pub fn positions(method: &str, prompt: usize, steps: usize) -> Vec<Vec<u32>> {
        driven(method, prompt, steps).iter().map(|head| head.positions().to_vec()).collect()
    }

    /// Why a plan is refused.
    pub fn refusal(method: &str) -> String {
        let selection = Selection::parse(&[method]).unwrap();
        Plan::new(&selection, &ModelFacts::example()).unwrap_err().to_string()
    }

    #[test]
    fn attention_that_shows_nothing_is_named() {
        let plan = Plan::new(&Selection::parse(&["ems"]).unwrap(), &ModelFacts::example()).unwrap();
        let mut policy = plan.begin().kv_policies.remove(0);
        let mut cache = vec![HeadRows::with_capacity(16, 0); 2];
        push(&mut cache, 0);
        let seen = Observed {
            layer: 3,
            moment: Moment::Prompt,
            heads: 4,
            prompt: 1,
            rows: 1,
            column_sums: &[],
            queries: 0,
            last_rows: &[],
        };
        let failure = policy.revise(&seen, &mut cache).unwrap_err().to_string();
        assert!(failure.contains("ems") && failure.contains('3'), "{failure}");
    }

    #[test]
    fn memory_is_kept_to_the_row() {
        for (steps, rows) in [(0, 12), (1, 12), (3, 12), (4, 12), (30, 12)] {
            let plan = |slack| format!("ems:budget=8,recent=2,slack={slack}");
            for head in driven(&plan(4), 20, steps) {
                assert!(
                    head.len() < rows && head.bytes() == rows * (2 * 16 * 4 + 4),
                    "{steps}: {}",
                    head.len()
                );
            }
        }
    }
}
