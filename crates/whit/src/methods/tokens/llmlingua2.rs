//! LLMLingua-2 (Pan et al., 2024, arXiv 2403.12968): which words of a prompt can go is learnt, not guessed
//! from perplexity. A strong language model deletes words from texts; an aligner turns its deletions into
//! labels; a small bidirectional encoder learns them as a classification of tokens. At run time one pass of
//! the encoder gives every token a probability of being kept, tokens are joined to words, and the best
//! fraction stays in its order. The work itself is in [`crate::squeeze`]; here it becomes a method.

use std::ops::Range;
use std::sync::Arc;

use crate::load;
use crate::methods::{
    Access, Claim, Edited, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind,
    Need, Paper, Prompt, PromptEdit, Resource, Room, Spec, Stage, StageKind, Stages, Value,
};
use crate::models;
use crate::nn::vars::Storage;
use crate::squeeze::{Amount, Pooling, Scope, Settings, SqueezeError, Squeezed, Squeezer, shipped};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "llmlingua2",
    title: "LLMLingua-2",
    paper: Paper {
        title: "LLMLingua-2: Data Distillation for Efficient and Faithful Task-Agnostic Prompt Compression",
        authors: "Zhuoshi Pan, Qianhui Wu, Huiqiang Jiang, Menglin Xia, Xufang Luo, Jue Zhang, Qingwei Lin, Victor \
                  Rühle, Yuqing Yang, Chin-Yew Lin, H. Vicky Zhao, Lili Qiu, Dongmei Zhang",
        year: 2024,
        arxiv: "2403.12968",
    },
    room: Room::Tokens,
    fidelity: Fidelity::Lossy,
    summary: "A small bidirectional encoder, trained on what a strong language model deletes, gives every token of \
              the prompt a probability of being worth keeping. Tokens are joined to words, and the best fraction of \
              them stays, in order and unchanged. The language model then reads a prompt of half or a third the \
              length. It needs to know neither the question nor the model that answers.",
    long: LONG,
    stages: &[StageKind::PromptEdit],
    claims: &[Claim { resource: Resource::Prompt, access: Access::Transform }],
    knobs: KNOBS,
    needs: &[Need::Weights(
        "a token classifier with the classes drop and keep; a small English one is shipped",
    )],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "MeetingBank questions, GPT-3.5-Turbo, 3.1x shorter",
            metric: "exact match",
            baseline: "87.75 with the whole prompt, 67.52 by LLMLingua at 2.5x",
            result: "86.92",
        },
        Headline {
            setting: "MeetingBank questions, Mistral-7B",
            metric: "exact match",
            baseline: "66.95 with the whole prompt",
            result: "76.22",
        },
        Headline {
            setting: "GSM8K, one example, GPT-3.5-Turbo, 5x shorter",
            metric: "exact match",
            baseline: "78.85 with the whole prompt",
            result: "79.08",
        },
        Headline {
            setting: "V100, 2x / 3x / 5x shorter",
            metric: "end-to-end seconds",
            baseline: "14.9",
            result: "9.4 / 7.5 / 5.2",
        },
    ],
    build,
};

const fn flag(name: &'static str, help: &'static str) -> Knob {
    Knob { name, kind: Kind::Flag, default: Value::Flag(false), off: None, help }
}

