//! From logits to a token. The steps follow transformers' order: penalties and biases on the logits,
//! then temperature, then what cuts the tail off, then one uniform number a token.

use super::dictation::Dictation;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use std::collections::HashMap;

/// How tokens are chosen. The default is greedy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the best token always.
    pub temperature: f32,
    /// Only this many best tokens; 0 for all.
    pub top_k: usize,
    /// The smallest set of best tokens whose probability reaches this; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this fraction as probable as the best; 0 for all.
    pub min_p: f32,
    /// The locally typical set of this probability (arXiv 2202.00666); 1 for all.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred (arXiv 1909.05858); 1 for none.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that were generated.
    pub presence_penalty: f32,
    /// Subtracted from the logits of generated tokens, once for each time.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: HashMap<u32, f32>,
    /// The seed of the random stream.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: HashMap::new(),
            seed: 0,
        }
    }
}

/// A sampling option out of its range.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("{option} is {found}; it must be {allowed}")]
pub struct SamplingError {
    /// The option.
    pub option: &'static str,
    /// Its value.
    pub found: f32,
    /// Its range.
    pub allowed: &'static str,
}

impl Sampling {
    /// Checks every option's range.
    ///
    /// # Errors
    /// The first option that is out of range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let check = |option, found: f32, inside: bool, allowed| {
            if inside && found.is_finite() { Ok(()) } else { Err(SamplingError { option, found, allowed }) }
        };
        let ratio = |value: f32| (0.0..=1.0).contains(&value);
        check("temperature", self.temperature, self.temperature >= 0.0, "at least 0")?;
        check("top-p", self.top_p, self.top_p > 0.0 && ratio(self.top_p), "above 0 and at most 1")?;
        check("min-p", self.min_p, ratio(self.min_p), "between 0 and 1")?;
        check(
            "typical-p",
            self.typical_p,
            self.typical_p > 0.0 && ratio(self.typical_p),
            "above 0 and at most 1",
        )?;
        check("repetition-penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0")?;
        check("presence-penalty", self.presence_penalty, true, "a number")?;
        check("frequency-penalty", self.frequency_penalty, true, "a number")?;
        match self.logit_bias.values().find(|bias| bias.is_nan()) {
            Some(&found) => {
                Err(SamplingError { option: "logit-bias", found, allowed: "a number or an infinity" })
            }
            None => Ok(()),
        }
    }

    fn adjusts(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || !self.logit_bias.is_empty()
    }
}

/// Chooses the tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
    /// How often each token was generated; zero for those that only the prompt has.
    counts: HashMap<u32, u32>,
    dictation: Option<Dictation>,
}

/// A token that may be chosen, with its logit and later its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: u32,
    /// Its weight.
    pub weight: f32,
}

