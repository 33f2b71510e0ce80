//! Measuring classifiers of images: the same pictures with and without methods, batch by batch in turns.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::macs::VisionCost;
use super::pairs::{self, Spread};
use super::pareto::{self, Point};
use super::record::{BASELINE, Setting};
use super::sheet;
use super::text::Variant;
use super::write::{self, Column, Row, quoted};
use crate::embed::Images;
use crate::load::image::Picture;
use crate::methods::reducers::{Passes, Recorder};
use crate::methods::{MethodError, Plan};
use crate::nn::reduce::Reducing;

/// What to measure.
#[derive(Debug)]
pub struct VisionTask<'m> {
    /// A model that has classes.
    pub model: &'m Images,
    /// Where and with what; a round is a batch.
    pub setting: Setting,
}

/// What one variant gave, beside the baseline on the same pictures.
#[derive(Clone, Debug, Serialize)]
pub struct VisionRecord {
    /// The task: `vision`.
    pub task: &'static str,
    /// Where and with what it was measured.
    pub setting: Setting,
    /// What the variant is called; `baseline` for no method.
    pub name: String,
    /// The methods with all their knobs.
    pub methods: String,
    /// Pictures.
    pub pictures: usize,
    /// Tokens that leave each block.
    pub tokens: Vec<usize>,
    /// Multiply-adds of a picture, in billions.
    pub gmacs: f64,
    /// The share of the baseline's that is saved.
    pub saved: f64,
    /// Seconds of a picture.
    pub seconds: Spread,
    /// How many times as fast as the baseline, by pairs of the same batch.
    pub speedup: Spread,
    /// The share of pictures whose class is found, where it is known.
    pub accuracy: Option<f64>,
    /// The share of pictures that get the baseline's class.
    pub agreement: f64,
    /// What one should know before believing the numbers.
    pub warnings: Vec<String>,
}

/// Pictures with the numbers of their classes, where they have some.
pub type Labelled = (Vec<Picture>, Option<Vec<usize>>);

/// What is counted of a variant.
#[derive(Clone, Debug, Default)]
struct Count {
    /// Of a picture, batch after batch.
    seconds: Vec<f64>,
    pictures: usize,
    right: usize,
    same: usize,
}

