use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Component, Path, PathBuf};

use image::imageops::{FilterType, crop_imm, resize};
use image::{ImageReader, Limits, RgbImage};
use serde_json::Value;

use super::FolderError;
use crate::world::pictures::{Picture, Pictures};

/// The largest picture that is opened, in pixels on a side.
const WIDEST: u32 = 16_384;
/// The most memory that one picture may take while it is read, in bytes.
const MEMORY: u64 = 1 << 30;
/// The longest line of metadata that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// A folder of pictures. Their files are opened when they are asked for.
#[derive(Clone, Debug)]
pub struct Folder {
    entries: Vec<Entry>,
    classes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: PathBuf,
    class: Option<String>,
    caption: Option<String>,
}

impl Folder {
    /// Lists the pictures of a folder: those that `metadata.jsonl` names (`file_name`, and if there are `text`
    /// or `caption`, and `label`), or else those in a folder for each class, or else those in the folder itself.
    ///
    /// # Errors
    /// If the folder cannot be read, its metadata is wrong, or there is no picture.
    pub fn open(folder: &Path) -> Result<Self, FolderError> {
        let metadata = folder.join("metadata.jsonl");
        let entries = if metadata.is_file() { listed(folder, &metadata)? } else { found(folder)? };
        if entries.is_empty() {
            return Err(FolderError::Empty(folder.to_owned()));
        }
        let names: BTreeSet<&String> = entries.iter().filter_map(|entry| entry.class.as_ref()).collect();
        let mut classes: Vec<String> = names.into_iter().cloned().collect();
        // Numbers sort as numbers.
        classes.sort_by_key(|name| name.parse::<u64>().ok());
        Ok(Self { entries, classes })
    }

    /// The file of a picture.
    pub fn path(&self, number: usize) -> Option<&Path> {
        self.entries.get(number).map(|entry| entry.path.as_path())
    }

    /// The name of a picture's class, if it has one.
    pub fn class(&self, number: usize) -> Option<&str> {
        self.entries.get(number)?.class.as_deref()
    }
}

impl Pictures for Folder {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn classes(&self) -> Vec<String> {
        self.classes.clone()
    }

    /// The middle square of the file's picture, averaged down (or interpolated up) to the size.
    fn picture(&self, number: usize, size: usize) -> Result<Picture, FolderError> {
        let missing = FolderError::NoSuchPicture { number, count: self.entries.len() };
        let entry = self.entries.get(number).ok_or(missing)?;
        let label = entry.class.as_ref().and_then(|class| self.classes.iter().position(|name| name == class));
        let image = planes(&square(&open(&entry.path)?, size as u32));
        Ok(Picture { image, label, caption: entry.caption.clone(), subject: None })
    }
}

/// The file as red, green and blue; what is transparent becomes white.
fn open(path: &Path) -> Result<RgbImage, FolderError> {
    let broken = |reason: image::ImageError| FolderError::NotAPicture {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let mut reader = ImageReader::open(path).map_err(FolderError::file(path))?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(WIDEST), Some(WIDEST));
    limits.max_alloc = Some(MEMORY);
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(FolderError::file(path))?;
    let image = reader.decode().map_err(broken)?;
    if !image.color().has_alpha() {
        return Ok(image.into_rgb8());
    }
    let image = image.into_rgba8();
    let mut flat = RgbImage::new(image.width(), image.height());
    for (to, from) in flat.pixels_mut().zip(image.pixels()) {
        let [red, green, blue, alpha] = from.0.map(u32::from);
        to.0 = [red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    Ok(flat)
}

fn square(image: &RgbImage, size: u32) -> RgbImage {
    let side = image.width().min(image.height());
    let (left, top) = ((image.width() - side) / 2, (image.height() - side) / 2);
    let middle = crop_imm(image, left, top, side, side).to_image();
    if side == size { middle } else { resize(&middle, size, size, FilterType::Triangle) }
}

/// Bytes `[height, width, 3]` as values from 0 to 1, `[3, height, width]`.
pub(crate) fn planes(image: &RgbImage) -> Vec<f32> {
    let plane = |channel| image.pixels().map(move |pixel| f32::from(pixel.0[channel]) / 255.0);
    (0..3).flat_map(plane).collect()
}

fn listed(folder: &Path, metadata: &Path) -> Result<Vec<Entry>, FolderError> {
    let file = File::open(metadata).map_err(FolderError::file(metadata))?;
    let mut entries = Vec::new();
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(FolderError::file(metadata))?;
        let wrong = |reason| FolderError::BadLine { path: metadata.to_owned(), line: at + 1, reason };
        if line.len() > LONGEST {
            return Err(wrong(format!("it is longer than {LONGEST} bytes")));
        }
        if !line.trim().is_empty() {
            entries.push(entry(folder, &line).map_err(wrong)?);
        }
    }
    Ok(entries)
}

fn entry(folder: &Path, line: &str) -> Result<Entry, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("it is no JSON: {error}"))?;
    let name = value.get("file_name").and_then(Value::as_str).ok_or("it has no text `file_name`")?;
    let inner = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !inner {
        return Err(format!("`{name}` leads out of the folder; give a path inside of it"));
    }
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = || value.get("label").and_then(Value::as_u64).map(|label| label.to_string());
    Ok(Entry {
        path: folder.join(name),
        class: text("label").or_else(number),
        caption: text("text").or_else(|| text("caption")),
    })
}