const fn choice(name: &'static str, options: &'static [&'static str], help: &'static str) -> Knob {
    Knob { name, kind: Kind::Choice { options }, default: Value::Choice(options[0]), off: None, help }
}

const fn text(name: &'static str, what: &'static str, default: &'static str, help: &'static str) -> Knob {
    Knob {
        name,
        kind: Kind::Text { what },
        default: Value::Text(std::borrow::Cow::Borrowed(default)),
        off: None,
        help,
    }
}

const KNOBS: &[Knob] = &[
    Knob {
        name: "rate",
        kind: Kind::Float { min: 0.01, max: 1.0 },
        default: Value::Float(0.5),
        off: Some(Value::Float(1.0)),
        help: "fraction of the tokens to keep",
    },
    Knob {
        name: "tokens",
        kind: Kind::Int { min: 0, max: 1 << 24 },
        default: Value::Int(0),
        off: None,
        help: "tokens of the target model to keep; 0 goes by the rate",
    },
    text("model", "a model folder or a name on the hub", "", "the classifier; empty for the shipped one"),
    choice(
        "dtype",
        &["native", "f32", "bf16", "int8"],
        "weight type of a classifier that is not the shipped one",
    ),
    choice(
        "scope",
        &["chunk", "prompt", "corpus"],
        "whether the words of a chunk, a text or all texts compete",
    ),
    choice("word", &["mean", "first"], "whether a word is worth the mean of its tokens or its first"),
    text("force", "texts with | between them", "", "tokens that stay, such as \\n|.|?|!"),
    flag("digits", "keep every token with a digit"),
    flag("drop-consecutive", "drop a forced token that repeats the one before it"),
    text("chunk-ends", "texts with | between them", ".|\n", "where a chunk may end"),
    choice("specials", &["native", "official"], "which marks the classifier sees around a chunk"),
];

const LONG: &str = "\
## How it works

1. The text is cut into tokens and these into chunks that fit the classifier, each ending at a full stop or line
   break where there is one.
2. The classifier reads every chunk in both directions and gives each token a probability of being kept.
3. Tokens are joined to words, and a word is worth the mean of its tokens. Forced tokens are worth 1, and with
   `digits` so is every token with a digit.
4. Each word counts once for each token that it costs the target model. Words above the percentile that the rate asks
   for stay, with what stood before them; the rest is gone. What stays is a subsequence of the words that were there,
   so nothing is ever invented.

Only what a user wrote is cut; a chat template stays whole. A prompt of which nothing would be left stays as it is,
and so does one that came as tokens without a text.

## When it pays

Where prompts are long and say things twice: transcripts, logs, retrieved documents. Reading the prompt then costs as
much less as it is shorter, and so does its cache; the classifier's own pass comes on top, so it must be much smaller
than the language model. It does not pay for short prompts, nor for text in which every token matters (code, tables,
JSON): force what must stay, or leave such parts out.

`whit squeeze FILE --html page.html` shows which words go.

## Scope

`chunk` is what the official code does: every chunk loses the same share. `prompt` is what the paper describes.
`corpus` uses one threshold for all texts, so that one with more to say keeps more.

## What is ours

- Chunks have one token less than the official code takes where no full stop is found: there the classifier's window
  overflows by one and the tail is lost.
- The rate is rounded to whole percents, one of them down, as in the official code; a number of `tokens` is kept to
  exactly.
- Kept words are cut out of the source with the space before them. The official code writes them anew from its
  vocabulary, which loses line breaks and, for some models, capitals.
- A forced text that is several tokens, or none (a line break), is found in the source and kept. The official code
  replaces it by an added token whose embedding is random.
- `specials=official` gives an XLM-RoBERTa classifier the unknown token where its marks belong, as the official code
  does by looking up BERT's names; `native` gives it its own.
- The shipped classifier `squeeze-en` was trained here in minutes by a rule that deletes stop words, fillers and
  repetitions. It has learnt the words, hardly the repetitions, and is no match for the published ones, which
  `model=` reads.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let settings = settings(knobs)?;
    let squeezer = match knobs.text("model") {
        "" => shipped().map_err(|error| knobs.unfit("model", error.to_string()))?,
        source => Arc::new(
            open(source, knobs.choice("dtype")).map_err(|error| knobs.unfit("model", error.to_string()))?,
        ),
    };
    Ok(Arc::new(LlmLingua2 { squeezer, settings }))
}

fn settings(knobs: &Knobs) -> Result<Settings, MethodError> {
    let tokens = Some(knobs.int("tokens")).filter(|&tokens| tokens > 0);
    let amount = Amount::new(Some(knobs.float("rate")), tokens)
        .map_err(|error| knobs.unfit("rate", error.to_string()))?;
    let list =
        |name| knobs.text(name).split('|').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    let settings = Settings {
        scope: match knobs.choice("scope") {
            "chunk" => Scope::Chunk,
            "prompt" => Scope::Prompt,
            _ => Scope::Corpus,
        },
        word: if knobs.choice("word") == "first" { Pooling::First } else { Pooling::Mean },
        force_tokens: list("force"),
        keep_digits: knobs.flag("digits"),
        drop_consecutive: knobs.flag("drop-consecutive"),
        chunk_ends: list("chunk-ends"),
        native_specials: knobs.choice("specials") == "native",
        ..Settings::new(amount)
    };
    settings.check().map_err(|error| knobs.unfit("force", error.to_string()))?;
    Ok(settings)
}

fn open(source: &str, dtype: &str) -> Result<Squeezer, SqueezeError> {
    let files = load::open(source, &load::Options::default())?;
    let layers = models::facts(&files.config)?.layers;
    let precision = models::precision(dtype, layers).unwrap_or(crate::nn::vars::Precision::Native);
    Squeezer::new(files, &Storage::Packed(precision), &|_| {})
}

/// The method, built for one model.
#[derive(Debug)]
struct LlmLingua2 {
    squeezer: Arc<Squeezer>,
    settings: Settings,
}

