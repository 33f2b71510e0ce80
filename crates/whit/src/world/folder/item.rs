//! One sample as files and a line of metadata.

use std::io::Cursor;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, DynamicImage, Frame, ImageBuffer, ImageFormat, Luma, RgbImage};
use serde_json::{Value, json};

use super::FolderError;
use super::sheet::{mark, normal_bytes, picture, sheet};
use super::tensors::{Tensor, safetensors};
use super::write::{Collection, Export, Format};
use crate::world::degrade::Degradation;
use crate::world::scene::image::interleaved;
use crate::world::scene::{Rendered, Scene};
use crate::world::shape::volume::Tissue;
use crate::world::shape::{Mesh, Model, Volume, points, preview};

/// A sample's files by their names in the folder, its line of metadata, and a picture for the sheet.
pub(super) struct Item {
    pub files: Vec<(String, Vec<u8>)>,
    pub line: Value,
    pub preview: RgbImage,
}

/// Points with distances that are stored for a shape.
const POINTS: usize = 2048;

impl Item {
    /// The sample of a number.
    pub(super) fn make(export: &Export, index: u64) -> Result<Self, FolderError> {
        let name = format!("{index:06}");
        match export.collection {
            Collection::Scenes => Self::scene(export, index, &name),
            Collection::Videos { frames } => Self::video(export, index, frames, &name),
            Collection::Pairs { scale } => Self::pair(export, index, scale, &name),
            Collection::Shapes => Self::shape(export, index, &name),
            Collection::Volumes => Self::volume(export, index, &name),
        }
    }

    fn scene(export: &Export, index: u64, name: &str) -> Result<Self, FolderError> {
        let scene = export.world.sample(index);
        let rendered = scene.render(export.world.size);
        let side = rendered.size;
        let image = picture(rendered.bytes(), side);
        let end = export.format.end();
        let depth_scale = if scene.is_flat() { 1.0 / 65535.0 } else { 0.001 };
        let depths = rendered.depth.iter().map(|depth| (depth / depth_scale).min(65535.0) as u16).collect();
        let depth = ImageBuffer::<Luma<u16>, Vec<u16>>::from_raw(side as u32, side as u32, depths);
        let masks =
            ImageBuffer::<Luma<u8>, Vec<u8>>::from_raw(side as u32, side as u32, rendered.owner.clone());
        let files = vec![
            (format!("images/{name}.{end}"), encode(&image, export.format)?),
            (format!("masks/{name}.png"), bytes(&masks.unwrap_or_default().into(), ImageFormat::Png)?),
            (format!("depth/{name}.png"), bytes(&depth.unwrap_or_default().into(), ImageFormat::Png)?),
            (format!("normals/{name}.png"), encode(&picture(normal_bytes(&rendered), side), Format::Png)?),
        ];
        let mut line = json!({ "file_name": files[0].0 });
        merge(&mut line, told(&scene, &export.world.classes()));
        merge(
            &mut line,
            json!({
                "mask_file_name": files[1].0,
                "depth_file_name": files[2].0,
                "normals_file_name": files[3].0,
                "depth_scale": depth_scale,
                "objects": objects(&scene, &rendered),
                "relations": relations(&scene),
                "questions": questions(&scene),
            }),
        );
        Ok(Self { files, line, preview: image })
    }

    fn video(export: &Export, index: u64, frames: usize, name: &str) -> Result<Self, FolderError> {
        let (clip, size) = (export.world.clip(index, frames), export.world.size);
        let rendered: Vec<Rendered> = (0..frames).map(|frame| clip.frame(frame, size)).collect();
        let images: Vec<RgbImage> = rendered.iter().map(|one| picture(one.bytes(), size)).collect();
        let pixels: Vec<u8> = rendered.iter().flat_map(Rendered::bytes).collect();
        let owners: Vec<u8> = rendered.iter().flat_map(|one| one.owner.clone()).collect();
        let tensors = [
            Tensor::bytes("frames", &[frames, size, size, 3], pixels),
            Tensor::bytes("masks", &[frames, size, size], owners),
        ];
        let files = vec![
            (format!("videos/{name}.gif"), gif(&images)?),
            (format!("videos/{name}.safetensors"), safetensors(&tensors)),
        ];
        let mut line = json!({ "file_name": files[0].0 });
        merge(&mut line, told(&clip.scene, &export.world.classes()));
        let motions: Vec<&str> = clip.motions.iter().map(|motion| motion.name()).collect();
        merge(
            &mut line,
            json!({ "text": clip.caption(), "tensors_file_name": files[1].0, "frames": frames, "motions": motions }),
        );
        let shown = [0, frames / 3, 2 * frames / 3, frames.saturating_sub(1)];
        let strip: Vec<RgbImage> = shown.iter().filter_map(|&at| images.get(at).cloned()).collect();
        Ok(Self { files, line, preview: sheet(&strip, 2) })
    }

