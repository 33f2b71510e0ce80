//! The loop. Sequences join, leave and are cancelled between steps; a step is one forward pass over
//! whatever each of them needs next. One prompt is the case of one sequence.

use std::time::Instant;

use whit_kernels::op::{self, Host};

use super::GenerateError;
use super::cache::KvCache;
use super::dictation::Heard;
use super::forward;
use super::sequence::{Event, Finish, Output, Request, Sequence, Statistics, Work};
use super::trace::Trace;
use crate::methods::Stages;
use crate::nn::decoder::Decoder;

/// Advances sequences on one model.
#[derive(Debug)]
pub struct Scheduler<'m> {
    model: &'m Decoder,
    sequences: Vec<Sequence>,
    ended: Vec<(usize, Statistics)>,
    traces: Vec<(usize, Trace)>,
    heard: Vec<(usize, Vec<Heard>)>,
    next: usize,
    /// The most tokens of a prompt that one step reads, so that other sequences need not wait long.
    chunk: usize,
}

impl<'m> Scheduler<'m> {
    /// A scheduler without sequences.
    pub fn new(model: &'m Decoder) -> Self {
        Self {
            model,
            sequences: Vec::new(),
            ended: Vec::new(),
            traces: Vec::new(),
            heard: Vec::new(),
            next: 0,
            chunk: 512,
        }
    }

    /// Lets a step read at most `tokens` of a prompt.
    pub fn with_chunk(self, tokens: usize) -> Self {
        Self { chunk: tokens.max(1), ..self }
    }

    /// Adds a sequence with the state of its methods; returns its id.
    ///
    /// # Errors
    /// If the prompt is empty, too long or outside the vocabulary, or an option is out of range.
    pub fn add(&mut self, request: Request, stages: Stages) -> Result<usize, GenerateError> {
        let id = self.next;
        self.sequences.push(Sequence::new(id, request, stages, self.model)?);
        self.next += 1;
        Ok(id)
    }

    /// Ends a sequence before its time; [`Finish`] says why. Unknown ids are ignored.
    pub fn end(&mut self, id: usize, finish: Finish) {
        for sequence in self.sequences.iter_mut().filter(|sequence| sequence.id == id) {
            sequence.finish = Some(finish);
        }
        self.retire();
    }

    /// Whether any sequence is still in work.
    pub fn is_busy(&self) -> bool {
        !self.sequences.is_empty()
    }

    /// The cache of a sequence in work.
    pub fn cache(&self, id: usize) -> Option<&KvCache> {
        self.sequences.iter().find(|sequence| sequence.id == id).map(|sequence| &sequence.cache)
    }

    /// Takes the statistics of a sequence that has ended.
    pub fn statistics(&mut self, id: usize) -> Option<Statistics> {
        let index = self.ended.iter().position(|(ended, _)| *ended == id)?;
        Some(self.ended.swap_remove(index).1)
    }

    /// Takes what was written down of a sequence that has ended, if its request was `traced`.
    pub fn trace(&mut self, id: usize) -> Option<Trace> {
        let index = self.traces.iter().position(|(ended, _)| *ended == id)?;
        Some(self.traces.swap_remove(index).1)
    }

    /// Takes what the model thought of the tokens of a sequence that has ended, if its request had a dictation.
    pub fn heard(&mut self, id: usize) -> Option<Vec<Heard>> {
        let index = self.heard.iter().position(|(ended, _)| *ended == id)?;
        Some(self.heard.swap_remove(index).1)
    }

    /// One forward pass for all sequences; tells what each of them gained.
    ///
    /// # Errors
    /// If a method fails.
    pub fn step(&mut self) -> Result<Vec<Event>, GenerateError> {
        let mut events = self.retire();
        let start = Instant::now();
        let work = self.sequences.iter_mut().map(|sequence| sequence.work(self.chunk));
        let work: Vec<Work> = work.collect::<Result<_, _>>()?;
        if work.is_empty() {
            return Ok(events);
        }
        let (hidden, logits) = self.forward(&work)?;
        let seconds = start.elapsed().as_secs_f64();
        let (mut states, mut scores) = (hidden.data(), logits.data());
        for (sequence, work) in self.sequences.iter_mut().zip(&work) {
            let hidden = take(&mut states, work.len() * hidden.width());
            let logits = take(&mut scores, work.wanted().len() * logits.width());
            let tokens = sequence.commit(work, Output { logits, hidden, seconds })?;
            if !tokens.is_empty() || sequence.finish.is_some() {
                events.push(Event { id: sequence.id, tokens, finish: sequence.finish });
            }
        }
        self.retire();
        Ok(events)
    }

    /// Steps until all sequences have ended, handing every event to `each`.
    ///
    /// # Errors
    /// If a method fails.
    pub fn run(&mut self, mut each: impl FnMut(&mut Self, &Event)) -> Result<(), GenerateError> {
        while self.is_busy() {
            for event in self.step()? {
                each(self, &event);
            }
        }
        Ok(())
    }

    /// The hidden states of all tokens `[tokens, width]` and the logits of the wanted rows
    /// `[rows, vocabulary]`, sequence after sequence; an error where the wanted states are not finite.
    fn forward(&mut self, work: &[Work]) -> Result<(Host, Host), GenerateError> {
        let spans = self.sequences.iter_mut().zip(work).map(|(sequence, work)| sequence.span(work));
        let hidden = op::host(forward::forward(self.model, spans.collect())?);
        let width = hidden.width();
        let mut rows = Vec::new();
        let mut start = 0;
        for work in work {
            let wanted = work.wanted();
            rows.extend_from_slice(
                &hidden.data()[(start + wanted.start) * width..(start + wanted.end) * width],
            );
            start += work.len();
        }
        if rows.is_empty() {
            return Ok((hidden, Host::new([0, self.model.config().vocab_size], Vec::new())));
        }
        if rows.iter().any(|value| !value.is_finite()) {
            return Err(GenerateError::NotFinite);
        }
        let logits = self.model.logits(op::tensor(Host::new([rows.len() / width, width], rows)));
        Ok((hidden, op::host(logits)))
    }

    /// Lets go of the sequences that have ended, keeping their statistics.
    fn retire(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let (ended, active) = self.sequences.drain(..).partition::<Vec<_>, _>(|one| one.finish.is_some());
        self.sequences = active;
        for mut sequence in ended {
            self.traces.extend(sequence.trace.take().map(|trace| (sequence.id, *trace)));
            events.push(Event { id: sequence.id, tokens: Vec::new(), finish: sequence.finish });
            self.heard.extend(sequence.heard().map(|heard| (sequence.id, heard)));
            self.ended.push((sequence.id, sequence.statistics()));
        }
        events
    }
}

/// Splits the first `count` values off.
fn take<'a>(rest: &mut &'a [f32], count: usize) -> &'a [f32] {
    let (own, others) = rest.split_at(count);
    *rest = others;
    own
}
