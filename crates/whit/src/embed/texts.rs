//! Texts as vectors.

use burn::tensor::{Int, Tensor, TensorData};
use whit_kernels::op;

use super::{EmbedError, Pooling, Sentence, Settings, normalise, pool};
use crate::load::{ModelFiles, Tokenizer};
use crate::methods::Plan;
use crate::nn::attention::Separate;
use crate::nn::encoder::{Encoder, EncoderTokens};
use crate::nn::tempered::Tempered;

/// An encoder of texts with its tokenizer.
#[derive(Debug)]
pub struct Texts {
    model: Encoder,
    tokenizer: Tokenizer,
    pooling: Pooling,
    normalise: bool,
    sentence: Sentence,
    /// The most tokens of a text.
    limit: usize,
    /// How many marks the tokenizer puts before and behind a text.
    marks: [usize; 2],
    /// What the scores of each layer's attention are divided by; 1 behind the end.
    temperatures: Vec<f32>,
}

/// Texts of relative positions have no longest one; their scores take memory by the square.
const LONGEST: usize = 4096;

impl Texts {
    /// An encoder with what its folder says.
    ///
    /// # Errors
    /// If a file is missing or wrong, or the pooling does not fit the model.
    pub fn new(model: Encoder, files: &ModelFiles, settings: Settings) -> Result<Self, EmbedError> {
        let sentence = Sentence::open(files.origin.folder())?;
        let tokenizer = files.tokenizer.clone();
        let tokenizer =
            tokenizer.ok_or_else(|| EmbedError::NoTokenizer { model: files.origin.to_string() })?;
        tokenizer.check_vocabulary(model.config().vocab_size)?;
        let pooling = settings.pooling.or(sentence.pooling).unwrap_or(Pooling::Mean);
        if pooling == Pooling::Own && model.config().projection.is_none() {
            return Err(EmbedError::Pooling { pooling, model: "texts of this model; it is CLIP's" });
        }
        if pooling != Pooling::Own {
            sentence.check(model.config().block.width, files.origin.folder())?;
        }
        let limit = sentence.max_length.unwrap_or(usize::MAX).min(model.config().context()).min(LONGEST);
        Ok(Self {
            marks: marks(&tokenizer)?,
            normalise: settings.normalise.unwrap_or(sentence.normalise),
            model,
            tokenizer,
            pooling,
            sentence,
            limit,
            temperatures: Vec::new(),
        })
    }

    /// The same with the temperatures of `plan`, where it has some.
    #[must_use]
    pub fn with(self, plan: &Plan) -> Self {
        let Some(scale) = plan.begin().scale else { return self };
        let temperatures = (0..self.model.config().layers).map(|layer| scale.temperature(layer)).collect();
        Self { temperatures, ..self }
    }

    /// What stands before a query, and before what is searched, by the model's authors.
    pub fn prompts(&self) -> &[Option<String>; 2] {
        &self.sentence.prompts
    }

    /// The tokens of `text`, shortened in front of its last marks where it is too long.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, EmbedError> {
        let mut ids = self.tokenizer.encode(text, true)?;
        if ids.len() > self.limit {
            let behind = ids.split_off(ids.len() - self.marks[1]);
            ids.truncate(self.limit.saturating_sub(behind.len()));
            ids.extend(behind);
        }
        Ok(ids)
    }

    /// The vectors of `texts`, which go through the model together; none depends on the others.
    ///
    /// # Errors
    /// If a text cannot be encoded, or has no token at all.
    pub fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let rows = texts.iter().map(|text| self.tokens(text)).collect::<Result<Vec<_>, _>>()?;
        if let Some(entry) = rows.iter().position(Vec::is_empty) {
            return Err(EmbedError::Empty { entry });
        }
        let hidden = self.hidden(&rows);
        if self.pooling == Pooling::Own {
            return Ok(self.own(&rows, hidden));
        }
        let (hidden, width) = (op::host(hidden), self.model.config().block.width);
        let mut start = 0;
        let mut vector = |row: &Vec<u32>| {
            let states = &hidden.data()[start * width..(start + row.len()) * width];
            start += row.len();
            self.finish(self.sentence.finish(pool(states, width, self.pooling, 0)))
        };
        Ok(rows.iter().map(&mut vector).collect())
    }

    /// The states of all tokens, row after row: `[tokens, width]`.
    fn hidden(&self, rows: &[Vec<u32>]) -> Tensor<2> {
        let config = self.model.config();
        let positions: Vec<u32> = rows.iter().flat_map(|row| config.positions(row)).collect();
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let ids = rows.concat();
        let tokens = EncoderTokens { ids: &ids, positions: &positions, types: &vec![0; ids.len()] };
        let bias = self.model.relative_bias(longest);
        let separate = Separate { causal: config.causal, bias, ..Separate::new(lengths) };
        self.model.forward(tokens, &mut Tempered::new(separate, self.temperatures.clone()))
    }

    fn own(&self, rows: &[Vec<u32>], hidden: Tensor<2>) -> Vec<Vec<f32>> {
        let mut start = 0;
        let mut place = |row: &Vec<u32>| {
            start += row.len();
            (start - row.len() + self.model.pooled_place(row)) as i64
        };
        let places: Vec<i64> = rows.iter().map(&mut place).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::from(&places[..]), &hidden.device());
        let states = hidden.select(0, index);
        let vectors = op::host(self.model.projected(states.clone()).unwrap_or(states));
        vectors.data().chunks(vectors.width().max(1)).map(|vector| self.finish(vector.to_vec())).collect()
    }

    fn finish(&self, mut vector: Vec<f32>) -> Vec<f32> {
        if self.normalise {
            normalise(&mut vector);
        }
        vector
    }
}

/// How many marks stand before and behind a text: what an empty text gives, parted where a text would stand.
fn marks(tokenizer: &Tokenizer) -> Result<[usize; 2], EmbedError> {
    let (empty, text) = (tokenizer.encode("", true)?, tokenizer.encode("a", true)?);
    let before = empty.iter().zip(&text).take_while(|(a, b)| a == b).count();
    Ok([before, empty.len() - before])
}
