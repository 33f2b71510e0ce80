//! A text that a sequence is made to write, while it is written down what the model would have said: the
//! losses and the first choices of the model under whatever methods are on, in the loop that also generates.

/// What the model thought of a dictated token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heard {
    /// The token's negative log-probability, in nats.
    pub loss: f32,
    /// Whether the model's first choice was this token.
    pub agreed: bool,
}

/// Tokens to be written, and what was heard so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dictation {
    tokens: Vec<u32>,
    heard: Vec<Heard>,
}

impl Dictation {
    /// A dictation of `tokens`.
    pub fn new(tokens: Vec<u32>) -> Self {
        Self { heard: Vec::with_capacity(tokens.len()), tokens }
    }

    /// The next token, if there is one, whatever the `logits` `[vocabulary]` of the model say.
    pub fn next(&mut self, logits: &[f32]) -> Option<u32> {
        let token = *self.tokens.get(self.heard.len())?;
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - top).exp()).sum();
        let own = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let loss = sum.ln() as f32 + top - own;
        self.heard.push(Heard { loss, agreed: super::sampler::argmax(logits) == token });
        Some(token)
    }

    /// What was heard, in the order of the tokens.
    pub fn heard(self) -> Vec<Heard> {
        self.heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dictated_is_written_and_judged() {
        let mut dictation = Dictation::new(vec![1, 0]);
        assert_eq!(dictation.next(&[0.0, 3f32.ln()]), Some(1));
        assert_eq!(dictation.next(&[0.0, 3f32.ln()]), Some(0));
        assert_eq!(dictation.next(&[0.0, 0.0]), None);
        let [right, wrong] = dictation.heard()[..] else { panic!("two were dictated") };
        assert!(right.agreed && (right.loss - (4f32 / 3.0).ln()).abs() < 1e-6, "{right:?}");
        assert!(!wrong.agreed && (wrong.loss - 4f32.ln()).abs() < 1e-6, "{wrong:?}");
    }
}