fn found(folder: &Path) -> Result<Vec<Entry>, FolderError> {
    let mut entries = Vec::new();
    let below = contents(folder)?;
    for class in below.iter().filter(|path| path.is_dir()) {
        let name = class.file_name().map(|name| name.to_string_lossy().into_owned());
        let pictures = contents(class)?.into_iter().filter(|path| is_picture(path));
        entries.extend(pictures.map(|path| Entry { class: name.clone(), ..beside(path) }));
    }
    if entries.is_empty() {
        entries.extend(below.into_iter().filter(|path| is_picture(path)).map(beside));
    }
    Ok(entries)
}

/// A picture with the caption in the `.txt` file beside it, if there is one.
fn beside(path: PathBuf) -> Entry {
    let caption = std::fs::read_to_string(path.with_extension("txt")).ok();
    Entry { path, class: None, caption: caption.map(|text| text.trim().to_owned()) }
}

fn is_picture(path: &Path) -> bool {
    let end = path.extension().map(|end| end.to_string_lossy().to_lowercase());
    path.is_file() && end.is_some_and(|end| ["png", "jpg", "jpeg", "gif", "webp"].contains(&end.as_str()))
}

/// What is in a folder, sorted.
fn contents(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let listed: Result<Vec<_>, _> = std::fs::read_dir(folder).map_err(FolderError::file(folder))?.collect();
    let mut paths: Vec<_> =
        listed.map_err(FolderError::file(folder))?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(path: &Path, colour: [u8; 3], (width, height): (u32, u32)) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(width, height, image::Rgb(colour)).save(path).unwrap();
    }

    #[test]
    fn a_folder_for_each_class_gives_labels() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("cat/1.png"), [255, 0, 0], (20, 30));
        save(&folder.path().join("dog/1.jpg"), [0, 0, 255], (16, 16));
        std::fs::write(folder.path().join("cat/1.txt"), "a cat\n").unwrap();
        let opened = Folder::open(folder.path()).unwrap();
        assert_eq!((opened.len(), opened.classes()), (2, vec!["cat".to_owned(), "dog".to_owned()]));
        let batch = opened.batch(&[0, 1], 8).unwrap();
        assert_eq!(batch.labels, [Some(0), Some(1)]);
        assert_eq!(batch.captions, [Some("a cat".to_owned()), None]);
        assert_eq!(batch.images.len(), 2 * 3 * 64);
        assert!(batch.images[..64].iter().all(|&red| red == 1.0));
        assert!(matches!(opened.picture(2, 8), Err(FolderError::NoSuchPicture { number: 2, count: 2 })));
    }

    #[test]
    fn metadata_is_checked_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let metadata = folder.path().join("metadata.jsonl");
        save(&folder.path().join("a.png"), [1, 2, 3], (16, 16));
        let lines = "{\"file_name\": \"a.png\", \"text\": \"dark\", \"label\": 10}\n\n{\"file_name\": \"b.png\", \"label\": 9}\n";
        std::fs::write(&metadata, lines).unwrap();
        let opened = Folder::open(folder.path()).unwrap();
        assert_eq!(opened.classes(), ["9", "10"]);
        assert_eq!(opened.picture(0, 16).unwrap().caption.as_deref(), Some("dark"));
        assert!(matches!(opened.picture(1, 16), Err(FolderError::File { .. })));
        for (line, part) in
            [("no", "no JSON"), ("{}", "file_name"), ("{\"file_name\": \"../a.png\"}", "leads out")]
        {
            std::fs::write(&metadata, line).unwrap();
            let error = Folder::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("line 1") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Folder::open(folder.path()), Err(FolderError::Empty(_))));
        assert!(matches!(Folder::open(&folder.path().join("none")), Err(FolderError::File { .. })));
        std::fs::write(folder.path().join("a.png"), "text").unwrap();
        let opened = Folder::open(folder.path()).unwrap();
        assert!(matches!(opened.picture(0, 16), Err(FolderError::NotAPicture { .. })));
    }
}
