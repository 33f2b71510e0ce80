//! From an image to what a model takes, as `preprocessor_config.json` says.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::super::file::read_json_if_present;
use super::resample::Filter;
use super::{ImageError, Picture};

/// The steps between an image and a model, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessor {
    /// To which size, and how, the image is brought.
    pub resize: Option<(Size, Filter)>,
    /// Height and width of the part in the middle that is kept; what an image lacks is black.
    pub crop: Option<[usize; 2]>,
    /// How a margin of the crop is halved that is odd.
    pub odd: Odd,
    /// What colours from 0 to 255 are multiplied with.
    pub rescale: Option<f64>,
    /// Mean and standard deviation of each colour, taken off and divided by.
    pub normalise: Option<([f32; 3], [f32; 3])>,
}

/// The size that an image is brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Height and width, whatever the image's shape.
    Exact([usize; 2]),
    /// The shorter side; the other follows.
    Shortest(usize),
}

/// How half of an odd number becomes whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Odd {
    /// Down, as transformers' processors do.
    #[default]
    Down,
    /// To the even number, as torchvision's do.
    Even,
}

/// What a model takes: colours one after the other, `[3, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The values.
    pub values: Vec<f32>,
}

/// Sides beyond this are mistakes.
const LARGEST: usize = 1 << 13;

/// The means and deviations of ImageNet's colours, and of the texts' images that CLIP learned from.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const OPENAI: ([f32; 3], [f32; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);
const HALVES: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);

#[derive(Deserialize)]
struct File {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Sides>,
    resample: Option<u64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Sides>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

/// How timm prepares images.
#[derive(Deserialize)]
struct Prepared {
    input_size: Option<[usize; 3]>,
    crop_pct: Option<f64>,
    crop_mode: Option<String>,
    interpolation: Option<String>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

/// One number, as old files have it, or named sides.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Sides {
    One(usize),
    Named {
        height: Option<usize>,
        width: Option<usize>,
        shortest_edge: Option<usize>,
        longest_edge: Option<usize>,
    },
}

impl Preprocessor {
    /// What ViT's processor does where its file says nothing.
    pub fn vit(side: usize) -> Self {
        Self {
            resize: Some((Size::Exact([side; 2]), Filter::Bilinear)),
            crop: None,
            odd: Odd::Down,
            rescale: Some(1.0 / 255.0),
            normalise: Some(HALVES),
        }
    }

    fn deit() -> Self {
        Self {
            resize: Some((Size::Exact([256; 2]), Filter::Bicubic)),
            crop: Some([224; 2]),
            normalise: Some(IMAGENET),
            ..Self::vit(224)
        }
    }

    fn clip() -> Self {
        Self {
            resize: Some((Size::Shortest(224), Filter::Bicubic)),
            crop: Some([224; 2]),
            normalise: Some(OPENAI),
            ..Self::vit(224)
        }
    }

    /// What `preprocessor_config.json` in `folder` says, or without one timm's `config.json`; none where neither does.
    ///
    /// # Errors
    /// If the file cannot be read, or asks for what is not done here.
    pub fn open(folder: &Path) -> Result<Option<Self>, ImageError> {
        let path = folder.join("preprocessor_config.json");
        if let Some(json) = read_json_if_present::<Value>(&path)? {
            return Self::from_json(&json, &path).map(Some);
        }
        let path = folder.join("config.json");
        let config: Value = read_json_if_present(&path)?.unwrap_or_default();
        match config.get("pretrained_cfg") {
            Some(prepared) if config.get("architecture").is_some() => Self::timm(prepared, &path).map(Some),
            _ => Ok(None),
        }
    }

    /// Reads the settings; `path` is for errors.
    ///
    /// # Errors
    /// If they ask for what is not done here.
    pub fn from_json(json: &Value, path: &Path) -> Result<Self, ImageError> {
        let wrong = Wrong(path.to_owned());
        let file = File::deserialize(json).map_err(|reason| {
            wrong.error("preprocessor_config.json", reason, "it must be the settings of an image processor")
        })?;
        let defaults = file.defaults(&wrong)?;
        let filter = match file.resample {
            None => defaults.resize.map_or(Filter::Bilinear, |(_, filter)| filter),
            Some(number) => Filter::from_number(number)
                .ok_or_else(|| wrong.error("resample", number, "it must lie between 0 and 5"))?,
        };
        let (mean, deviation) = defaults.normalise.unwrap_or(HALVES);
        let (mean, deviation) = (file.image_mean.unwrap_or(mean), file.image_std.unwrap_or(deviation));
        if deviation.contains(&0.0) {
            return Err(wrong.error("image_std", "0", "colours are divided by it"));
        }
        let factor = file.rescale_factor.unwrap_or(1.0 / 255.0);
        let given = |given: Option<bool>, default: bool| given.unwrap_or(default);
        let size = file.size(&defaults, &wrong)?;
        Ok(Self {
            resize: given(file.do_resize, true).then_some((size, filter)),
            crop: match given(file.do_center_crop, defaults.crop.is_some()) {
                true => Some(file.crop(&defaults, &wrong)?),
                false => None,
            },
            odd: Odd::Down,
            rescale: given(file.do_rescale, true).then_some(factor),
            normalise: given(file.do_normalize, true).then_some((mean, deviation)),
        })
    }

