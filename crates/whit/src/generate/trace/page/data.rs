//! What the page's script draws, of bounded size.

use serde_json::{Value, json};

use super::super::{Fate, Seen, Step};
use super::View;

/// The most columns of the map of the cache.
pub(super) const COLUMNS: usize = 1024;

/// The most rows whose step is told one by one.
const DETAILS: usize = 200_000;

/// The most drafted tokens that are named of a step.
const NAMED: usize = 24;

impl View<'_> {
    /// Positions that share a column of the map of the cache.
    pub(super) fn width(&self) -> usize {
        self.cache.div_ceil(COLUMNS).max(1)
    }

    /// All of it.
    pub(super) fn data(&self) -> Value {
        let trace = self.trace;
        let hidden = self.hidden();
        let texts = trace.tokens.iter().enumerate().filter(|(position, _)| !hidden.contains(position));
        let texts: Vec<String> = texts.map(|(_, &id)| self.token(id)).collect();
        json!({
            "texts": texts,
            "head": if hidden.is_empty() { trace.tokens.len() } else { hidden.start },
            "skipped": hidden.len(),
            "prompt": trace.prompt,
            "layers": trace.layers,
            "drafts": trace.has_drafts(),
            "depths": trace.has_depths(),
            "rows": trace.has_lost_rows().then(|| self.rows()),
            "reads": trace.reads.is_sparse().then(|| self.glances()),
            "steps": trace.steps.iter().map(|step| self.step(step)).collect::<Vec<_>>(),
        })
    }

    fn rows(&self) -> Value {
        let heads = self.trace.fates.iter().map(Vec::len).max().unwrap_or(0);
        let detailed = self.width() == 1 && self.trace.layers * heads * self.cache <= DETAILS;
        let layer =
            |layer| (0..heads).map(|head| self.row(self.trace.fates(layer, head), detailed)).collect();
        let layers: Vec<Vec<Value>> = (0..self.trace.layers).map(layer).collect();
        json!({ "width": self.width(), "layers": layers })
    }

    /// A head: for each column the share of rows kept and merged, in ninths, and when and where to the others
    /// went.
    fn row(&self, fates: &[Fate], detailed: bool) -> Value {
        let at = |position: usize| fates.get(position).copied().unwrap_or_default();
        let columns: Vec<Vec<Fate>> = (0..self.cache)
            .step_by(self.width())
            .map(|start| (start..(start + self.width()).min(self.cache)).map(at).collect())
            .collect();
        let share = |fits: fn(&Fate) -> bool| -> String {
            let column =
                |column: &Vec<Fate>| ninths(column.iter().filter(|fate| fits(fate)).count(), column.len());
            columns.iter().map(column).collect()
        };
        let mut row = json!({
            "k": share(|fate| *fate == Fate::Kept),
            "m": share(|fate| matches!(fate, Fate::Merged { .. })),
        });
        if detailed {
            let gone = (0..self.cache).filter_map(|position| match at(position) {
                Fate::Kept => None,
                Fate::Evicted { step } => Some(json!([position, step, 0])),
                Fate::Merged { step, into } => Some(json!([position, step, into + 1])),
            });
            row["g"] = gone.collect();
        }
        row
    }

    fn glances(&self) -> Value {
        let reads = &self.trace.reads;
        let seen = |seen: &Seen| match seen {
            Seen::All => json!(0),
            Seen::Chose => json!(1),
            Seen::Some(shares) => {
                json!(shares.iter().map(|&share| ninths(share.into(), 255)).collect::<String>())
            }
        };
        let sparse = |layer: usize| -> Vec<Value> {
            let glances = reads.glances().iter().filter(|_| reads.share(layer) < 1.0);
            glances.map(|glance| seen(&glance.layers[layer])).collect()
        };
        json!({
            "width": reads.width(),
            "steps": reads.glances().iter().map(|glance| glance.step).collect::<Vec<_>>(),
            "positions": reads.glances().iter().map(|glance| glance.positions).collect::<Vec<_>>(),
            "layers": (0..self.trace.layers).map(sparse).collect::<Vec<_>>(),
        })
    }

    fn step(&self, step: &Step) -> Value {
        let named: Vec<String> = step.drafted.iter().take(NAMED).map(|&id| self.token(id)).collect();
        let more = step.drafted.len() - named.len();
        json!({ "n": step.gained, "a": step.accepted, "d": named, "more": more, "deep": step.deep, "l": step.layers })
    }
}

/// A share as a digit from 0 to 9; what is more than nothing is not 0.
fn ninths(part: usize, whole: usize) -> char {
    let ninths = (9 * part).div_ceil(whole.max(1)).min(9);
    char::from_digit(ninths as u32, 10).unwrap_or('9')
}
