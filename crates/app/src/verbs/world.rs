use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use whit::world::folder::{Collection, Export, Format, Written};
use whit::world::scene::{Labels, Style};
use whit::world::{Scene, World};

use crate::context::Context;
use crate::error::AppError;
use crate::interrupt;
use crate::model::bar;

/// Make pictures of which everything is known: scenes, videos, pairs, shapes, volumes
///
/// Writes an ordinary folder: pictures, a metadata.jsonl with a line for each, and a contact sheet. The same
/// seed gives the same files; a run that was stopped goes on when it is called again, and a larger --count adds
/// to what is there.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder to fill
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,

    /// What to make
    #[arg(short, long, value_enum, default_value_t = Kind::Scenes)]
    kind: Kind,

    /// How hard: 1 is one plain object, 5 many with textures, clutter, noise and occlusion
    #[arg(short, long, default_value_t = 3)]
    level: u8,

    /// Pixels on a side, 16 to 256; cells or voxels of shapes and volumes, at most 64
    #[arg(short, long, default_value_t = 64)]
    size: usize,

    /// How many
    #[arg(short, long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,

    /// What everything follows from
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// How objects are drawn
    #[arg(long, value_enum, default_value_t = StyleName::Both)]
    style: StyleName,

    /// What the class says of the largest object
    #[arg(long, value_enum, default_value_t = LabelName::Kind)]
    labels: LabelName,

    /// Pictures in a video
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=64))]
    frames: u32,

    /// For pairs: the side of the large picture divided by that of the small one
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    scale: u32,

    /// How pictures are stored; both keep every bit
    #[arg(long, value_enum, default_value_t = FormatName::Png)]
    format: FormatName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Pictures with captions, classes, boxes, masks, depth, normals and questions
    Scenes,
    /// Short GIFs with captions of the motion, and their frames and masks as safetensors
    Videos,
    /// Pictures in low and high resolution
    Pairs,
    /// Meshes as OBJ and PLY, and points with their signed distance
    Shapes,
    /// Small volumes with the label of each voxel
    Volumes,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StyleName {
    Flat,
    Solid,
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LabelName {
    Kind,
    KindAndColour,
    KindAndTexture,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    Png,
    Webp,
}

/// What was done, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    folder: PathBuf,
    #[serde(flatten)]
    written: Written,
    seconds: f64,
    first_caption: Option<String>,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let export = arguments.export()?;
    let bar = bar(u64::from(arguments.count), "making");
    let (flag, start) = (interrupt::flag(), Instant::now());
    let written = export.write(&arguments.out, |done| {
        bar.set_position(done as u64);
        !flag.load(std::sync::atomic::Ordering::SeqCst)
    });
    bar.finish_and_clear();
    let pictures = matches!(arguments.kind, Kind::Scenes | Kind::Pairs);
    let first_caption = pictures.then(|| Scene::caption(&export.world.sample(0)));
    let seconds = start.elapsed().as_secs_f64();
    let report = Report { folder: arguments.out, written: written?, seconds, first_caption };
    context.emit(&report, || report.text())
}

impl Arguments {
    fn export(&self) -> Result<Export, AppError> {
        let world = World::new(self.seed, self.level, self.size)?.with_style(match self.style {
            StyleName::Flat => Style::Flat,
            StyleName::Solid => Style::Solid,
            StyleName::Both => Style::Both,
        });
        let world = world.with_labels(match self.labels {
            LabelName::Kind => Labels::Kind,
            LabelName::KindAndColour => Labels::KindAndColour,
            LabelName::KindAndTexture => Labels::KindAndTexture,
        });
        let collection = match self.kind {
            Kind::Scenes => Collection::Scenes,
            Kind::Videos => Collection::Videos { frames: self.frames as usize },
            Kind::Pairs => Collection::Pairs { scale: self.scale as usize },
            Kind::Shapes => Collection::Shapes,
            Kind::Volumes => Collection::Volumes,
        };
        let format = match self.format {
            FormatName::Png => Format::Png,
            FormatName::Webp => Format::WebP,
        };
        Ok(Export { world, collection, count: self.count as usize, format })
    }
}

impl Report {
    fn text(&self) -> String {
        let Written { samples, files, kept, bytes } = &self.written;
        let kept = if *kept > 0 { format!(", {kept} kept from before") } else { String::new() };
        let example =
            self.first_caption.as_ref().map(|text| format!("\nthe first: {text}")).unwrap_or_default();
        format!(
            "{samples} samples in {}: {files} files of {:.1} MB written{kept}, {:.1} s\nlook at {}{example}",
            self.folder.display(),
            *bytes as f64 / 1e6,
            self.seconds,
            self.folder.join("sheet.png").display(),
        )
    }
}
