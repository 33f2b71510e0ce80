//! Prompt lookup (after Yang et al., 2023, arXiv 2304.04487): much of what a model writes it has read
//! before, in the prompt or in its own text. The last few tokens are looked up in all the text so far,
//! and what followed them there is proposed as a draft. One forward pass of the model verifies it, and
//! the output is the same as without it, token for token. It needs no draft model, no training and no
//! memory.

use std::sync::Arc;

use crate::methods::tuner::{CLAIMS, STAGES, TUNE_TOKENS, Tally, Tuned, tune};
use crate::methods::{
    Draft, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room,
    Spec, Stage, Stages, TokenTree, Value, Verified,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "prompt-lookup",
    title: "Prompt Lookup",
    paper: Paper {
        title: "Inference with Reference: Lossless Acceleration of Large Language Models",
        authors: "Nan Yang, Tao Ge, Liang Wang, Binxing Jiao, Daxin Jiang, Linjun Yang, Rangan Majumder, Furu Wei",
        year: 2023,
        arxiv: "2304.04487",
    },
    room: Room::Drafts,
    fidelity: Fidelity::Exact,
    summary: "Much of what a model writes it has read before: quotations, names, code that is edited. Prompt \
              lookup finds the last few tokens in the text so far, proposes what followed them there, and \
              lets one forward pass verify it. It needs no draft model, no training and no memory.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        Knob {
            name: "tokens",
            kind: Kind::Int { min: 0, max: 64 },
            default: Value::Int(16),
            off: Some(Value::Int(0)),
            help: "most drafted tokens a step",
        },
        Knob {
            name: "longest",
            kind: Kind::Int { min: 1, max: 16 },
            default: Value::Int(4),
            off: None,
            help: "how many of the last tokens are looked up; fewer are tried where so many are not found",
        },
        Knob {
            name: "shortest",
            kind: Kind::Int { min: 1, max: 16 },
            default: Value::Int(1),
            off: None,
            help: "a match of fewer tokens is not trusted; more than `longest` means `longest`",
        },
        tune(TUNE_TOKENS),
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "LLaMA 7B to 30B, retrieval-augmented and multi-turn text, batch 1, greedy, data-centre GPU",
        metric: "speed-up",
        baseline: "1x",
        result: "2x and more",
    }],
    build,
};

const LONG: &str = "\
## How it works

1. The last `longest` tokens are searched in everything before them, the newest occurrence first. If they do not
   occur, one token fewer is searched, down to `shortest`.
2. The `tokens` tokens that followed the occurrence are the draft. A match that reaches the end of the text goes on
   with the draft's own tokens, so that a loop of any length is continued.
3. One forward pass verifies the draft, and the exact walk accepts what agrees with the model, greedy or sampled.

## When it pays

When the answer repeats the prompt or itself: summaries, answers from documents, edits of code, lists. On text that
says new things it finds short chance matches, most of which are rejected. As with all drafts, the verification of
many tokens must cost little more than that of one; `tune` measures both, and stops drafting where it does not pay.

## What is ours

