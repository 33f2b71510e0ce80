//! SpecKV (Galim et al., 2025, arXiv 2506.08373): which rows of the key-value cache matter is for later
//! queries to say, and a small draft model guesses the text that they will come from. The draft writes
//! ahead; the model reads the prompt with that text behind it, and in every layer the queries of the
//! text and of the end of the prompt vote on the rows that each head keeps. The drafted text is
//! forgotten, the other rows are dropped, and decoding goes on from the last token of the prompt. Long
//! prompts are read with sparse attention, whose columns are the rows that won the vote.

use std::sync::{Arc, Mutex, PoisonError};

use whit_kernels::attention::{self, Call, VerticalSlash, vertical_slash};

use crate::generate::cache::HeadRows;
use crate::methods::foresight::{Foresight, NEED, ON_DRAFT_ERROR, PAPER, Reader, Recent, uncut};
use crate::methods::gaze::{Gaze, votes};
use crate::methods::importance::{Choice, best, max_pool};
use crate::methods::{
    Access, Ahead, Claim, Edited, Fidelity, Headline, Kind, Knob, Knobs, Look, Lookahead, Method,
    MethodError, ModelFacts, ModelKind, Prompt, PromptEdit, Resource, Room, Spec, Stage, StageKind, Stages,
    Value,
};
use crate::nn::attention::Site;

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "spec-kv",
    title: "SpecKV (draft-based approximate inference, cache)",
    paper: PAPER,
    room: Room::Cache,
    fidelity: Fidelity::Lossy,
    summary: "A small draft model of the same family guesses how the text will go on. The model reads the \
              prompt with that guess behind it, and the guess's queries, which resemble those to come, vote in \
              every layer and head on which rows of the cache stay. The guess never reaches the output. A \
              cache of a fixed size is left, and long prompts are read with sparse attention. Nothing is \
              trained.",
    long: LONG,
    stages: &[StageKind::PromptEdit, StageKind::Lookahead],
    claims: &[
        Claim { resource: Resource::Prompt, access: Access::Transform },
        Claim { resource: Resource::AttentionPattern, access: Access::Transform },
        Claim { resource: Resource::KvRows, access: Access::Own },
    ],
    knobs: &[
        Knob {
            name: "capacity",
            kind: Kind::Int { min: 0, max: 8192 },
            default: Value::Int(256),
            off: Some(Value::Int(0)),
            help: "rows of the prompt that each head keeps; shorter prompts are left as they are",
        },
        Knob {
            name: "window",
            kind: Kind::Int { min: 1, max: 4096 },
            default: Value::Int(32),
            off: None,
            help: "rows at the end of the prompt that always stay, and whose queries vote too",
        },
        Knob {
            name: "kernel",
            kind: Kind::Int { min: 1, max: 1024 },
            default: Value::Int(7),
            off: None,
            help: "votes are smoothed by the greatest of so many; odd",
        },
        Knob {
            name: "lookahead",
            kind: Kind::Int { min: 0, max: 65_536 },
            default: Value::Int(65_536),
            off: None,
            help: "tokens that the draft writes, at most as many as were asked for; at 0 the window votes alone",
        },
        Knob {
            name: "band",
            kind: Kind::Int { min: 64, max: 65_536 },
            default: Value::Int(2048),
            off: None,
            help: "latest keys that a query sees where reading is sparse; a multiple of 64",
        },
        Knob {
            name: "columns",
            kind: Kind::Int { min: 0, max: 65_536 },
            default: Value::Int(2048),
            off: None,
            help: "further keys that it sees there; prompts of up to band + columns are read densely",
        },
        Knob {
            name: "evict",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "drop the rows that lose the vote; without it long prompts are read sparsely, and all rows stay",
        },
        Knob {
            name: "prompt",
            kind: Kind::Int { min: 0, max: 1_000_000 },
            default: Value::Int(0),
            off: None,
            help: "first cut the prompt to so many tokens as spec-pc does, with the same run of the draft; 0 does not",
        },
        ON_DRAFT_ERROR,
    ],
    needs: &[NEED],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "Qwen2.5-32B, LongBench, 256 rows kept",
            metric: "score (47.78 with the full cache)",
            baseline: "SnapKV 42.98, LAQ++ 45.79",
            result: "SpecKV 46.06, SpecKV-PC 46.48",
        },
        Headline {
            setting: "64K tokens of context",
            metric: "latency, peak memory",
            baseline: "LAQ++",
            result: "75 % lower latency, about 25 GB less",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. Prompts of up to `capacity` tokens are left as they are, and the draft does not run.
2. The draft model reads the prompt and writes on, greedily, for as many tokens as were asked for (at most
   `lookahead`), or until the text ends.
3. The model reads the prompt and the draft's text in one pass. In each layer the attention weights of the drafted
   tokens and of the last `window` + 1 tokens of the prompt on all rows before are taken; each row's score is the most
   that a query of any of the head's group gave it, and scores are smoothed by the greatest of `kernel` around each.
4. A head keeps its `capacity` - `window` best rows and the `window` rows before the prompt's last token. Heads and
   layers keep different rows. All else is dropped at once, so that no more than one layer is ever held whole.
5. The last token of the prompt is read again on what is left, at its own position, and decoding goes on from there.
   Positions stay those of the whole text. The drafted text is forgotten and never reaches the output.

Where prompt and draft are longer than `band` + `columns`, step 3 reads sparsely: a query sees the latest `band` keys and,
for each head, the `columns` best rows by the same scores. Work then grows with the length and not with its square.

With `evict=false` nothing is dropped: only prompts longer than `band` + `columns` are touched, by being read sparsely. All
their rows stay, and the answer is written with all of them. `capacity` then means nothing, unless it is 0.

With `prompt` above 0 this is the paper's SpecKV-PC: the draft's attention (its later half of layers, 64 last tokens,
smoothing and neighbours of 32, as in `spec-pc`) first cuts the prompt to so many tokens, and the text that the same run
of the draft writes then votes on the rows of what is left.

## When it pays

When a long prompt is followed by many tokens: every step then reads `capacity` rows instead of all. The draft has to be
good enough to write something like the answer; a random one does no harm beyond a worse vote, since the end of the
prompt votes too. Short prompts gain nothing. The dropped rows are gone: a later turn that asks for something else finds
less. Reading costs a run of the draft and the drafted tokens on top.

## What is ours

Kept rows stay in the order of the text. Drafts are greedy, whatever the sampling of the request. Layers with a sliding
window keep all their rows, since the kernel tells such rows apart by where they lie; sparse reading does not touch them
either. In SpecKV-PC the first token always stays. `lookahead=0` is the vote of the window alone, which is SnapKV's. The
sparse pattern is exact (a band of keys, no blocks; columns inside the band count once). `on-draft-error=dense` keeps
the whole cache where the draft fails, for instance because its context is too short. Drafts for the latest prompts are
remembered.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(SpecKv { shared: Arc::new(Shared::new(knobs, model)?) }))
}