impl VisionTask<'_> {
    /// Measures the baseline and every variant on the batches that `next` gives until it has no more; the baseline's
    /// record comes first.
    ///
    /// # Errors
    /// Those of `next`, and if a method refuses the pictures.
    pub fn measure<E: From<MethodError>>(
        &self,
        baseline: Plan,
        variants: Vec<Variant>,
        next: &mut dyn FnMut() -> Result<Option<Labelled>, E>,
    ) -> Result<Vec<VisionRecord>, E> {
        let first = Variant { name: BASELINE.to_owned(), plan: baseline };
        let all: Vec<Variant> = std::iter::once(first).chain(variants).collect();
        let tokens = all.iter().map(|variant| left(self.model, &variant.plan));
        let tokens: Vec<Vec<usize>> = tokens.collect::<Result<_, _>>()?;
        let (mut counts, mut labelled, mut batch) = (vec![Count::default(); all.len()], true, 0);
        while let Some((pictures, labels)) = next()? {
            let pixels = self.model.batches(&pictures);
            if batch == 0 {
                all.iter().try_for_each(|variant| self.answers(variant, &pixels).map(drop))?;
            }
            self.round(&all, batch, &pixels, labels.as_deref(), &mut counts)?;
            (labelled, batch) = (labelled && labels.is_some(), batch + 1);
        }
        let found = all.iter().zip(&counts).zip(tokens);
        Ok(found
            .map(|((variant, count), tokens)| self.record(variant, (count, &counts[0]), tokens, labelled))
            .collect())
    }

    /// One batch through every variant, in an order that turns.
    fn round(
        &self,
        all: &[Variant],
        batch: usize,
        pixels: &[Tensor<4>],
        labels: Option<&[usize]>,
        counts: &mut [Count],
    ) -> Result<(), MethodError> {
        let mut answers = vec![Vec::new(); all.len()];
        for turn in 0..all.len() {
            let variant = (turn + batch) % all.len();
            let start = Instant::now();
            answers[variant] = self.answers(&all[variant], pixels)?;
            let seconds = start.elapsed().as_secs_f64() / answers[variant].len().max(1) as f64;
            counts[variant].seconds.push(seconds);
        }
        let equal = |a: &[usize], b: &[usize]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        for (count, own) in counts.iter_mut().zip(&answers) {
            count.pictures += own.len();
            count.right += labels.map_or(0, |labels| equal(own, labels));
            count.same += equal(own, &answers[0]);
        }
        Ok(())
    }

    /// The likeliest class of each picture.
    fn answers(&self, variant: &Variant, pixels: &[Tensor<4>]) -> Result<Vec<usize>, MethodError> {
        let passes = Passes::new(&variant.plan, self.model.model().config().specials());
        let mut reduce = |images| passes.begin(images);
        let scores =
            pixels.iter().filter_map(|pixels| self.model.scores(pixels.clone(), &mut reduce)).flatten();
        let answers = scores.map(|scores| best(&scores)).collect();
        passes.finish().map(|()| answers)
    }

    fn record(
        &self,
        variant: &Variant,
        (count, baseline): (&Count, &Count),
        tokens: Vec<usize>,
        labelled: bool,
    ) -> VisionRecord {
        let cost = VisionCost::of(self.model.model().config());
        let share = |part: usize| part as f64 / count.pictures.max(1) as f64;
        let parts = variant.plan.parts().iter();
        let parts: Vec<String> = parts.map(|part| format!("{}:{}", part.spec().id, part.knobs)).collect();
        let mut record = VisionRecord {
            task: "vision",
            setting: Setting { rounds: count.seconds.len(), ..self.setting.clone() },
            name: variant.name.clone(),
            methods: parts.join("+"),
            pictures: count.pictures,
            gmacs: cost.reduced(&tokens) as f64 / 1e9,
            saved: cost.saved(&tokens),
            tokens,
            seconds: Spread::of(&count.seconds),
            speedup: pairs::ratio(&baseline.seconds, &count.seconds),
            accuracy: labelled.then(|| share(count.right)),
            agreement: share(count.same),
            warnings: Vec::new(),
        };
        record.judge();
        record
    }
}

fn best(scores: &[f32]) -> usize {
    let better = |best: usize, at: usize| if scores[at] > scores[best] { at } else { best };
    (0..scores.len()).fold(0, better)
}

/// How many tokens leave each block by a plan, on an image of the model's own size.
///
/// # Errors
/// If a method refuses the image.
pub fn left(model: &Images, plan: &Plan) -> Result<Vec<usize>, MethodError> {
    let (model, recorder) = (model.model(), Recorder::new(model.model().config().layers));
    let config = model.config();
    let [height, width] = config.image;
    let passes = Passes::new(plan, config.specials());
    let pixels = Tensor::ones([1, config.channels, height, width], &Device::flex());
    model.forward(pixels, &mut Reducing::new(1, passes.watched(1, &recorder).as_mut()));
    passes.finish()?;
    Ok(recorder.take().pop().map(|history| history.left).unwrap_or_default())
}

/// The list of removals, as even as can be over the blocks, with which a method costs nearest to `share` of the plain
/// model; `plan` makes its plan of a list.
///
/// # Errors
/// If a plan cannot be made, or the method refuses the image.
pub fn paced<E: From<MethodError>>(
    model: &Images,
    share: f64,
    plan: &dyn Fn(&str) -> Result<Plan, E>,
) -> Result<String, E> {
    let cost = VisionCost::of(model.model().config());
    let list = |total: usize| even(total, cost.layers);
    let costs =
        |total: usize| -> Result<f64, E> { Ok(1.0 - cost.saved(&left(model, &plan(&list(total))?)?)) };
    // The cost falls as the total grows: `low` costs more than the share, `high` at most as much.
    let (mut low, mut high) = (0, cost.patches);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if costs(middle)? > share { low = middle } else { high = middle }
    }
    let nearer = (costs(low)? - share).abs() < (costs(high)? - share).abs();
    Ok(list(if nearer { low } else { high }))
}

/// So many removals over all blocks.
fn even(total: usize, layers: usize) -> String {
    let count = |layer: usize| (total * (layer + 1) / layers - total * layer / layers).to_string();
    (0..layers).map(count).collect::<Vec<_>>().join("|")
}

