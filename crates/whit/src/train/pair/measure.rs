//! How well a pair tells pictures by words.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Serialize;
use whit_kernels::op;

use super::{Captions, Contrast, Matched, Pair, PairRecipe};
use crate::generate::sampler::argmax;
use crate::train::TrainError;
use crate::world::Pictures;

/// What is written in front of a class, so that it reads as captions do.
pub const TEMPLATE: &str = "a picture of a {}";

/// What was found on held-out pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The share of pictures whose class is the nearest of the classes' texts, which were not learnt.
    pub zero_shot: f64,
    /// What guessing would find.
    pub chance: f64,
    /// The share of pictures whose own caption is the nearest of a batch.
    pub captions: f64,
    /// What guessing would find.
    pub captions_chance: f64,
    /// Held-out pictures.
    pub pictures: usize,
    /// Weights of both encoders.
    pub parameters: usize,
}

impl Figures {
    /// The figures with their names, for tables.
    pub fn rows(&self) -> Vec<(String, String)> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let batch = (1.0 / self.captions_chance).round();
        vec![
            (format!("class of {} pictures told by words", self.pictures), percent(self.zero_shot)),
            ("by guessing".into(), percent(self.chance)),
            (format!("own caption found among {batch}"), percent(self.captions)),
            ("by guessing".into(), percent(self.captions_chance)),
            ("weights".into(), self.parameters.to_string()),
        ]
    }
}

/// Measures `pair`, which is outside autodiff.
///
/// # Errors
/// If a picture cannot be made.
pub fn measure(pair: &Pair, recipe: &PairRecipe, contrast: &Contrast<'_>) -> Result<Figures, TrainError> {
    let device = Device::flex();
    let classes = contrast.held_out.classes();
    let texts: Vec<String> = classes.iter().map(|class| TEMPLATE.replace("{}", class)).collect();
    let described = pair.texts(&Captions::new(&texts, contrast.tokenizer, contrast.context)?, &device);
    let pictures = recipe.held_out / recipe.batch * recipe.batch;
    let (mut named, mut found) = (0, 0);
    for first in (0..pictures).step_by(recipe.batch) {
        let numbers: Vec<usize> = (first..first + recipe.batch).collect();
        let Matched { pixels, captions } = contrast.read(contrast.held_out, &numbers, &device)?;
        let images = pair.images(pixels);
        let answers = nearest(pair, images.clone(), described.clone());
        let class = |number: usize| contrast.held_out.scene(number).class;
        named += answers.iter().zip(&numbers).filter(|(answer, number)| **answer == class(**number)).count();
        let own = nearest(pair, images, pair.texts(&captions, &device));
        found += own.iter().enumerate().filter(|(at, answer)| same(&captions, *at, **answer)).count();
    }
    Ok(Figures {
        zero_shot: named as f64 / pictures as f64,
        chance: 1.0 / classes.len() as f64,
        captions: found as f64 / pictures as f64,
        captions_chance: 1.0 / recipe.batch as f64,
        pictures,
        parameters: pair.num_params(),
    })
}

/// Two pictures may bear the same words; then either caption is right.
fn same(captions: &Captions, a: usize, b: usize) -> bool {
    let row = |at: usize| &captions.ids[at * captions.length..(at + 1) * captions.length];
    row(a) == row(b)
}

/// The text that describes each image best.
fn nearest(pair: &Pair, images: Tensor<2>, texts: Tensor<2>) -> Vec<usize> {
    let logits = op::host(pair.logits(images, texts));
    logits.data().chunks_exact(logits.width()).map(|row| argmax(row) as usize).collect()
}