fn check(knobs: &Knobs, settings: &Settings) -> Result<(), MethodError> {
    let Settings { capacity, window, kernel, band, columns, .. } = *settings;
    if kernel.is_multiple_of(2) {
        return Err(knobs.unfit("kernel", "an odd number has a middle"));
    }
    if !band.is_multiple_of(64) {
        return Err(knobs.unfit("band", "it must be a multiple of 64"));
    }
    if !settings.evict {
        return Ok(());
    }
    if window >= capacity {
        return Err(knobs.unfit("window", format!("it must be less than the capacity of {capacity}")));
    }
    if capacity > band + columns {
        let most = band + columns;
        return Err(knobs.unfit("capacity", format!("it may be {most}, which is band + columns, at most")));
    }
    Ok(())
}

/// The paper's choice of prompt tokens in SpecKV-PC, if wanted.
fn cut(knobs: &Knobs) -> Result<Option<Choice>, MethodError> {
    let choice = Choice { capacity: knobs.int("prompt"), window: 64, kernel: 32, neighbours: 32 };
    match choice.capacity {
        0 => Ok(None),
        1..64 => Err(knobs.unfit("prompt", "it must be 0, or 64 at least, the last tokens that stay")),
        _ => Ok(Some(choice)),
    }
}

/// The knobs.
#[derive(Clone, Copy, Debug)]
struct Settings {
    capacity: usize,
    window: usize,
    kernel: usize,
    lookahead: usize,
    band: usize,
    columns: usize,
    evict: bool,
}

