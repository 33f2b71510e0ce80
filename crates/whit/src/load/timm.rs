//! `config.json` as timm writes it: the name of an architecture, from which the sizes follow, in Hugging Face's terms.

use serde_json::{Map, Value, json};

use super::config::{ConfigError, Settings};

/// The configuration in Hugging Face's terms if timm wrote it; any other stays as it is.
///
/// # Errors
/// If it names an architecture that is not known, or changes one in a way that is not.
pub(super) fn translated(config: Value) -> Result<Value, ConfigError> {
    let settings = Settings::new(&config)?;
    let named = settings.get("architecture").and_then(Value::as_str);
    let (Some(name), None) = (named, settings.get("model_type")) else { return Ok(config) };
    let mut plain = Plain::named(name).ok_or_else(|| ConfigError::Invalid {
        key: "architecture".into(),
        value: name.into(),
        wanted: "one of timm's plain ones: vit_ or deit_, tiny, small, base, large or huge, for deit_ perhaps distilled_, \
                 patch and its size, and the image's size, such as vit_small_patch16_224"
            .into(),
    })?;
    let changes = settings.get("model_args").and_then(Value::as_object);
    if let Some(changes) = changes {
        plain.change(changes)?;
    }
    let pool = settings.get("global_pool").and_then(Value::as_str).unwrap_or("token");
    if pool != "token" {
        return Err(invalid("global_pool", pool, "token"));
    }
    let classes = settings.get("num_classes").or_else(|| changes?.get("num_classes"));
    let classes = match classes {
        None => 1000,
        Some(value) => number("num_classes", value)?,
    };
    Ok(plain.config(classes, names(&settings)))
}

/// The names of the classes, where the file has them.
fn names<'a>(settings: &Settings<'a>) -> Option<&'a Vec<Value>> {
    let prepared = settings.get("pretrained_cfg").and_then(|prepared| prepared.get("label_names"));
    settings.get("label_names").or(prepared)?.as_array()
}

/// A vision transformer of timm's without extras.
#[derive(Debug)]
struct Plain {
    deit: bool,
    distilled: bool,
    width: usize,
    layers: usize,
    heads: usize,
    inner: f64,
    patch: usize,
    channels: usize,
    image: [usize; 2],
}

impl Plain {
    fn named(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split('.').next()?.split('_').collect();
        let (family, size, distilled, rest) = match parts[..] {
            [family, size, "distilled", ref rest @ ..] => (family, size, true, rest),
            [family, size, ref rest @ ..] => (family, size, false, rest),
            _ => return None,
        };
        let deit = family == "deit";
        let [patch, image] = *rest else { return None };
        if !["vit", "deit"].contains(&family) || distilled && !deit {
            return None;
        }
        let (width, layers, heads) = match size {
            "tiny" => (192, 12, 3),
            "small" => (384, 12, 6),
            "base" => (768, 12, 12),
            "large" => (1024, 24, 16),
            "huge" => (1280, 32, 16),
            _ => return None,
        };
        let patch = patch.strip_prefix("patch")?.parse().ok()?;
        let image = [image.parse().ok()?; 2];
        Some(Self { deit, distilled, width, layers, heads, inner: 4.0, patch, channels: 3, image })
    }

    fn change(&mut self, changes: &Map<String, Value>) -> Result<(), ConfigError> {
        for (key, value) in changes {
            let place = match key.as_str() {
                "img_size" => {
                    self.image = sides(key, value)?;
                    continue;
                }
                "mlp_ratio" => {
                    self.inner = value.as_f64().ok_or_else(|| invalid(key, value, "a number"))?;
                    continue;
                }
                "global_pool" if value == "token" => continue,
                "num_classes" => continue,
                "in_chans" => &mut self.channels,
                "patch_size" => &mut self.patch,
                "embed_dim" => &mut self.width,
                "depth" => &mut self.layers,
                "num_heads" => &mut self.heads,
                _ => {
                    let wanted = "absent; img_size, patch_size, in_chans, embed_dim, depth, num_heads and mlp_ratio are \
                                  known, and global_pool if it is token";
                    return Err(invalid(&format!("model_args.{key}"), value, wanted));
                }
            };
            *place = number(key, value)?;
        }
        Ok(())
    }

