//! A page that shows what methods did to one sequence, for people who never saw such a thing. It needs nothing
//! but itself.

mod data;

use std::fmt::Write;

use super::{Cut, Fate, Seen, Step, Trace};
use crate::load::Tokenizer;
use crate::measure::sheet;
use crate::measure::write::escape;
use crate::methods::Plan;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The most tokens that are shown as text: half from the start and half from the end.
const SHOWN: usize = 6000;

/// The page of a run of `model` with the methods of `plan`.
pub fn page(trace: &Trace, model: &str, plan: &Plan, tokenizer: &Tokenizer) -> String {
    let view = View { trace, tokenizer, cache: trace.cached() };
    let title = "What the methods did";
    let parts = [view.head(model, plan), view.cuts(), view.cache(), view.reads(), view.answer()].concat();
    // A less-than sign would end the script.
    let data = view.data().to_string().replace('<', "\\u003c");
    let body = format!(
        "{}{parts}<div id=tip hidden></div><noscript><p class=warning>The maps are drawn by a script in this page.\
         </noscript><script type=\"application/json\" id=data>{data}</script><script>{SCRIPT}</script>",
        sheet::heading(title)
    );
    sheet::page(&format!("{title}: {model}"), STYLE, &body)
}

impl Trace {
    /// Positions that have a row: the newest token has none yet.
    fn cached(&self) -> usize {
        self.tokens.len().saturating_sub(1).max(self.prompt)
    }

    fn has_lost_rows(&self) -> bool {
        self.fates.iter().flatten().flatten().any(|fate| *fate != Fate::Kept)
    }

    fn has_drafts(&self) -> bool {
        self.steps.iter().any(|step| !step.drafted.is_empty())
    }

    fn has_depths(&self) -> bool {
        self.steps.iter().any(|step| step.layers < self.layers)
    }

    /// The share of all rows that are still there.
    fn kept(&self) -> f64 {
        let heads: Vec<_> = self.fates.iter().flatten().collect();
        let gone = heads.iter().flat_map(|fates| fates.iter()).filter(|fate| **fate != Fate::Kept).count();
        // Layers that no method thinned out have no entry and keep everything.
        let each = self.fates.iter().map(Vec::len).max().unwrap_or(1).max(1);
        1.0 - gone as f64 / (self.layers * each * self.cached()).max(1) as f64
    }
}

struct View<'a> {
    trace: &'a Trace,
    tokenizer: &'a Tokenizer,
    /// Positions that have a row.
    cache: usize,
}

