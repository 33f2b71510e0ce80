//! What methods did to images, for people: a page that needs nothing but itself, and maps as pictures.

mod maps;
mod page;

pub use maps::Cells;
pub use page::{page, sections};

use super::Classified;
use crate::load::image::{ImageError, Picture};
use crate::measure::macs::VisionCost;
use crate::methods::reducers::{History, Shares};
use crate::nn::vision::VisionConfig;

/// An image with what became of it.
#[derive(Clone, Debug)]
pub struct Traced {
    /// What it is called.
    pub name: String,
    /// The patches that the model sees, as a picture.
    pub picture: Picture,
    /// What became of its tokens.
    pub history: History,
    /// Its classes without and with the methods, the likeliest first; empty where the model has none.
    pub classes: [Classified; 2],
}

/// The images of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The model's name.
    pub model: String,
    /// What the model is.
    pub config: VisionConfig,
    /// The images in their order.
    pub images: Vec<Traced>,
}

impl Traced {
    /// Whether the likeliest class is the same with and without the methods.
    pub fn agrees(&self) -> bool {
        let [plain, with] = self.classes.each_ref().map(|classes| classes.first().map(|best| &best.label));
        plain == with
    }

    /// The blocks behind which there is something new to see, and the patches there.
    pub fn stages(&self) -> Vec<Shares> {
        self.history.shares()
    }
}

impl Trace {
    /// No image yet, of the model with this name and configuration.
    pub fn new(model: String, config: VisionConfig) -> Self {
        Self { model, config, images: Vec::new() }
    }

    /// Adds an image of which the model sees `picture`.
    pub fn add(&mut self, name: String, picture: &Picture, history: History, classes: [Classified; 2]) {
        let [rows, columns] = self.config.grid([picture.height, picture.width]);
        let [high, wide] = self.config.patch;
        let picture = maps::cropped(picture, [rows * high, columns * wide]);
        self.images.push(Traced { name, picture, history, classes });
    }

    /// Rows and columns of the patches of an image.
    pub fn grid(&self, image: &Traced) -> [usize; 2] {
        self.config.grid([image.picture.height, image.picture.width])
    }

    /// The share of the plain model's multiplications that an image took.
    pub fn cost(&self, image: &Traced) -> f64 {
        let [rows, columns] = self.grid(image);
        let cost = VisionCost { patches: rows * columns, ..VisionCost::of(&self.config) };
        1.0 - cost.saved(&image.history.left)
    }

    /// All maps of all images as PNG files: of the tokens behind each block that changed them, and of what the class
    /// token attended to in the last block, the mean over the heads and each of them. Names and bytes.
    ///
    /// # Errors
    /// If a picture cannot be encoded.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
        let mut files = Vec::new();
        for (number, image) in self.images.iter().enumerate() {
            let name = format!("{:02}-{}", number + 1, plain(&image.name));
            for shares in image.stages() {
                let place =
                    shares.layer.map_or("patches".into(), |layer| format!("tokens-block-{:02}", layer + 1));
                let map = Cells::of(&shares, self.grid(image)).paint(&image.picture);
                files.push((format!("{name}-{place}.png"), map.png()?));
            }
            for (at, values) in image.history.attention_of_patches().iter().enumerate() {
                let place = if at == 0 { "mean".into() } else { format!("head-{at:02}") };
                let map = maps::spotlight(&image.picture, values, self.grid(image));
                files.push((format!("{name}-attention-{place}.png"), map.png()?));
            }
        }
        Ok(files)
    }
}

/// The name of a file without folder and ending, of letters that every system takes.
fn plain(name: &str) -> String {
    let stem = std::path::Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let stem = stem.unwrap_or_default();
    stem.chars().map(|one| if one.is_alphanumeric() || "-_".contains(one) { one } else { '-' }).collect()
}

#[cfg(test)]
mod tests;
