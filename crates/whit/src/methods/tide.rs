//! What TidalDecode's layers do in a decode step: which of them read everything, which choose rows for those
//! behind them, and which rows that are.

use whit_kernels::attention::select::top_rows;

use super::{Knobs, Looking, MethodError, ModelFacts};

/// Who shares a choice of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Each query head has its own.
    PerQuery,
    /// The heads of a group read the rows of all of them.
    Union,
    /// The heads of a group choose once.
    PerKeyValue,
}

/// The knobs, checked against a model.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys that a head reads in a sparse layer.
    pub budget: usize,
    /// The first layer that chooses.
    pub start: usize,
    /// The layer that chooses again.
    pub correction: Option<usize>,
    /// Who shares a choice.
    pub sharing: Sharing,
    /// Whether the newest row is always read.
    pub newest: bool,
    /// Query heads that read everything.
    pub full: Vec<usize>,
    /// Generated tokens after which their rows are computed again; 0 never.
    pub period: usize,
    /// Query heads.
    pub heads: usize,
    /// How many of them share a key-value head.
    pub group: usize,
}

impl Settings {
    /// Checks the knobs.
    ///
    /// # Errors
    /// If a layer or a head is none of the model's.
    pub fn new(knobs: &Knobs, model: &ModelFacts) -> Result<Self, MethodError> {
        let (start, layers) = (knobs.int("start"), model.layers);
        if start >= layers {
            let reason = format!("the model has {layers} layers; give 0 to {}", layers.saturating_sub(1));
            return Err(knobs.unfit("start", reason));
        }
        Ok(Self {
            budget: knobs.int("budget"),
            start,
            correction: correction(knobs, layers)?.filter(|_| knobs.flag("reselect")),
            sharing: match knobs.choice("sharing") {
                "union" => Sharing::Union,
                "per-kv" => Sharing::PerKeyValue,
                _ => Sharing::PerQuery,
            },
            newest: knobs.flag("newest"),
            full: full(knobs, model.heads)?,
            period: knobs.int("period"),
            heads: model.heads,
            group: model.heads / model.kv_heads.max(1),
        })
    }

    /// How many lists of rows a layer has.
    pub fn lists(&self) -> usize {
        if self.sharing == Sharing::PerQuery { self.heads } else { self.heads / self.group }
    }

    /// The layers that select.
    pub fn selecting(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.start).chain(self.correction)
    }

    /// The rows that each list holds, given the scores of the first new query. `[heads, rows]`
    pub fn choose(&self, looking: &Looking, scores: &[f32]) -> Vec<Option<Vec<u32>>> {
        let older = looking.rows - looking.new;
        let (width, count) = if self.newest { (older, self.budget - 1) } else { (looking.rows, self.budget) };
        let scores: Vec<&[f32]> = scores.chunks_exact(looking.rows).map(|head| &head[..width]).collect();
        let groups = scores.chunks(self.group);
        let mut lists = match self.sharing {
            Sharing::PerQuery => top_rows(&scores, count),
            Sharing::Union => top_rows(&scores, count).chunks(self.group).map(union).collect(),
            Sharing::PerKeyValue => {
                let best: Vec<Vec<f32>> = groups.map(largest).collect();
                top_rows(&best.iter().map(Vec::as_slice).collect::<Vec<_>>(), count)
            }
        };
        if self.newest || looking.new > 1 {
            for list in &mut lists {
                list.truncate(list.partition_point(|&row| (row as usize) < older));
                list.extend(older as u32..looking.rows as u32);
            }
        }
        let mut lists: Vec<Option<Vec<u32>>> = lists.into_iter().map(Some).collect();
        // A list that several heads share is as long as one of them wants.
        let shared = self.heads / lists.len();
        self.full.iter().for_each(|head| lists[head / shared] = None);
        lists
    }
}

/// The query heads that read everything.
fn full(knobs: &Knobs, heads: usize) -> Result<Vec<usize>, MethodError> {
    let words = knobs.text("full").split(|letter: char| letter == '.' || letter.is_whitespace());
    let head = |word: &str| word.parse::<usize>().ok().filter(|&head| head < heads);
    let wrong = || knobs.unfit("full", format!("the model has {heads} query heads; give numbers below that"));
    words.filter(|word| !word.is_empty()).map(|word| head(word).ok_or_else(wrong)).collect()
}

/// The layer that selects again; none where there is no layer left for it.
fn correction(knobs: &Knobs, layers: usize) -> Result<Option<usize>, MethodError> {
    let (given, first, last) = (knobs.int("correction"), knobs.int("start") + 1, layers - 1);
    match given {
        0 => Ok((first <= last).then(|| ((2 * layers + 2) / 5).clamp(first, last))),
        given if (first..=last).contains(&given) => Ok(Some(given)),
        _ if first > last => Err(knobs.unfit("correction", "no layer follows `start`; give 0".to_owned())),
        _ => {
            Err(knobs.unfit("correction", format!("give {first} to {last}, behind `start`, or 0 to choose")))
        }
    }
}

/// All rows of some lists, each once, in order.
fn union(lists: &[Vec<u32>]) -> Vec<u32> {
    let mut all = lists.concat();
    all.sort_unstable();
    all.dedup();
    all
}

/// The largest score that any head gives each key.
fn largest(heads: &[&[f32]]) -> Vec<f32> {
    let mut best = heads[0].to_vec();
    for head in &heads[1..] {
        best.iter_mut().zip(*head).for_each(|(best, score)| *best = best.max(*score));
    }
    best
}