impl Settings {
    /// Whether a prompt is read with a draft's text of up to `room` tokens behind it.
    fn touches(&self, prompt: usize, room: usize) -> bool {
        let longest = prompt + self.lookahead.min(room);
        if self.evict { prompt > self.capacity } else { self.is_sparse(longest) && prompt > self.window + 1 }
    }

    /// Whether so many tokens are read sparsely.
    fn is_sparse(&self, tokens: usize) -> bool {
        tokens > self.band + self.columns
    }

    /// How many rows before the voters' stay.
    fn elected(&self) -> usize {
        if self.evict { self.capacity - self.window } else { 0 }
    }
}

/// The method, built for one model.
#[derive(Debug)]
struct SpecKv {
    shared: Arc<Shared>,
}

/// What all sequences share.
#[derive(Debug)]
struct Shared {
    foresight: Foresight,
    settings: Settings,
    /// How the prompt is cut first, in SpecKV-PC.
    cut: Option<Choice>,
    /// Drafts for the latest prompts.
    recent: Recent<Vec<u32>>,
}

impl Shared {
    fn new(knobs: &Knobs, model: &ModelFacts) -> Result<Self, MethodError> {
        let settings = Settings {
            capacity: knobs.int("capacity"),
            window: knobs.int("window"),
            kernel: knobs.int("kernel"),
            lookahead: knobs.int("lookahead"),
            band: knobs.int("band"),
            columns: knobs.int("columns"),
            evict: knobs.flag("evict"),
        };
        check(knobs, &settings)?;
        let (cut, foresight) = (cut(knobs)?, Foresight::new(knobs, model)?);
        Ok(Self { foresight, settings, cut, recent: Recent::default() })
    }
}

impl Method for SpecKv {
    fn begin(&self) -> Stages {
        let shared = &self.shared;
        let run = Arc::default();
        let cutter = Cutter { shared: Arc::clone(shared), run: Arc::clone(&run) };
        let voter = Voter::new(shared, run);
        Stages::from_iter([Stage::PromptEdit(Box::new(cutter)), Stage::Lookahead(Box::new(voter))])
    }

    fn expect(&self) -> String {
        let Settings { capacity, band, columns, evict, .. } = self.shared.settings;
        let cut =
            self.shared.cut.map_or(String::new(), |cut| format!("prompts cut to {} tokens, ", cut.capacity));
        let rows = if evict { format!("caches cut to {capacity} rows, ") } else { String::new() };
        format!("{cut}{rows}reading sparse above {} tokens", band + columns)
    }
}

/// A run of the draft that the prompt's cut hands on, with the prompt that it read.
type Run = Arc<Mutex<Option<Reader>>>;

/// SpecKV-PC's cut of the prompt.
#[derive(Debug)]
struct Cutter {
    shared: Arc<Shared>,
    run: Run,
}

impl PromptEdit for Cutter {
    fn edit(&mut self, prompt: &Prompt<'_>) -> Result<Edited, MethodError> {
        let Shared { cut, foresight, settings, .. } = &*self.shared;
        let Some(cut) = cut.filter(|cut| prompt.ids.len() > cut.capacity) else {
            return Ok(Edited::Unchanged);
        };
        let mut gaze = Gaze::new(cut.window, foresight.middle_layer(), prompt.ids.len());
        let read = foresight.read(prompt.ids, Some(&mut gaze)).map(Some);
        let Some(reader) = foresight.forgive(read)? else { return Ok(Edited::Unchanged) };
        let cut = cut.choose(&gaze.scores, &uncut(prompt, true));
        if settings.touches(cut.len(), settings.lookahead) {
            *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
        }
        Ok(Edited::Kept(cut))
    }
}

/// The vote of one sequence.
#[derive(Debug)]
struct Voter {
    shared: Arc<Shared>,
    run: Run,
    /// Tokens of the prompt.
    prompt: usize,
    /// Tokens that the draft wrote; none if all rows are kept.
    drafted: Option<usize>,
    /// Rows that the answer will add.
    room: usize,
    /// For each head of the layer in work, the rows that stay. Empty where all do.
    kept: Vec<Vec<usize>>,
}