impl Sampler {
    /// A sampler at the start of its random stream, for a sequence that begins with `prompt`.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        Self { sampling, random, counts: prompt.iter().map(|&token| (token, 0)).collect(), dictation: None }
    }

    /// The same, with what it is made to choose.
    pub fn with_dictation(self, dictation: Option<Dictation>) -> Self {
        Self { dictation, ..self }
    }

    /// Takes the dictation back, with what was heard.
    pub fn take_dictation(&mut self) -> Option<Dictation> {
        self.dictation.take()
    }

    /// Chooses a token by its logits, and remembers it.
    ///
    /// A deterministic draft may ask token by token along its tree: each choice uses exactly one number
    /// of the random stream, so the text is the one that plain decoding gives.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if let Some(token) = self.dictation.as_mut().and_then(|dictation| dictation.next(logits)) {
            return token;
        }
        let token = if self.sampling.temperature == 0.0 {
            self.greedy(logits)
        } else {
            let candidates = self.distribution(logits);
            pick(&candidates, self.random.random::<f64>())
        };
        *self.counts.entry(token).or_insert(0) += 1;
        token
    }

    /// The distribution that [`choose`](Self::choose) draws from, best token first; weights sum to one.
    pub fn distribution(&self, logits: &[f32]) -> Vec<Candidate> {
        let mut candidates = best(&self.adjusted(logits), self.sampling.top_k);
        for candidate in &mut candidates {
            candidate.weight /= self.sampling.temperature;
        }
        normalise(&mut candidates);
        cut_top_p(&mut candidates, self.sampling.top_p);
        cut_min_p(&mut candidates, self.sampling.min_p);
        cut_untypical(&mut candidates, self.sampling.typical_p);
        candidates
    }

    fn greedy(&self, logits: &[f32]) -> u32 {
        if self.sampling.adjusts() { argmax(&self.adjusted(logits)) } else { argmax(logits) }
    }

    fn adjusted(&self, logits: &[f32]) -> Vec<f32> {
        let mut logits = logits.to_vec();
        let sampling = &self.sampling;
        if !sampling.adjusts() {
            return logits;
        }
        for (&token, &count) in &self.counts {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            let penalty = sampling.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            if count > 0 {
                *logit -= sampling.presence_penalty + sampling.frequency_penalty * count as f32;
            }
        }
        for (&token, bias) in &sampling.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        logits
    }
}

/// The index of the largest value, the first of equals; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut top = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > top.1 {
            top = (token, logit);
        }
    }
    top.0 as u32
}

/// The `count` best tokens (all where zero), best first, the lower id first of equals.
fn best(logits: &[f32], count: usize) -> Vec<Candidate> {
    let order = |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token));
    let usable = |(token, &weight): (usize, &f32)| {
        (weight > f32::NEG_INFINITY).then_some(Candidate { token: token as u32, weight })
    };
    let mut all: Vec<Candidate> = logits.iter().enumerate().filter_map(usable).collect();
    if count > 0 && count < all.len() {
        all.select_nth_unstable_by(count - 1, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

/// Softmax over candidates that are sorted by their logits.
fn normalise(candidates: &mut [Candidate]) {
    let top = candidates.first().map_or(0.0, |candidate| candidate.weight);
    for candidate in candidates.iter_mut() {
        candidate.weight = (candidate.weight - top).exp();
    }
    rescale(candidates);
}

fn rescale(candidates: &mut [Candidate]) {
    let sum: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    for candidate in candidates {
        candidate.weight = (f64::from(candidate.weight) / sum) as f32;
    }
}

fn cut_top_p(candidates: &mut Vec<Candidate>, share: f32) {
    if share < 1.0 {
        cut_after(candidates, share);
        rescale(candidates);
    }
}

/// Keeps the shortest head of the list whose weights reach `share`.
fn cut_after(candidates: &mut Vec<Candidate>, share: f32) {
    let mut sum = 0.0;
    let short = candidates.iter().position(|candidate| {
        sum += f64::from(candidate.weight);
        sum >= f64::from(share)
    });
    candidates.truncate(short.map_or(candidates.len(), |last| last + 1));
}

fn cut_min_p(candidates: &mut Vec<Candidate>, share: f32) {
    if share > 0.0 {
        let least = candidates.first().map_or(0.0, |top| top.weight * share);
        candidates.retain(|candidate| candidate.weight >= least);
        rescale(candidates);
    }
}

/// Keeps the tokens whose surprise is nearest to the expected one.
fn cut_untypical(candidates: &mut Vec<Candidate>, share: f32) {
    if share >= 1.0 {
        return;
    }
    let surprise = |candidate: &Candidate| -candidate.weight.max(f32::MIN_POSITIVE).ln();
    let entropy: f32 = candidates.iter().map(|candidate| candidate.weight * surprise(candidate)).sum();
    let distance = |candidate: &Candidate| (surprise(candidate) - entropy).abs();
    candidates.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    cut_after(candidates, share);
    candidates.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token)));
    rescale(candidates);
}

