//! Tables of names: what the blocks of an encoder ask for, and where files have it.

use std::ops::Range;

use super::Stored;
use crate::nn::vars::{Init, Source, VarsError};
use whit_kernels::linear::WeightType;

/// How a family of checkpoints names what the blocks ask for.
#[derive(Debug)]
pub struct Names {
    /// A tensor that all files of the family have, below the prefix.
    pub probe: &'static str,
    /// What may stand before the names of a model that has a head around it.
    pub prefixes: &'static [&'static str],
    /// What stands before the parts of block 0, by release; `0` is the block's number.
    pub layers: &'static [&'static str],
    /// Parts: ours and theirs. The first that is there counts, else the first.
    pub parts: &'static [Part],
}

/// One part of a model under both names, without the last word (`weight`) unless it has none.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// What the blocks ask for.
    ours: &'static str,
    /// The name in files; not below the prefix where it begins with `^`.
    theirs: &'static str,
    /// Which of how many equal parts of the file's rows it is.
    share: Option<(usize, usize)>,
}

/// A part that has a tensor of its own.
pub(super) const fn part(ours: &'static str, theirs: &'static str) -> Part {
    Part { ours, theirs, share: None }
}

/// A part that is the `index`-th of `count` equal parts of a tensor's rows.
pub(super) const fn share(ours: &'static str, theirs: &'static str, index: usize, count: usize) -> Part {
    Part { ours, theirs, share: Some((index, count)) }
}

/// A checkpoint whose tensors are asked for under our names.
pub(super) struct Named<'a> {
    stored: Stored<'a>,
    names: &'static Names,
    prefix: &'static str,
}

struct Place {
    name: String,
    share: Option<(usize, usize)>,
}

impl<'a> Named<'a> {
    /// The tensors of `stored`, by the first of `families` that they belong to.
    pub(super) fn new(stored: Stored<'a>, families: &'static [Names]) -> Self {
        let fits = |names: &'static Names| {
            let found = |prefix: &&&str| stored.has(&format!("{prefix}{}", names.probe));
            Some((names, *names.prefixes.iter().find(found)?))
        };
        let (names, prefix) =
            families.iter().find_map(fits).unwrap_or((&families[0], families[0].prefixes[0]));
        Self { stored, names, prefix }
    }

    fn place(&self, name: &str) -> Place {
        let (layer, rest) = match name.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => (Some(layer), rest),
            None => (None, name),
        };
        let mut places = self.names.parts.iter().filter_map(|part| {
            let leaf = rest.strip_prefix(part.ours)?;
            (leaf.is_empty() || leaf.starts_with('.')).then(|| self.spelled(part, layer, leaf))
        });
        let plain = || Place { name: format!("{}{name}", self.prefix), share: None };
        let first = places.next().unwrap_or_else(plain);
        if self.stored.has(&first.name) {
            return first;
        }
        places.find(|place| self.stored.has(&place.name)).unwrap_or(first)
    }

    /// The name of `part` in the release whose file this is.
    fn spelled(&self, part: &Part, layer: Option<&str>, leaf: &str) -> Place {
        let named = |stack: &str| match part.theirs.strip_prefix('^') {
            Some(outside) => format!("{outside}{leaf}"),
            None => format!("{}{stack}{}{leaf}", self.prefix, part.theirs),
        };
        let name = match layer {
            None => named(""),
            Some(layer) => {
                let spelled = |stack: &&str| named(&stack.replacen('0', layer, 1));
                let found = self.names.layers.iter().map(spelled).find(|name| self.stored.has(name));
                found.unwrap_or_else(|| self.names.layers.first().map_or_else(|| named(""), spelled))
            }
        };
        Place { name, share: part.share }
    }
}

impl Source for Named<'_> {
    /// The first size and the number of values must agree: files shape tokens `[1, 1, width]` and patches as
    /// a convolution does.
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        let place = self.place(name);
        let Some(info) = self.stored.0.info(&place.name) else { return Err(VarsError::Missing(place.name)) };
        let mut wanted = shape.to_vec();
        if let (Some((_, count)), Some(rows)) = (place.share, wanted.first_mut()) {
            *rows *= count;
        }
        let first = |shape: &[usize]| shape.iter().copied().find(|size| *size != 1);
        let same = first(&info.shape) == first(&wanted)
            && info.shape.iter().product::<usize>() == wanted.iter().product::<usize>();
        if same { Ok(()) } else { Err(VarsError::Shape { name: place.name, found: info.shape, wanted }) }
    }

    fn has(&self, name: &str) -> bool {
        self.stored.has(&self.place(name).name)
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.stored.shape(&self.place(name).name)
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let place = self.place(name);
        let shape = self.stored.shape(&place.name).ok_or_else(|| VarsError::Missing(place.name.clone()))?;
        let total: usize = shape.iter().product();
        let first = place.share.map_or(0, |(index, count)| total / count * index);
        let values = first + rows.start * width..first + rows.end * width;
        let stride: usize = shape.iter().skip(1).product::<usize>().max(1);
        if values.start.is_multiple_of(stride) && values.end.is_multiple_of(stride) {
            return self.stored.rows(&place.name, values.start / stride..values.end / stride, stride, init);
        }
        let whole = self.stored.rows(&place.name, 0..shape.first().copied().unwrap_or(1), stride, init)?;
        Ok(whole[values].to_vec())
    }

    fn native(&self, name: &str) -> WeightType {
        match self.stored.native(&self.place(name).name) {
            kind @ (WeightType::F32 | WeightType::Bf16) => kind,
            _ => WeightType::F32,
        }
    }
}