    fn pair(export: &Export, index: u64, scale: usize, name: &str) -> Result<Self, FolderError> {
        let (scene, size) = (export.world.sample(index), export.world.size);
        let high = scene.render(size);
        let degradation = Degradation::sample(export.world.seed, index, scale);
        let low = degradation.apply(&high.image, size, export.world.seed, index)?;
        let (large, small) = (picture(high.bytes(), size), picture(interleaved(&low), size / scale));
        let end = export.format.end();
        let files = vec![
            (format!("high/{name}.{end}"), encode(&large, export.format)?),
            (format!("low/{name}.{end}"), encode(&small, export.format)?),
        ];
        let mut line = json!({ "file_name": files[0].0, "low_file_name": files[1].0 });
        merge(&mut line, told(&scene, &export.world.classes()));
        let Degradation { blur, noise, jpeg, .. } = degradation;
        merge(&mut line, json!({ "scale": scale, "blur": blur, "noise": noise, "jpeg": jpeg }));
        Ok(Self { files, line, preview: beside(&small, &large) })
    }

    fn shape(export: &Export, index: u64, name: &str) -> Result<Self, FolderError> {
        let (world, model) =
            (&export.world, Model::sample(export.world.seed, index, export.world.level.number()));
        let mesh = Mesh::of(&model.shape, world.size.min(64));
        let known = points::sample(&model.shape, &mesh, POINTS, world.seed, index);
        let flat = |points: &[crate::world::scene::Vec3]| {
            points.iter().flat_map(|point| point.array()).collect::<Vec<f32>>()
        };
        let tensors = [
            Tensor::floats("distances", &[POINTS], &known.distances),
            Tensor::floats("normals", &[POINTS, 3], &flat(&known.normals)),
            Tensor::floats("points", &[POINTS, 3], &flat(&known.points)),
            Tensor::floats("surface", &[POINTS, 3], &flat(&known.surface)),
        ];
        let image = picture(interleaved(&preview(&model.shape, world.size)), world.size);
        let files = vec![
            (format!("previews/{name}.png"), encode(&image, Format::Png)?),
            (format!("shapes/{name}.obj"), mesh.obj().into_bytes()),
            (format!("shapes/{name}.ply"), mesh.ply()),
            (format!("shapes/{name}.safetensors"), safetensors(&tensors)),
        ];
        let line = json!({
            "file_name": files[0].0,
            "text": model.caption(),
            "label": model.thing.name(),
            "obj_file_name": files[1].0,
            "ply_file_name": files[2].0,
            "tensors_file_name": files[3].0,
            "vertices": mesh.points.len(),
            "faces": mesh.faces.len(),
            "euler": mesh.euler(),
            "volume": mesh.volume(),
        });
        Ok(Self { files, line, preview: image })
    }

    fn volume(export: &Export, index: u64, name: &str) -> Result<Self, FolderError> {
        let size = export.world.size.min(64);
        let volume = Volume::sample(export.world.seed, index, export.world.level.number(), size);
        let image = slices(&volume);
        let tensors = [
            Tensor::bytes("labels", &[size, size, size], volume.labels.clone()),
            Tensor::floats("volume", &[size, size, size], &volume.values),
        ];
        let files = vec![
            (format!("previews/{name}.png"), encode(&image, Format::Png)?),
            (format!("volumes/{name}.safetensors"), safetensors(&tensors)),
        ];
        let voxels: Value = Tissue::ALL
            .iter()
            .map(|&tissue| (tissue.name().to_owned(), json!(volume.count(tissue))))
            .collect();
        let line = json!({
            "file_name": files[0].0,
            "text": volume.caption(),
            "label": if volume.count(Tissue::Lesion) > 0 { "lesion" } else { "healthy" },
            "tensors_file_name": files[1].0,
            "voxels": voxels,
        });
        Ok(Self { files, line, preview: image })
    }
}

