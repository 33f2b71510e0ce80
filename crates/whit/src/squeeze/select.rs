//! Which words stay, given how likely each is worth keeping: the rule of the official code.

/// A word as the selection sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// How likely it is worth keeping, 0 to 1.
    pub probability: f64,
    /// Tokens of the target model that it costs.
    pub tokens: usize,
    /// Which of the forced tokens it is, if it is one.
    pub forced: Option<usize>,
}

/// How much is kept, and how repeated forced tokens are treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The fraction to keep.
    pub rate: f64,
    /// Keep to the fraction exactly; the official code rounds to whole percents, one of them down.
    pub exact: bool,
    /// Drop a forced token that repeats the one before it with nothing kept between.
    pub drop_consecutive: bool,
}

impl Rule {
    /// Says of each word whether it stays. All do at a rate of 1.
    pub fn select(&self, words: &[Candidate]) -> Vec<bool> {
        if 1.0 - self.rate <= 0.0 {
            return vec![true; words.len()];
        }
        let probabilities = self.without_repeats(words);
        let Some(threshold) = self.threshold(words, &probabilities) else {
            return vec![false; words.len()];
        };
        let mut last = None;
        let mut keep = |(word, &probability): (&Candidate, &f64)| {
            let likely = probability > threshold || (threshold == 1.0 && probability == threshold);
            let repeated = self.drop_consecutive && word.forced.is_some() && word.forced == last;
            if !likely || repeated {
                return false;
            }
            last = word.forced;
            true
        };
        words.iter().zip(&probabilities).map(&mut keep).collect()
    }

    /// The probabilities, 0 for forced tokens that repeat the one before with no likely word between.
    fn without_repeats(&self, words: &[Candidate]) -> Vec<f64> {
        let mut probabilities: Vec<f64> = words.iter().map(|word| word.probability).collect();
        if !self.drop_consecutive {
            return probabilities;
        }
        let percent = self.percent(0.0);
        let Some(threshold) = percentile(probabilities.clone(), percent) else { return probabilities };
        let (mut last, mut between) = (None, false);
        for (word, probability) in words.iter().zip(&mut probabilities) {
            if word.forced.is_none() {
                between |= *probability > threshold;
                continue;
            }
            if !between && word.forced == last {
                *probability = 0.0;
            }
            (last, between) = (word.forced, false);
        }
        probabilities
    }

    /// The probability that a word must exceed. Every word counts once for each token that it costs, so
    /// that the fraction is one of tokens.
    fn threshold(&self, words: &[Candidate], probabilities: &[f64]) -> Option<f64> {
        let costs: usize = words.iter().map(|word| word.tokens).sum();
        let times = |word: &Candidate| if costs == 0 { 1 } else { word.tokens };
        let repeat = |(word, &value): (&Candidate, &f64)| std::iter::repeat_n(value, times(word));
        percentile(words.iter().zip(probabilities).flat_map(repeat).collect(), self.percent(1.0))
    }

    /// The share to drop, in percent.
    fn percent(&self, more: f64) -> f64 {
        let percent = 100.0 * (1.0 - self.rate);
        if self.exact { percent } else { (percent + more).trunc().min(100.0) }
    }
}