impl VisionRecord {
    /// Judges the numbers: what is too noisy to believe, and where there is no gain.
    fn judge(&mut self) {
        if self.name != BASELINE && self.speedup.median < 1.02 {
            self.warnings
                .push(format!("no gain here: {:.2} times the baseline's speed", self.speedup.median));
        }
        if self.speedup.spread > 0.15 {
            let percent = 100.0 * self.speedup.spread;
            self.warnings.push(format!(
                "noisy: the middle half of the speed-ups spreads over {percent:.0} %; take more pictures"
            ));
        }
        if self.pictures < 300 {
            self.warnings.push(format!("{} pictures: shares are known to a few points only", self.pictures));
        }
    }

    /// What was found right, or where the classes are unknown the same as without methods.
    fn quality(&self) -> f64 {
        self.accuracy.unwrap_or(self.agreement)
    }

    fn point(&self, cost: f64) -> Point {
        // `NAME at 60 %` is a pace of the variant NAME; without one, knobs tell the variants of a method apart.
        let variant = self.name.rsplit_once(" at ").map(|(variant, _)| variant);
        let family = variant.unwrap_or_else(|| self.methods.split(':').next().unwrap_or_default());
        Point { name: self.name.clone(), family: family.to_owned(), cost, gain: self.quality() }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

impl Row for VisionRecord {
    const COLUMNS: &'static [Column<Self>] = &[
        ("methods", |record| record.name.clone()),
        ("tokens at the end", |record| record.tokens.last().map_or(String::new(), ToString::to_string)),
        ("GMACs", |record| format!("{:.3}", record.gmacs)),
        ("saved", |record| percent(record.saved)),
        ("ms a picture", |record| format!("{:.2}", 1e3 * record.seconds.median)),
        ("speed-up", |record| record.speedup.to_string()),
        ("right", |record| record.accuracy.map_or("–".into(), percent)),
        ("same class", |record| percent(record.agreement)),
    ];

    const VALUES: &'static [Column<Self>] = &[
        ("time", |record| record.setting.time.to_string()),
        ("model", |record| quoted(&record.setting.model)),
        ("dtype", |record| record.setting.dtype.clone()),
        ("threads", |record| record.setting.threads.to_string()),
        ("processor", |record| quoted(&record.setting.processor)),
        ("name", |record| quoted(&record.name)),
        ("methods", |record| quoted(&record.methods)),
        ("pictures", |record| record.pictures.to_string()),
        ("tokens", |record| record.tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join("|")),
        ("gmacs", |record| record.gmacs.to_string()),
        ("saved", |record| record.saved.to_string()),
        ("seconds", |record| record.seconds.median.to_string()),
        ("spread", |record| record.seconds.spread.to_string()),
        ("speedup", |record| record.speedup.median.to_string()),
        ("accuracy", |record| record.accuracy.map_or(String::new(), |share| share.to_string())),
        ("agreement", |record| record.agreement.to_string()),
        ("warnings", |record| quoted(&record.warnings.join("; "))),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// A page with the table and two plots: quality against multiplications and against time.
pub fn page(title: &str, records: &[VisionRecord]) -> String {
    let quality = match records.first().and_then(|record| record.accuracy) {
        Some(_) => "pictures whose class is found",
        None => "pictures that get the plain model's class",
    };
    let plot = |cost: &dyn Fn(&VisionRecord) -> f64, name: &str| {
        let points: Vec<Point> = records.iter().map(|record| record.point(cost(record))).collect();
        format!("<h2>Against {name}</h2>{}", pareto::plot(&points, [name, quality]))
    };
    let legend = "<p class=legend><span>Up and to the left is better. The green line joins the variants that no other \
                  one beats in both; grey ones are beaten. Thin lines join the paces of one method.</span></p>";
    let body = [
        sheet::heading(title),
        records.first().map(|record| record.setting.html()).unwrap_or_default(),
        write::table(records),
        legend.to_owned(),
        plot(&|record| record.gmacs, "billions of multiplications a picture"),
        plot(&|record| 1e3 * record.seconds.median, "milliseconds a picture"),
        write::warnings(records),
    ];
    sheet::page(title, "", &body.concat())
}

#[cfg(test)]
mod tests;