impl Format {
    fn end(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::WebP => "webp",
        }
    }
}

/// A picture as the bytes of a file.
pub(super) fn encode(picture: &RgbImage, format: Format) -> Result<Vec<u8>, FolderError> {
    let format = match format {
        Format::Png => ImageFormat::Png,
        Format::WebP => ImageFormat::WebP,
    };
    bytes(&picture.clone().into(), format)
}

fn bytes(picture: &DynamicImage, format: ImageFormat) -> Result<Vec<u8>, FolderError> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).map_err(|error| FolderError::Encode(error.to_string()))?;
    Ok(bytes.into_inner())
}

/// An endless GIF of ten pictures a second.
fn gif(images: &[RgbImage]) -> Result<Vec<u8>, FolderError> {
    let failed = |error: image::ImageError| FolderError::Encode(error.to_string());
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
    encoder.set_repeat(Repeat::Infinite).map_err(failed)?;
    for image in images {
        let frame = DynamicImage::from(image.clone()).into_rgba8();
        let frame = Frame::from_parts(frame, 0, 0, Delay::from_numer_denom_ms(100, 1));
        encoder.encode_frame(frame).map_err(failed)?;
    }
    drop(encoder);
    Ok(bytes)
}

/// Both pictures of a pair in one: the small one enlarged, then the large one.
fn beside(small: &RgbImage, large: &RgbImage) -> RgbImage {
    let (side, factor) = (large.width(), (large.width() / small.width().max(1)).max(1));
    RgbImage::from_fn(2 * side, side, |x, y| {
        if x < side {
            *small.get_pixel((x / factor).min(small.width() - 1), (y / factor).min(small.height() - 1))
        } else {
            *large.get_pixel(x - side, y)
        }
    })
}

/// The middle slices along each axis over their labels.
fn slices(volume: &Volume) -> RgbImage {
    let (size, half) = (volume.size, volume.size / 2);
    let voxel = |axis: usize, x: usize, y: usize| match axis {
        0 => (half * size + y) * size + x,
        1 => (y * size + half) * size + x,
        _ => (y * size + x) * size + half,
    };
    RgbImage::from_fn(3 * size as u32, 2 * size as u32, |x, y| {
        let (x, y) = (x as usize, y as usize);
        let at = voxel(x / size, x % size, y % size);
        if y < size {
            image::Rgb([(volume.values[at] * 255.0) as u8; 3])
        } else {
            image::Rgb(mark(volume.labels[at]))
        }
    })
}

/// What every line says of a scene.
fn told(scene: &Scene, classes: &[String]) -> Value {
    let captions: Value = scene
        .captions()
        .into_iter()
        .map(|(phrasing, text)| (phrasing.name().to_owned(), json!(text)))
        .collect();
    json!({ "text": scene.caption(), "label": classes.get(scene.class), "captions": captions })
}

fn objects(scene: &Scene, rendered: &Rendered) -> Vec<Value> {
    let told = |(at, object): (usize, &crate::world::scene::Object)| {
        let area = rendered.area(at).map(|area| [area.left, area.top, area.right, area.bottom]);
        json!({
            "kind": object.kind.name(),
            "colour": object.colour.name(),
            "texture": object.texture.name(),
            "size": object.size.name(),
            "place": scene.place(object),
            "box": area,
            "pixels": rendered.pixels(at),
            "distance": scene.distance(object),
            "on": object.on,
        })
    };
    scene.objects.iter().enumerate().map(told).collect()
}

fn relations(scene: &Scene) -> Vec<Value> {
    scene.relations().into_iter().map(|(a, relation, b)| json!([a, relation.name(), b])).collect()
}

fn questions(scene: &Scene) -> Vec<Value> {
    let told = scene.questions();
    told.iter().map(|q| json!({ "about": q.ask.name(), "question": q.text, "answer": q.answer })).collect()
}

fn merge(line: &mut Value, more: Value) {
    if let (Value::Object(line), Value::Object(more)) = (line, more) {
        line.extend(more);
    }
}