impl View<'_> {
    fn token(&self, id: u32) -> String {
        let bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn head(&self, model: &str, plan: &Plan) -> String {
        let trace = self.trace;
        let passes = trace.steps.len().saturating_sub(1);
        let answer = trace.tokens.len() - trace.prompt;
        let mut figures =
            vec![("tokens read", trace.prompt.to_string()), ("tokens written", answer.to_string())];
        if let Some(first) = trace.cuts.first() {
            figures[0].1 = format!("{} of {}", trace.prompt, first.tokens[0]);
        }
        if trace.has_lost_rows() {
            figures.push(("cache kept", format!("{:.1} %", 100.0 * trace.kept())));
        }
        if trace.reads.is_sparse() {
            figures.push(("keys read", format!("{:.1} %", 100.0 * self.read())));
        }
        if trace.has_drafts() {
            let rate = answer.saturating_sub(1) as f64 / passes.max(1) as f64;
            figures.push(("tokens a step", format!("{rate:.2}")));
        }
        if trace.has_depths() {
            let layers: usize = trace.steps[1..].iter().map(|step| step.layers).sum();
            let mean = layers as f64 / passes.max(1) as f64;
            figures.push(("layers a step", format!("{mean:.2} of {}", trace.layers)));
        }
        let model = escape(model);
        format!(
            "<p class=setting>{model}</p>{}{}{}",
            sheet::figures(figures),
            sheet::methods(plan),
            self.nothing()
        )
    }

    /// What to say where nothing was left out.
    fn nothing(&self) -> String {
        let trace = self.trace;
        let something =
            trace.has_lost_rows() || trace.reads.is_sparse() || trace.has_drafts() || trace.has_depths();
        if something || !trace.cuts.is_empty() {
            return String::new();
        }
        format!(
            "<p>Nothing was dropped and nothing was guessed. The model read all {} tokens of the prompt, kept every \
             one of them in its cache, looked at all of them in every layer and step, and wrote one token a step.</p>",
            trace.prompt
        )
    }

    fn read(&self) -> f64 {
        let layers = self.trace.layers;
        (0..layers).map(|layer| self.trace.reads.share(layer)).sum::<f64>() / layers.max(1) as f64
    }

    fn cuts(&self) -> String {
        let mut text = String::new();
        for cut in &self.trace.cuts {
            let [before, after] = cut.tokens;
            let _ = write!(
                text,
                "<section><h2>What was cut from the prompt</h2><p>Before the model read anything, {} of {before} tokens \
                 were taken out. The model read the other {after} and never saw what is struck out.</p>{}",
                before - after.min(before),
                struck(cut)
            );
            if !cut.after.is_empty() {
                let left = escape(&cut.after);
                let _ = write!(
                    text,
                    "<details><summary>What the model read</summary><div class=text>{left}</div></details>"
                );
            }
            text += "</section>";
        }
        text
    }

    fn cache(&self) -> String {
        if !self.trace.has_lost_rows() {
            return String::new();
        }
        let width = self.width();
        let binned = match width {
            1 => String::new(),
            width => format!(" The run is long: {width} neighbouring tokens share a column."),
        };
        format!(
            "<section><h2>What the cache kept</h2><p>For every token a model keeps a key and a value in each head of \
             each layer, its memory of the text. A row of the map is a layer, a column a token; open a layer to see \
             its heads, and point at anything to see what became of it.{binned} The blue line is where the prompt \
             ends.</p><p class=legend><b style=\"--c:rgb(var(--keep))\">kept</b><b style=\"--c:rgb(var(--merge))\">merged \
             into another</b><b style=\"--c:rgb(var(--drop)/.2)\">evicted</b><button id=heads>all heads</button></p>\
             <div class=maps><canvas id=map></canvas></div>\
             <p class=legend><span>The same on the text, for <span id=which></span>.</span><button id=all>all layers</button></p>\
             <div class=text id=kept>{}</div></section>",
            self.tokens(0..self.cache, |position| format!(" data-p={position}"))
        )
    }

    fn reads(&self) -> String {
        let reads = &self.trace.reads;
        if !reads.is_sparse() {
            return String::new();
        }
        let mut notes = String::new();
        if reads.width() > 1 {
            let _ = write!(notes, " {} neighbouring keys share a column.", reads.width());
        }
        if reads.stride() > 1 {
            let _ = write!(notes, " Every {} steps one is shown.", reads.stride());
        }
        let mut text = format!(
            "<section><h2>Which keys were read</h2><p>To write a token, every layer looks back at the keys of the tokens \
             before it. Here most layers looked at a choice of them. A line of a map is a step, a column a key; the \
             darker, the more heads read it. The red line is where the prompt ends.{notes}</p>"
        );
        let sparse: Vec<usize> = (0..self.trace.layers).filter(|&layer| reads.share(layer) < 1.0).collect();
        let dense = (0..self.trace.layers).filter(|layer| !sparse.contains(layer));
        let dense: Vec<String> = dense.map(|layer| layer.to_string()).collect();
        let chose = |layer: &usize| reads.glances().iter().any(|glance| glance.layers[*layer] == Seen::Chose);
        let chose: Vec<String> =
            (0..self.trace.layers).filter(chose).map(|layer| layer.to_string()).collect();
        let _ = write!(
            text,
            "<p class=note>Layers that read every key: {}. Layers that chose for those behind them: {}.</p>",
            list(&dense),
            list(&chose)
        );
        for layer in sparse {
            let share = 100.0 * reads.share(layer);
            let _ = write!(
                text,
                "<div class=maps><p class=note>layer {layer} read {share:.1} % of the keys</p>\
                 <canvas data-layer={layer}></canvas></div>"
            );
        }
        text + "</section>"
    }

    fn answer(&self) -> String {
        let trace = self.trace;
        let mut text = String::from("<section><h2>What was written</h2>");
        if trace.has_drafts() {
            let drafted: usize = trace.steps.iter().map(|step| step.drafted.len()).sum();
            let accepted: usize = trace.steps.iter().map(|step| step.accepted).sum();
            let _ = write!(
                text,
                "<p>A draft guesses several tokens, which branch like a tree, and the model checks all of them in one \
                 step. Those that it would have written itself are accepted; behind them comes one token of its own. \
                 {drafted} were drafted and {accepted} accepted. Point at the text to see its step.</p>\
                 <p class=legend><b style=\"--c:rgb(var(--keep)/.6)\">drafted and accepted</b>\
                 <b style=\"--c:rgb(var(--force)/.6)\">the model's own</b><b style=\"--c:rgb(var(--force)/.2)\">drafted \
                 and refused, at the deepest</b></p><div class=maps><p class=note>tokens of each step</p>\
                 <canvas id=accepted></canvas></div>"
            );
        }
        if trace.has_depths() {
            text += "<p>Where the model was sure before its last layer, the step ended there.</p><div class=maps>\
                     <p class=note>layers of each step</p><canvas id=depths></canvas></div>";
        }
        let step = trace.places();
        let class = |position: usize| {
            let (step, drafted) = step[position - trace.prompt];
            let class = match (drafted, trace.has_drafts()) {
                (true, _) => " class=d",
                (false, true) => " class=m",
                (false, false) => "",
            };
            format!("{class} data-s={step}")
        };
        let answer = self.tokens(trace.prompt..trace.tokens.len(), class);
        let _ = write!(text, "<div class=text id=answer>{answer}</div></section>");
        text
    }

    /// The tokens at some positions as text, each with attributes; the middle of very many is left out.
    fn tokens(&self, positions: std::ops::Range<usize>, attributes: impl Fn(usize) -> String) -> String {
        let hidden = self.hidden();
        let mut text = String::new();
        for position in positions.clone().filter(|position| !hidden.contains(position)) {
            if position == hidden.end && hidden.start >= positions.start && !hidden.is_empty() {
                let _ = write!(text, "<span class=note>\n… {} tokens are not shown …\n</span>", hidden.len());
            }
            let token = escape(&self.token(self.trace.tokens[position]));
            let _ = write!(text, "<i{}>{token}</i>", attributes(position));
        }
        text
    }

    /// The positions that are too many to be shown as text.
    fn hidden(&self) -> std::ops::Range<usize> {
        let count = self.trace.tokens.len();
        if count <= SHOWN { 0..0 } else { SHOWN / 2..count - SHOWN / 2 }
    }
}