The paper copies spans from reference documents and triggers on a fixed number of matching tokens; looking in the
prompt, and the name, are Apoorv Saxena's (2023). Looking in the generated text too, the fallback from long matches to
short ones in favour of the newest, drafts that continue themselves, and `tune` are additions.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let longest = knobs.int("longest");
    let shortest = knobs.int("shortest").min(longest);
    let tuned = Tuned::new(knobs, &[1, 2, 4, 8, 16, 32], knobs.int("tokens"));
    Ok(Arc::new(PromptLookup { longest, shortest, tuned }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct PromptLookup {
    longest: usize,
    shortest: usize,
    /// How many tokens to draft.
    tuned: Tuned,
}

impl Method for PromptLookup {
    fn begin(&self) -> Stages {
        let state = Lookup { method: self.clone(), shadows: Vec::new(), tally: Tally::default() };
        Stages::from_iter([Stage::Draft(Box::new(state))])
    }

    fn expect(&self) -> String {
        format!("up to {} tokens verified a forward pass where the text repeats", self.tuned.most() + 1)
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Lookup {
    method: PromptLookup,
    /// The longest drafts at recent positions, to be judged once the text is known.
    shadows: Vec<(usize, Vec<u32>)>,
    tally: Tally,
}

impl Draft for Lookup {
    fn propose(&mut self, committed: &[u32], room: usize) -> Result<TokenTree, MethodError> {
        let Some(&root) = committed.last() else { return Ok(TokenTree::root(0)) };
        let PromptLookup { longest, shortest, ref tuned } = self.method;
        let found = lookup(committed, shortest..=longest, tuned.most());
        let length = self.length(committed, &found).min(room).min(found.len());
        Ok(TokenTree::chain([&[root], &found[..length]].concat())?)
    }

    fn learn(&mut self, verified: &Verified<'_>) {
        self.tally.add(verified);
        self.method.tuned.timed(verified.tree.len() - 1, verified.seconds);
    }

    fn report(&self) -> String {
        self.tally.report(self.method.tuned.is_off())
    }
}

impl Lookup {
    /// How much of `found` to draft, by what earlier drafts came to.
    fn length(&mut self, committed: &[u32], found: &[u32]) -> usize {
        let tuned = &self.method.tuned;
        if tuned.is_fixed() {
            return tuned.most();
        }
        self.shadows.retain(|(at, draft)| {
            let text = &committed[*at..];
            let agreed = draft.iter().zip(text).take_while(|(drafted, token)| drafted == token).count();
            // A draft that agrees with all the text so far may yet come further.
            let settled = agreed < text.len().min(draft.len()) || text.len() >= draft.len();
            if settled {
                tuned.judged(|size| size.min(agreed));
            }
            !settled
        });
        if !found.is_empty() {
            self.shadows.push((committed.len(), found.to_vec()));
        }
        tuned.nodes()
    }
}

/// What followed the newest earlier occurrence of the longest end of `text`, `count` tokens of it.
fn lookup(text: &[u32], lengths: std::ops::RangeInclusive<usize>, count: usize) -> Vec<u32> {
    let newest = |length: usize| {
        let start = text.len().checked_sub(length)?;
        let found = text[..text.len() - 1].windows(length).rposition(|window| *window == text[start..])?;
        Some(found + length)
    };
    let Some(next) = lengths.rev().find_map(newest) else { return Vec::new() };
    // The text repeats with this period as far as the match can tell.
    let period = text.len() - next;
    (0..count).map(|index| text[next + index % period]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_end_wins_and_of_its_places_the_newest() {
        //          0  1  2  3  4  5  6  7  8  9
        let text = [1, 2, 3, 9, 2, 3, 8, 7, 2, 3];
        assert_eq!(lookup(&text, 1..=4, 3), [8, 7, 2]);
        let text = [1, 2, 3, 9, 5, 3, 8, 7, 2, 3];
        assert_eq!(lookup(&text, 1..=4, 2), [9, 5], "`2 3` is longer than `3`");
        assert_eq!(lookup(&text, 1..=1, 2), [8, 7], "the newest `3`");
    }

    #[test]
    fn what_does_not_occur_gives_no_draft() {
        assert!(lookup(&[], 1..=3, 4).is_empty());
        assert!(lookup(&[5], 1..=3, 4).is_empty());
        assert!(lookup(&[1, 2, 3], 1..=3, 4).is_empty());
        assert!(lookup(&[1, 2, 1, 3, 1], 2..=3, 4).is_empty(), "one token is too short a match");
    }

    #[test]
    fn a_loop_is_continued_beyond_the_end_of_the_text() {
        assert_eq!(lookup(&[7, 7], 1..=3, 4), [7, 7, 7, 7]);
        assert_eq!(lookup(&[0, 1, 2, 1, 2], 1..=3, 5), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn the_tuner_hears_how_far_each_length_would_have_come() {
        let knobs = Knobs::defaults(&SPEC);
        let method = build(&knobs, &ModelFacts::example()).unwrap();
        let mut draft = method.begin().draft.unwrap();
        let text: Vec<u32> = (0..60).map(|index| index % 5).collect();
        for end in 6..60 {
            let tree = draft.propose(&text[..end], 30).unwrap();
            let accepted = crate::methods::Accepted { path: (0..tree.len()).collect(), next: 0 };
            draft.learn(&Verified {
                tree: &tree,
                logits: &[],
                hidden: &[],
                accepted: &accepted,
                seconds: 1.0,
            });
        }
        assert_eq!(draft.propose(&text, 30).unwrap().len(), 17, "verification is free: the longest draft");
        assert_eq!(draft.propose(&text, 3).unwrap().len(), 4, "no longer than there is room");
    }
}
