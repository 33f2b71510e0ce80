//! Images for vision models: decoding, and what stands in `preprocessor_config.json`.
//!
//! Resizing equals Pillow's to the bit, since models were trained on what it computes. Transparent parts are
//! laid on white, and the orientation that a camera wrote down is followed, as transformers does both.

mod preprocess;
mod resample;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageReader};
use thiserror::Error;

pub use preprocess::{Odd, Pixels, Preprocessor};
pub use resample::Filter;

use super::LoadError;
use super::file::read_bounded;

/// Largest image file accepted, in bytes.
const FILE_LIMIT: u64 = 256 << 20;

/// The endings of files that are taken for images in a folder.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "gif"];

/// Why an image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The bytes are no image of a known kind, or a damaged one.
    #[error("{path} cannot be decoded as an image: {reason}; PNG, JPEG, WebP and GIF are read")]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },
    /// A picture that cannot be stored.
    #[error("cannot encode a picture: {0}")]
    Encode(String),
    /// `preprocessor_config.json` asks for what is not done here.
    #[error("{path}: `{field}` is {found}; {allowed}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        allowed: &'static str,
    },
}

/// An image of eight bits a colour, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]`: red, green, blue.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Reads an image file; of an animation, the first picture.
    ///
    /// # Errors
    /// If the file cannot be read, is no image, or would take more memory than any honest image.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        Self::decode(&read_bounded(path, FILE_LIMIT)?, path)
    }

    /// As [`open`](Self::open), from bytes; `path` is for errors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, ImageError> {
        let failed = |reason: String| ImageError::Decode { path: path.to_owned(), reason };
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
        let reader = reader.map_err(|reason| failed(reason.to_string()))?;
        let decoded = reader.into_decoder().and_then(|mut decoder| {
            let orientation = decoder.orientation()?;
            let mut image = DynamicImage::from_decoder(decoder)?;
            image.apply_orientation(orientation);
            Ok(image)
        });
        let image = decoded.map_err(|reason| failed(reason.to_string()))?;
        if image.width() == 0 || image.height() == 0 {
            return Err(failed("it has no pixels".into()));
        }
        Ok(Self::from(&image))
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// If it is too large for one.
    pub fn png(&self) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Cursor::new(Vec::new());
        let (width, height) = (self.width as u32, self.height as u32);
        let failed = |reason: image::ImageError| ImageError::Encode(reason.to_string());
        let colours = image::ExtendedColorType::Rgb8;
        let format = image::ImageFormat::Png;
        image::write_buffer_with_format(&mut bytes, &self.rgb, width, height, colours, format)
            .map_err(failed)?;
        Ok(bytes.into_inner())
    }

    /// The image files of a folder, by name.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn list(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
        let failed = |reason| LoadError::io("list", folder, reason);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
            if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

impl From<&DynamicImage> for Picture {
    fn from(image: &DynamicImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let rgb = if image.color().has_alpha() {
            let rgba = eight_bits(image).into_rgba8();
            rgba.pixels().flat_map(|pixel| on_white(pixel.0)).collect()
        } else {
            eight_bits(image).into_rgb8().into_raw()
        };
        Self { width, height, rgb }
    }
}

/// The upper byte of sixteen-bit colours, as Pillow takes it.
fn eight_bits(image: &DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) => {
            let mut rgba = image.to_rgba16();
            rgba.iter_mut().for_each(|value| *value = (*value >> 8) * 257);
            DynamicImage::ImageRgba16(rgba)
        }
        other => other.clone(),
    }
}

/// A pixel over white, in Pillow's fixed point.
fn on_white([red, green, blue, alpha]: [u8; 4]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    [red, green, blue].map(|value| {
        let sum = 128 * (u32::from(value) * alpha + 255 * (255 - alpha)) + (128 << 7);
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_transparent_lies_on_white() {
        assert_eq!(on_white([10, 20, 30, 0]), [255; 3]);
        assert_eq!(on_white([10, 20, 30, 255]), [10, 20, 30]);
        assert_eq!(on_white([0, 255, 100, 128]), [127, 255, 177]);
    }

    #[test]
    fn what_is_no_image_is_named() {
        let error = Picture::decode(b"hello", Path::new("a.png")).unwrap_err().to_string();
        assert!(error.contains("a.png") && error.contains("PNG"), "{error}");
        let error = Picture::open(Path::new("/nowhere/a.png")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/a.png"), "{error}");
    }
}