impl Trace {
    /// For each token of the answer its step, and whether it was drafted.
    fn places(&self) -> Vec<(usize, bool)> {
        let step = |(index, step): (usize, &Step)| {
            let accepted = step.accepted;
            (0..step.gained).map(move |at| (index, at < accepted))
        };
        self.steps.iter().enumerate().flat_map(step).collect()
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

/// The text before a cut with what went struck out.
fn struck(cut: &Cut) -> String {
    let Some(stayed) = cut.stayed.as_ref().filter(|_| !cut.before.is_empty()) else {
        return String::from("<p class=note>The method does not say which words they were.</p>");
    };
    let mut text = String::from("<div class=text>");
    let mut end = 0;
    for bytes in stayed {
        // A token may end inside a character.
        let [start, stop] = [bytes.start, bytes.end].map(|at| cut.before.ceil_char_boundary(at).max(end));
        text += &gone(&cut.before[end..start]);
        text += &escape(&cut.before[start..stop]);
        end = stop;
    }
    text + &gone(&cut.before[end..]) + "</div>"
}

/// What went, struck out; blanks alone are only blanks.
fn gone(text: &str) -> String {
    if text.trim().is_empty() { escape(text) } else { format!("<s>{}</s>", escape(text)) }
}

#[cfg(test)]
mod tests;