fn pick(candidates: &[Candidate], uniform: f64) -> u32 {
    let mut left = uniform;
    for candidate in candidates {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return candidate.token;
        }
    }
    candidates.last().map_or(0, |candidate| candidate.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, f32::NEG_INFINITY, 0.0];

    fn tokens(change: impl FnOnce(&mut Sampling)) -> Vec<u32> {
        let mut sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        change(&mut sampling);
        Sampler::new(sampling, &[1]).distribution(&LOGITS).iter().map(|candidate| candidate.token).collect()
    }

    #[test]
    fn each_cut_keeps_what_it_should() {
        // Probabilities: token 1 0.644, token 2 0.237, token 0 0.087, token 4 0.032.
        assert_eq!(tokens(|_| {}), [1, 2, 0, 4]);
        assert_eq!(tokens(|s| s.top_k = 2), [1, 2]);
        assert_eq!(tokens(|s| s.top_p = 0.7), [1, 2]);
        assert_eq!(tokens(|s| s.top_p = 0.64), [1]);
        assert_eq!(tokens(|s| s.min_p = 0.1), [1, 2, 0]);
        // Entropy 0.954: the surprises 0.44, 1.44, 2.44, 3.44 are nearest for tokens 2 and 1.
        assert_eq!(tokens(|s| s.typical_p = 0.5), [1, 2]);
        assert_eq!(tokens(|s| s.typical_p = 0.2), [2]);
    }

    #[test]
    fn penalties_and_biases_move_logits() {
        let greedy = |change: fn(&mut Sampling), twice: bool| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            let mut sampler = Sampler::new(sampling, &[1]);
            let first = sampler.choose(&LOGITS);
            if twice { sampler.choose(&LOGITS) } else { first }
        };
        assert_eq!(greedy(|_| {}, true), 1);
        assert_eq!(greedy(|s| s.repetition_penalty = 2.0, false), 2);
        assert_eq!(greedy(|s| s.presence_penalty = 1.5, false), 1);
        assert_eq!(greedy(|s| s.presence_penalty = 1.5, true), 2);
        assert_eq!(greedy(|s| s.logit_bias = HashMap::from([(4, 10.0)]), false), 4);
        assert_eq!(greedy(|s| s.logit_bias = HashMap::from([(1, f32::NEG_INFINITY)]), false), 2);
    }

    #[test]
    fn samples_follow_the_distribution() {
        let sampling = Sampling { temperature: 0.8, top_k: 4, seed: 11, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling, &[]);
        let wanted = sampler.distribution(&LOGITS);
        let mut counts = [0.0f64; 5];
        let draws = 5000;
        (0..draws).for_each(|_| counts[sampler.choose(&LOGITS) as usize] += 1.0);
        let chi: f64 = wanted
            .iter()
            .map(|candidate| {
                let expected = f64::from(candidate.weight) * f64::from(draws);
                (counts[candidate.token as usize] - expected).powi(2) / expected
            })
            .sum();
        // 3 degrees of freedom: 11.34 is the 1 % point.
        assert!(chi < 11.34, "{chi}");
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { temperature: 2.0, seed, ..Sampling::default() }, &[]);
            (0..20).map(|_| sampler.choose(&LOGITS)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn options_out_of_range_are_named() {
        let error = |change: fn(&mut Sampling)| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            sampling.check().map_err(|error| error.option)
        };
        assert_eq!(error(|s| s.temperature = -1.0), Err("temperature"));
        assert_eq!(error(|s| s.temperature = f32::NAN), Err("temperature"));
        assert_eq!(error(|s| s.top_p = 0.0), Err("top-p"));
        assert_eq!(error(|s| s.min_p = 1.5), Err("min-p"));
        assert_eq!(error(|s| s.typical_p = 2.0), Err("typical-p"));
        assert_eq!(error(|s| s.repetition_penalty = 0.0), Err("repetition-penalty"));
        assert_eq!(error(|_| {}), Ok(()));
    }
}