    /// Reads what timm's `config.json` says of the images that a model was trained on.
    fn timm(json: &Value, path: &Path) -> Result<Self, ImageError> {
        let wrong = Wrong(path.to_owned());
        let read = Prepared::deserialize(json);
        let Prepared { input_size, crop_pct, crop_mode, interpolation, mean, std } = read
            .map_err(|reason| wrong.error("pretrained_cfg", reason, "it must say how images are prepared"))?;
        let [_, height, width] = input_size.unwrap_or([3, 224, 224]);
        let crop = wrong.check("input_size", [height, width])?;
        let share = crop_pct.unwrap_or(0.875);
        if !(0.1..=1.0).contains(&share) {
            return Err(wrong.error("crop_pct", share, "it must lie between 0.1 and 1"));
        }
        let whole = |side: usize| (side as f64 / share).floor() as usize;
        let size = match crop_mode.as_deref() {
            None | Some("center") if height == width => Size::Shortest(whole(height)),
            Some("squash") => Size::Exact([whole(height), whole(width)]),
            mode => {
                let found = mode.unwrap_or("center, of images that are not square");
                return Err(wrong.error(
                    "crop_mode",
                    found,
                    "squash is supported, and center for square images",
                ));
            }
        };
        let filter = match interpolation.as_deref() {
            None | Some("bicubic") => Filter::Bicubic,
            Some("bilinear") => Filter::Bilinear,
            Some(other) => {
                return Err(wrong.error("interpolation", other, "bicubic and bilinear are supported"));
            }
        };
        Ok(Self {
            resize: Some((size, filter)),
            crop: Some(crop),
            odd: Odd::Even,
            rescale: Some(1.0 / 255.0),
            normalise: Some((mean.unwrap_or(IMAGENET.0), std.unwrap_or(IMAGENET.1))),
        })
    }

    /// What a model sees of `picture`, still as a picture.
    pub fn view<'a>(&self, picture: &'a Picture) -> Cow<'a, Picture> {
        let resized = match self.resize {
            Some((size, filter)) => Cow::Owned(picture.resize(size.of(picture), filter)),
            None => Cow::Borrowed(picture),
        };
        match self.crop {
            Some(size) => Cow::Owned(resized.crop(size, self.odd)),
            None => resized,
        }
    }

    /// The values that a model takes of `picture`.
    pub fn apply(&self, picture: &Picture) -> Pixels {
        let cropped = self.view(picture);
        let colour =
            |colour: usize| cropped.rgb.iter().skip(colour).step_by(3).map(move |&v| self.value(colour, v));
        let values = (0..3).flat_map(colour).collect();
        Pixels { height: cropped.height, width: cropped.width, values }
    }

    fn value(&self, colour: usize, value: u8) -> f32 {
        let value = match self.rescale {
            Some(factor) => (f64::from(value) * factor) as f32,
            None => f32::from(value),
        };
        match self.normalise {
            Some((mean, deviation)) => (value - mean[colour]) / deviation[colour],
            None => value,
        }
    }
}

impl Size {
    /// Height and width that `picture` is brought to.
    fn of(self, picture: &Picture) -> [usize; 2] {
        let (height, width) = (picture.height, picture.width);
        match self {
            Self::Exact(size) => size,
            Self::Shortest(short) => {
                let long = |long: usize, by: usize| ((short * long) as f64 / by as f64) as usize;
                if width <= height { [long(height, width), short] } else { [short, long(width, height)] }
            }
        }
    }
}

impl Picture {
    /// The middle of the image; where it is smaller, black surrounds it.
    pub fn crop(&self, [height, width]: [usize; 2], odd: Odd) -> Self {
        let start = |have: usize, want: usize| {
            let (have, want) = (have as i64, want as i64);
            // As the original has it: the margin of a smaller image is larger above and on the left.
            match (have - want) / 2 {
                _ if want > have => -((want - have + 1) / 2),
                half if odd == Odd::Even && (have - want) % 2 == 1 => half + half % 2,
                half => half,
            }
        };
        let (top, left) = (start(self.height, height), start(self.width, width));
        let mut rgb = vec![0; height * width * 3];
        for (row, line) in rgb.chunks_exact_mut(width * 3).enumerate() {
            let Some(from) = inside(top + row as i64, self.height) else { continue };
            for (column, pixel) in line.chunks_exact_mut(3).enumerate() {
                if let Some(column) = inside(left + column as i64, self.width) {
                    pixel.copy_from_slice(&self.rgb[(from * self.width + column) * 3..][..3]);
                }
            }
        }
        Self { width, height, rgb }
    }
}

fn inside(at: i64, size: usize) -> Option<usize> {
    usize::try_from(at).ok().filter(|at| *at < size)
}

impl File {
    fn kind(&self) -> &str {
        self.image_processor_type
            .as_deref()
            .or(self.feature_extractor_type.as_deref())
            .unwrap_or("ViTImageProcessor")
    }