    fn config(&self, classes: usize, names: Option<&Vec<Value>>) -> Value {
        let (family, model) = if self.deit && self.distilled { ("deit", "DeiT") } else { ("vit", "ViT") };
        let head = match classes {
            0 => "Model",
            _ if self.distilled => "ForImageClassificationWithTeacher",
            _ => "ForImageClassification",
        };
        let labels = names.filter(|names| names.len() == classes).map(|names| {
            names.iter().enumerate().map(|(id, name)| (id.to_string(), name.clone())).collect::<Map<_, _>>()
        });
        json!({
            "architectures": [format!("{model}{head}")],
            "model_type": family,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": (self.width as f64 * self.inner) as usize,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "image_size": self.image,
            "patch_size": self.patch,
            "num_channels": self.channels,
            "qkv_bias": true,
            "num_labels": classes,
            "id2label": labels,
        })
    }
}

/// One number for both sides, or height and width.
fn sides(key: &str, value: &Value) -> Result<[usize; 2], ConfigError> {
    match value.as_array().map(Vec::as_slice) {
        None => Ok([number(key, value)?; 2]),
        Some([height, width]) => Ok([number(key, height)?, number(key, width)?]),
        Some(_) => Err(invalid(key, value, "one number, or height and width")),
    }
}

fn number(key: &str, value: &Value) -> Result<usize, ConfigError> {
    let found = value.as_u64().and_then(|value| usize::try_from(value).ok());
    found.filter(|found| *found < 1 << 24).ok_or_else(|| invalid(key, value, "a whole number"))
}

fn invalid(key: &str, value: impl std::fmt::Display, wanted: &str) -> ConfigError {
    ConfigError::Invalid { key: key.into(), value: value.to_string(), wanted: wanted.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: Value) -> Result<Value, String> {
        translated(config).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_follow_from_the_name() {
        let config = read(json!({ "architecture": "vit_small_patch32_384.augreg_in21k", "num_classes": 7 }));
        let config = config.unwrap();
        for (key, wanted) in [
            ("hidden_size", 384),
            ("num_hidden_layers", 12),
            ("num_attention_heads", 6),
            ("intermediate_size", 1536),
            ("patch_size", 32),
        ] {
            assert_eq!(config[key], wanted, "{key}");
        }
        assert_eq!(config["image_size"], json!([384, 384]));
        assert_eq!(config["architectures"][0], "ViTForImageClassification");
        assert_eq!((&config["num_labels"], &config["id2label"]), (&json!(7), &Value::Null));
        let named = json!({
            "architecture": "vit_tiny_patch16_224", "model_args": { "num_classes": 2 }, "label_names": ["cat", "dog"],
        });
        assert_eq!(read(named).unwrap()["id2label"], json!({ "0": "cat", "1": "dog" }));
        let distilled = read(json!({ "architecture": "deit_tiny_distilled_patch16_224" })).unwrap();
        assert_eq!(distilled["architectures"][0], "DeiTForImageClassificationWithTeacher");
        let bare = read(json!({ "architecture": "deit_tiny_patch16_224", "num_classes": 0 })).unwrap();
        assert_eq!((&bare["architectures"][0], &bare["model_type"]), (&json!("ViTModel"), &json!("vit")));
    }

    #[test]
    fn what_is_not_plain_is_refused_and_what_is_not_timms_stays() {
        for (config, part) in [
            (json!({ "architecture": "vit_small_patch14_dinov2" }), "vit_small_patch14_dinov2"),
            (json!({ "architecture": "resnet50" }), "resnet50"),
            (json!({ "architecture": "vit_tiny_patch16_224", "global_pool": "avg" }), "global_pool"),
            (
                json!({ "architecture": "vit_tiny_patch16_224", "model_args": { "class_token": false } }),
                "model_args.class_token",
            ),
            (json!({ "architecture": "vit_tiny_patch16_224", "num_classes": -1 }), "num_classes"),
        ] {
            let error = read(config).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let other = json!({ "architecture": "x", "model_type": "llama" });
        assert_eq!(read(other.clone()).unwrap(), other);
    }
}