/// The value below which `percent` of `values` lie, interpolated linearly as numpy does; `None` of nothing.
pub fn percentile(mut values: Vec<f64>, percent: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let place = percent.clamp(0.0, 100.0) / 100.0 * values.len().checked_sub(1)? as f64;
    let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn word(probability: f64, tokens: usize, forced: Option<usize>) -> Candidate {
        Candidate { probability, tokens, forced }
    }

    #[test]
    fn percentiles_are_numpys() {
        let values = || vec![4.0, 1.0, 3.0, 2.0];
        for (percent, wanted) in [(0.0, 1.0), (50.0, 2.5), (75.0, 3.25), (90.0, 3.7), (100.0, 4.0)] {
            assert!((percentile(values(), percent).unwrap() - wanted).abs() < 1e-12, "{percent}");
        }
        assert_eq!(percentile(Vec::new(), 50.0), None);
        assert_eq!(percentile(vec![0.25], 17.0), Some(0.25));
    }

    /// Half of ten tokens: `int(100 * 0.5 + 1)` = 51 percent of ten values lies at place 4.59.
    #[test]
    fn a_small_case_by_hand() {
        let words: Vec<_> = (0..10).map(|at| word(f64::from(at) / 10.0, 1, None)).collect();
        let rule = Rule { rate: 0.5, exact: false, drop_consecutive: false };
        assert_eq!(rule.select(&words), [vec![false; 5], vec![true; 5]].concat());
        // A dear word weighs more: 0.9 is eleven of the twenty values, so that the threshold is 0.9 itself.
        let dear: Vec<_> =
            (0..10).map(|at| word(f64::from(at) / 10.0, if at == 9 { 11 } else { 1 }, None)).collect();
        assert_eq!(rule.select(&dear), [false; 10]);
        assert_eq!(Rule { rate: 1.0, ..rule }.select(&words), [true; 10]);
        assert_eq!(rule.select(&[]), [false; 0]);
    }

    #[test]
    fn repeated_marks_are_dropped_when_wanted() {
        let words = [
            word(1.0, 1, Some(0)),
            word(0.1, 1, None),
            word(1.0, 1, Some(0)),
            word(0.9, 1, None),
            word(1.0, 1, Some(0)),
        ];
        let rule = Rule { rate: 0.77, exact: false, drop_consecutive: false };
        assert_eq!(rule.select(&words), [true, false, true, true, true]);
        // No kept word stands between the first two marks; the place of the second goes to another word.
        let kept = Rule { drop_consecutive: true, ..rule }.select(&words);
        assert_eq!(kept, [true, true, false, true, true]);
    }

    /// Steps 5 to 7 of the official code, written down again in the plainest way.
    fn oracle(words: &[Candidate], rate: f64, consecutive: bool) -> Vec<bool> {
        let numpy = |values: &[f64], percent: i64| -> f64 {
            let mut sorted = values.to_vec();
            sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let at = (sorted.len() - 1) as f64 * percent.min(100) as f64 / 100.0;
            let low = sorted[at as usize];
            let high = sorted[(at as usize + 1).min(sorted.len() - 1)];
            low + (high - low) * (at - (at as usize) as f64)
        };
        let reduce = 1.0 - rate;
        let mut probabilities: Vec<f64> = words.iter().map(|word| word.probability).collect();
        if consecutive {
            let threshold = numpy(&probabilities, (100.0 * reduce) as i64);
            let mut between = false;
            let mut previous: Option<usize> = None;
            for at in 0..words.len() {
                if words[at].forced.is_some() {
                    if between {
                        between = false;
                    } else if words[at].forced == previous {
                        probabilities[at] = 0.0;
                    }
                    previous = words[at].forced;
                } else if probabilities[at] > threshold {
                    between = true;
                }
            }
        }
        let mut tokens = Vec::new();
        for (word, &probability) in words.iter().zip(&probabilities) {
            for _ in 0..word.tokens {
                tokens.push(probability);
            }
        }
        let threshold = numpy(&tokens, (100.0 * reduce + 1.0) as i64);
        let mut kept: Vec<usize> = Vec::new();
        for at in 0..words.len() {
            if probabilities[at] > threshold || (threshold == 1.0 && probabilities[at] == threshold) {
                let same = kept.last().is_some_and(|&last| words[last].forced == words[at].forced);
                if !(consecutive && words[at].forced.is_some() && same) {
                    kept.push(at);
                }
            }
        }
        (0..words.len()).map(|at| kept.contains(&at)).collect()
    }

    #[test]
    fn three_hundred_random_vectors_are_selected_as_the_oracle_does() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        for round in 0..300 {
            let rate = f64::from(round % 9 + 1) / 10.0;
            let coarse = round % 3 == 0; // with many ties
            let words: Vec<_> = (0..random.random_range(1..120))
                .map(|_| {
                    let forced = random.random_bool(0.2).then(|| random.random_range(0..3));
                    let digit = random.random_bool(0.1);
                    let value: f64 = random.random_range(0.0..1.0);
                    let value = if coarse { (value * 4.0).round() / 4.0 } else { value };
                    word(
                        if forced.is_some() || digit { 1.0 } else { value },
                        random.random_range(1..5),
                        forced,
                    )
                })
                .collect();
            for drop_consecutive in [false, true] {
                let rule = Rule { rate, exact: false, drop_consecutive };
                assert_eq!(rule.select(&words), oracle(&words, rate, drop_consecutive), "{round} {rate}");
            }
        }
    }

    #[test]
    fn an_exact_rate_is_kept_to() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let words: Vec<_> =
            (0..3000).map(|_| word(random.random_range(0.0..1.0), random.random_range(1..4), None)).collect();
        let count = |kept: &[bool]| -> usize {
            words.iter().zip(kept).filter(|(_, kept)| **kept).map(|(word, _)| word.tokens).sum()
        };
        let all = count(&vec![true; words.len()]) as f64;
        for rate in [0.03, 0.1, 0.333, 0.8] {
            let kept = count(&Rule { rate, exact: true, drop_consecutive: false }.select(&words)) as f64;
            assert!((kept / all / rate - 1.0).abs() < 0.03, "{rate} {}", kept / all);
        }
    }
}