    /// What the processor does where its file says nothing.
    fn defaults(&self, wrong: &Wrong) -> Result<Preprocessor, ImageError> {
        let kind = self.kind();
        let plain = ["ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"]
            .into_iter()
            .find_map(|ending| kind.strip_suffix(ending));
        match plain {
            Some("ViT") => Ok(Preprocessor::vit(224)),
            Some("DeiT") => Ok(Preprocessor::deit()),
            Some("CLIP" | "Bit" | "ChineseCLIP") => Ok(Preprocessor::clip()),
            _ => Err(wrong.error(
                "image_processor_type",
                kind,
                "supported are those of ViT, DeiT, CLIP and BiT",
            )),
        }
    }

    fn size(&self, defaults: &Preprocessor, wrong: &Wrong) -> Result<Size, ImageError> {
        let default = defaults.resize.map_or(Size::Exact([224; 2]), |(size, _)| size);
        let size = match self.size {
            None => default,
            Some(Sides::One(side)) => match default {
                Size::Shortest(_) => Size::Shortest(side),
                Size::Exact(_) => Size::Exact([side; 2]),
            },
            Some(Sides::Named { shortest_edge: Some(side), longest_edge: None, .. }) => Size::Shortest(side),
            Some(Sides::Named { height: Some(height), width: Some(width), .. }) => {
                Size::Exact([height, width])
            }
            Some(_) => {
                return Err(wrong.error(
                    "size",
                    "of another kind",
                    "it must have height and width, or shortest_edge",
                ));
            }
        };
        let sides = match size {
            Size::Exact(sides) => sides,
            Size::Shortest(side) => [side; 2],
        };
        wrong.check("size", sides)?;
        Ok(size)
    }

    fn crop(&self, defaults: &Preprocessor, wrong: &Wrong) -> Result<[usize; 2], ImageError> {
        let sides = match self.crop_size {
            None => defaults.crop.unwrap_or([224; 2]),
            Some(Sides::One(side)) => [side; 2],
            Some(Sides::Named { height: Some(height), width: Some(width), .. }) => [height, width],
            Some(_) => {
                return Err(wrong.error("crop_size", "of another kind", "it must have height and width"));
            }
        };
        wrong.check("crop_size", sides)
    }
}

/// Makes errors about one file.
struct Wrong(PathBuf);

impl Wrong {
    fn error(&self, field: &'static str, found: impl ToString, allowed: &'static str) -> ImageError {
        ImageError::Config { path: self.0.clone(), field, found: found.to_string(), allowed }
    }

    fn check(&self, field: &'static str, sides: [usize; 2]) -> Result<[usize; 2], ImageError> {
        if sides.iter().all(|side| (1..=LARGEST).contains(side)) {
            return Ok(sides);
        }
        Err(self.error(field, format!("{sides:?}"), "sides must lie between 1 and 8192"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: Value) -> Result<Preprocessor, String> {
        Preprocessor::from_json(&json, Path::new("preprocessor_config.json"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_processor_fills_in_what_its_file_leaves_out() {
        let clip =
            read(json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336}));
        let clip = clip.unwrap();
        assert_eq!((clip.resize, clip.crop), (Some((Size::Shortest(336), Filter::Bicubic)), Some([336; 2])));
        let vit = read(json!({"image_processor_type": "ViTImageProcessorFast", "size": 384})).unwrap();
        assert_eq!((vit.resize, vit.crop), (Some((Size::Exact([384; 2]), Filter::Bilinear)), None));
        let deit =
            read(json!({"image_processor_type": "DeiTImageProcessor", "do_center_crop": false})).unwrap();
        assert_eq!((deit.crop, deit.normalise), (None, Some(IMAGENET)));
    }

    #[test]
    fn the_shorter_side_is_met_and_the_longer_cut_down() {
        let picture = Picture { width: 30, height: 20, rgb: vec![0; 1800] };
        assert_eq!(Size::Shortest(7).of(&picture), [7, 10]);
        assert_eq!(Size::Exact([3, 4]).of(&picture), [3, 4]);
    }

    #[test]
    fn a_small_image_is_surrounded_by_black() {
        let picture = Picture { width: 1, height: 2, rgb: vec![9; 6] };
        let red: Vec<u8> = picture.crop([3, 4], Odd::Down).rgb.into_iter().step_by(3).collect();
        assert_eq!(red, [0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 9, 0]);
        let row = Picture { width: 4, height: 1, rgb: (0..12).collect() };
        assert_eq!(row.crop([1, 1], Odd::Down).rgb, [3, 4, 5]);
    }

    #[test]
    fn wrong_settings_are_named() {
        for (json, name) in [
            (json!({"image_processor_type": "DonutImageProcessor"}), "DonutImageProcessor"),
            (json!({"size": {"longest_edge": 3}}), "size"),
            (json!({"size": {"height": 0, "width": 3}}), "[0, 3]"),
            (json!({"resample": 9}), "resample"),
            (json!({"image_std": [1.0, 0.0, 1.0]}), "image_std"),
            (json!({"image_mean": "grey"}), "preprocessor_config.json"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