impl Method for LlmLingua2 {
    fn begin(&self) -> Stages {
        let (squeezer, settings) = (Arc::clone(&self.squeezer), self.settings.clone());
        let cutter = Cutter { squeezer, settings, stayed: Vec::new() };
        Stages::from_iter([Stage::PromptEdit(Box::new(cutter))])
    }

    fn expect(&self) -> String {
        let encoder = self.squeezer.encoder();
        let amount = match self.settings.amount {
            Amount::Rate(rate) => format!("about {:.0} % of their tokens", 100.0 * rate),
            Amount::Tokens(tokens) => format!("about {tokens} tokens"),
        };
        let (layers, width) = (encoder.config().layers, encoder.config().block.width);
        let bytes = crate::measure::bytes(encoder.bytes() as u64);
        format!(
            "prompts cut to {amount}; a classifier of {layers} layers, width {width} ({bytes}) reads them first"
        )
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Cutter {
    squeezer: Arc<Squeezer>,
    settings: Settings,
    /// The bytes of each part that stayed.
    stayed: Vec<Vec<Range<usize>>>,
}

impl PromptEdit for Cutter {
    fn edit(&mut self, prompt: &Prompt<'_>) -> Result<Edited, MethodError> {
        let Some(written) = prompt.written else { return Ok(Edited::Unchanged) };
        let parts: Vec<&str> = written.parts().collect();
        let failed = |error: SqueezeError| MethodError::Failed { method: SPEC.id, reason: error.to_string() };
        let (squeezed, _) =
            self.squeezer.squeeze(&parts, &written.tokenizer, &self.settings).map_err(failed)?;
        if squeezed.iter().all(|one| one.text.trim().is_empty()) {
            return Ok(Edited::Unchanged);
        }
        self.stayed = squeezed.iter().map(kept_bytes).collect();
        Ok(Edited::Parts(squeezed.into_iter().map(|one| one.text).collect()))
    }

    fn stayed(&self) -> &[Vec<Range<usize>>] {
        &self.stayed
    }
}

fn kept_bytes(squeezed: &Squeezed) -> Vec<Range<usize>> {
    let kept = squeezed.words.iter().zip(&squeezed.kept).filter(|(_, kept)| **kept);
    kept.map(|(word, _)| word.bytes.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::prompt::Written;
    use crate::methods::{Plan, Selection};

    fn edit(method: &str, text: &str) -> Edited {
        let plan = Plan::new(&Selection::parse(&[method]).unwrap(), &ModelFacts::example()).unwrap();
        let written = Written::plain(text, Arc::clone(shipped().unwrap().tokenizer()));
        let prompt = Prompt { written: Some(&written), ids: &[], editable: &[] };
        plan.begin().prompt_edits[0].edit(&prompt).unwrap()
    }

    const TALK: &str = "So, um, I mean, the code of the harbor is 4711. You know, the code of the harbor is 4711. And it \
                        is really quite simple, as it were, to remember that.";

    #[test]
    fn what_matters_stays_and_fillers_go() {
        let Edited::Parts(parts) = edit("llmlingua2", TALK) else { panic!("nothing was cut") };
        assert!(
            parts[0].contains("code") && parts[0].contains("harbor") && parts[0].contains("4711"),
            "{parts:?}"
        );
        assert!(!parts[0].contains("um") && parts[0].len() < TALK.len() * 2 / 3, "{parts:?}");
    }

    #[test]
    fn forced_words_stay_and_little_prompts_are_left_alone() {
        let Edited::Parts(parts) = edit("llmlingua2:rate=0.3,force=um|really", TALK) else {
            panic!("nothing was cut")
        };
        assert!(parts[0].contains("um") && parts[0].contains("really"), "{parts:?}");
        assert_eq!(edit("llmlingua2", "Hi"), Edited::Unchanged);
        assert_eq!(edit("llmlingua2", ""), Edited::Unchanged);
    }

    #[test]
    fn bad_knobs_are_named() {
        let refuse = |method: &str| {
            let wanted = Selection::parse(&[method]);
            wanted
                .and_then(|wanted| Plan::new(&wanted, &ModelFacts::example()))
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        assert!(refuse("llmlingua2:rate=0").contains("rate"));
        assert!(refuse("llmlingua2:rate=1.5").contains("rate"));
        assert!(refuse("llmlingua2:model=no/such/folder/here").contains("no/such/folder"));
        let many = vec!["x"; 101].join("|");
        assert!(refuse(&format!("llmlingua2:force={many}")).contains("101"));
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
        assert!(refuse(&format!("llmlingua2:model={fixtures}/bert")).contains("tokenizer"));
        assert!(refuse(&format!("llmlingua2:model={fixtures}/llama")).contains("no text encoder"));
    }
}