impl Lookahead for Voter {
    fn tokens(&mut self, ahead: &Ahead<'_>) -> Result<Option<Vec<u32>>, MethodError> {
        let settings = self.shared.settings;
        if !settings.touches(ahead.prompt.len(), ahead.room) {
            return Ok(None);
        }
        let drafted = self.draft(ahead).map(Some);
        let drafted = self.shared.foresight.forgive(drafted)?;
        self.drafted = drafted.as_ref().map(Vec::len);
        self.prompt = ahead.prompt.len();
        self.room = ahead.room;
        Ok(drafted)
    }

    fn report(&self) -> String {
        let (Settings { capacity, evict, .. }, prompt) = (self.shared.settings, self.prompt);
        match self.drafted {
            Some(drafted) if !evict => {
                format!("{prompt} tokens read sparsely, as {drafted} drafted ones voted; every row kept")
            }
            Some(drafted) => {
                format!("{capacity} of {prompt} rows a head kept, as {drafted} drafted tokens voted")
            }
            None => "every row kept".into(),
        }
    }
}

impl Voter {
    fn new(shared: &Arc<Shared>, run: Run) -> Self {
        let shared = Arc::clone(shared);
        Self { shared, run, prompt: 0, drafted: None, room: 0, kept: Vec::new() }
    }

    /// How the draft goes on with the prompt.
    fn draft(&mut self, ahead: &Ahead<'_>) -> Result<Vec<u32>, MethodError> {
        let Shared { foresight, settings, recent, .. } = &*self.shared;
        let count = settings.lookahead.min(ahead.room);
        if count == 0 {
            return Ok(Vec::new());
        }
        let run = self.run.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut reader) = run {
            return reader.write(count, ahead.stop, None);
        }
        let asked = [ahead.prompt, &[count as u32], ahead.stop].concat();
        if let Some(known) = recent.get(&asked) {
            return Ok(known);
        }
        let drafted = foresight.read(ahead.prompt, None)?.write(count, ahead.stop, None)?;
        recent.keep(asked, drafted.clone());
        Ok(drafted)
    }

    /// Rows before those that vote: the window's, the last of the prompt, and the drafted ones.
    fn candidates(&self) -> usize {
        self.prompt - 1 - self.shared.settings.window
    }

    /// The rows of one head before the voters, best first: as many as stay or are read, whichever is more.
    fn elect(&self, call: &Call<'_>, head: usize) -> Vec<usize> {
        let Settings { kernel, columns, .. } = self.shared.settings;
        let scores = votes(call, head, call.query_count - self.candidates());
        best(&max_pool(&scores, kernel), self.shared.settings.elected().max(columns))
    }
}

impl Look for Voter {
    fn attend(&mut self, site: &Site, call: &Call<'_>) -> Result<Vec<f32>, MethodError> {
        let settings = self.shared.settings;
        let Settings { window, band, columns, .. } = settings;
        self.kept.clear();
        if site.window.is_some() {
            return Ok(attention::attend(call).output);
        }
        let elected: Vec<Vec<usize>> = (0..call.kv.len()).map(|head| self.elect(call, head)).collect();
        let voters = self.candidates();
        let keep = |elected: &Vec<usize>| {
            let mut rows: Vec<usize> = elected.iter().copied().take(settings.elected()).collect();
            rows.sort_unstable();
            rows.extend(voters..voters + window);
            rows
        };
        if settings.evict {
            self.kept = elected.iter().map(keep).collect();
        }
        if !settings.is_sparse(call.query_count) {
            return Ok(attention::attend(call).output);
        }
        let read = |mut elected: Vec<usize>| {
            elected.truncate(columns);
            elected
        };
        let pattern = VerticalSlash::new(band, elected.into_iter().map(read).collect());
        Ok(vertical_slash::attend(call, &pattern))
    }

    fn settle(&mut self, _: &Site, cache: &mut [HeadRows]) -> Result<(), MethodError> {
        for (head, rows) in cache.iter_mut().zip(&self.kept) {
            head.gather_with_room(rows, self.room.min(RESERVED));
        }
        Ok(())
    }
}

/// Rows for which a cut cache has room from the start; longer answers let it grow.
const RESERVED: usize = 4096;

#[cfg(test)]
#[path = "../tests/spec_kv.rs"]
mod tests;
