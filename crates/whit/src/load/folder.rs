//! Model folders in the Hugging Face layout.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::file::{JSON_LIMIT, read_bounded, read_json, read_json_if_present};
use super::packed::{Packed, Packing};
use super::safetensors::{Safetensors, Sharded};
use super::timm;
use super::{
    ChatTemplate, Checkpoint, ConfigError, GenerationConfig, LoadError, ModelFiles, Origin, SpecialTokens,
    Tokenizer,
};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens `config.json`, the weights and whatever else the folder has. No tensor is read yet.
pub(super) fn open(folder: &Path, origin: Origin) -> Result<ModelFiles, LoadError> {
    let config = read_config(folder)?;
    let generation = read_generation(folder, &config)?;
    let settings: Value = read_json_if_present(&folder.join("tokenizer_config.json"))?.unwrap_or(json!({}));
    let special = special_tokens(folder, &settings)?;
    let tokenizer = read_tokenizer(folder, &generation, &special)?;
    let chat_template = read_template(folder, &settings, special)?;
    let weights = unpacked(open_weights(folder)?, &config, folder)?;
    Ok(ModelFiles { config, generation, tokenizer, chat_template, weights, origin })
}

fn read_config(folder: &Path) -> Result<Value, LoadError> {
    let path = folder.join("config.json");
    if !path.exists() {
        let reason = "it has no config.json; a folder in the Hugging Face layout is needed".into();
        return Err(LoadError::NotAModel { path: folder.to_owned(), reason });
    }
    timm::translated(read_json(&path)?).map_err(|source| LoadError::Config { path, source })
}

fn read_generation(folder: &Path, config: &Value) -> Result<GenerationConfig, LoadError> {
    let path = folder.join("generation_config.json");
    let own: Option<Value> = read_json_if_present(&path)?;
    let path = if own.is_some() { path } else { folder.join("config.json") };
    GenerationConfig::from_json(&own.unwrap_or(json!({})), config)
        .map_err(|source| LoadError::Config { path, source })
}

fn read_tokenizer(
    folder: &Path,
    generation: &GenerationConfig,
    special: &SpecialTokens,
) -> Result<Option<Tokenizer>, LoadError> {
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        return Ok(None);
    }
    let tokenizer = Tokenizer::open(&path)?;
    let named = special.eos.as_deref().and_then(|eos| tokenizer.token_id(eos));
    let ids: Vec<u32> = generation.eos_token_id.iter().copied().chain(named).collect();
    Ok(Some(tokenizer.with_eos(ids)))
}

/// The special tokens, each a string or an object with its `content`.
fn special_tokens(folder: &Path, settings: &Value) -> Result<SpecialTokens, LoadError> {
    let map: Value = read_json_if_present(&folder.join("special_tokens_map.json"))?.unwrap_or(json!({}));
    let token = |key: &str| {
        let text = |value: &Value| value.as_str().or(value["content"].as_str()).map(str::to_owned);
        text(&settings[key]).or_else(|| text(&map[key]))
    };
    Ok(SpecialTokens {
        bos: token("bos_token"),
        eos: token("eos_token"),
        pad: token("pad_token"),
        unk: token("unk_token"),
    })
}

/// `chat_template.jinja`, `chat_template.json` or the key in `tokenizer_config.json`, in this order.
fn read_template(
    folder: &Path,
    settings: &Value,
    special: SpecialTokens,
) -> Result<Option<ChatTemplate>, LoadError> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        let source = String::from_utf8_lossy(&read_bounded(&path, JSON_LIMIT)?).into_owned();
        return ChatTemplate::new(&source, special, &path).map(Some);
    }
    let path = folder.join("chat_template.json");
    let own: Option<Value> = read_json_if_present(&path)?;
    let (value, path) = match &own {
        Some(own) => (&own["chat_template"], path),
        None => (&settings["chat_template"], folder.join("tokenizer_config.json")),
    };
    template_text(value).map(|source| ChatTemplate::new(source, special, &path)).transpose()
}

/// A template is one string, or a list of named ones of which `default` is meant.
fn template_text(value: &Value) -> Option<&str> {
    let list = || value.as_array()?.iter().find(|entry| entry["name"] == "default")?["template"].as_str();
    value.as_str().or_else(list)
}

/// Packed layers as matrices, where the configuration says that there are some.
fn unpacked(
    weights: Arc<dyn Checkpoint>,
    config: &Value,
    folder: &Path,
) -> Result<Arc<dyn Checkpoint>, LoadError> {
    let wrong = |reason| LoadError::NotAModel { path: folder.join("config.json"), reason };
    Ok(match Packing::read(config).map_err(wrong)? {
        Some(packing) => Arc::new(Packed::new(weights, packing)?),
        None => weights,
    })
}

fn open_weights(folder: &Path) -> Result<Arc<dyn Checkpoint>, LoadError> {
    let (single, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if single.exists() {
        return Ok(Arc::new(Safetensors::open(&single)?));
    }
    if index.exists() {
        return Ok(Arc::new(Sharded::open(&index)?));
    }
    match files_ending(folder, ".safetensors")?.as_slice() {
        [only] => Ok(Arc::new(Safetensors::open(only)?)),
        found => {
            Err(LoadError::NotAModel { path: folder.to_owned(), reason: no_weights(folder, found.len())? })
        }
    }
}

fn no_weights(folder: &Path, found: usize) -> Result<String, LoadError> {
    Ok(match found {
        0 if !files_ending(folder, ".bin")?.is_empty() => {
            format!("its weights are pickled (.bin), which can run code; convert them to {WEIGHTS} first")
        }
        0 => format!("it has neither {WEIGHTS} nor {INDEX}"),
        _ => format!("it has {found} .safetensors files but no {INDEX} that says which belong together"),
    })
}

/// Files of a folder whose names end so, sorted.
pub(super) fn files_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, LoadError> {
    let failed = |e| LoadError::io("list", folder, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The error for a configuration value of a model folder.
impl ModelFiles {
    /// Attributes a [`ConfigError`] to the file that the configuration came from.
    pub fn config_error(&self, source: ConfigError) -> LoadError {
        LoadError::Config { path: self.origin.config_path(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tokenizer::tests::byte_level_json;
    use crate::load::{Message, Options, RawTensor, safetensors};

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::write(folder.join(name), text).unwrap();
    }

    fn model() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write(path, "config.json", r#"{"model_type":"llama","eos_token_id":2}"#);
        write(path, "tokenizer.json", &byte_level_json().to_string());
        let settings = json!({"eos_token": {"content": "<|end|>"}, "bos_token": "<s>",
            "chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}]});
        write(path, "tokenizer_config.json", &settings.to_string());
        let tensor = RawTensor::from_f32(vec![1], &[1.0]);
        safetensors::save(&path.join(WEIGHTS), &[("a", &tensor)], &Default::default()).unwrap();
        folder
    }

    fn open_folder(folder: &tempfile::TempDir) -> Result<ModelFiles, LoadError> {
        crate::load::open(folder.path().to_str().unwrap(), &Options::default())
    }

    #[test]
    fn a_folder_opens_with_all_its_parts() {
        let folder = model();
        let files = open_folder(&folder).unwrap();
        assert_eq!(files.config["model_type"], "llama");
        assert_eq!(files.weights.names(), ["a"]);
        assert_eq!(files.tokenizer.unwrap().eos(), [2, 258]);
        let prompt = files.chat_template.unwrap().render(&[Message::new("user", "hi")], true).unwrap();
        assert_eq!(prompt, "<s>hi");
        write(folder.path(), "chat_template.jinja", "jinja");
        let files = open_folder(&folder).unwrap();
        assert_eq!(files.chat_template.unwrap().source(), "jinja");
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let folder = model();
        let path = folder.path();
        write(path, "generation_config.json", r#"{"top_p": 7}"#);
        let message = open_folder(&folder).unwrap_err().to_string();
        assert!(message.contains("generation_config.json") && message.contains("top_p"), "{message}");
        std::fs::remove_file(path.join("generation_config.json")).unwrap();

        std::fs::remove_file(path.join(WEIGHTS)).unwrap();
        assert!(open_folder(&folder).unwrap_err().to_string().contains(INDEX));
        write(path, "pytorch_model.bin", "");
        assert!(open_folder(&folder).unwrap_err().to_string().contains("pickled"));
        write(path, "config.json", "[1, 2]");
        assert!(matches!(open_folder(&folder), Err(LoadError::Config { .. })));
        write(path, "config.json", &"{\"a\":".repeat(500));
        assert!(matches!(open_folder(&folder), Err(LoadError::Json { .. })));
        std::fs::remove_file(path.join("config.json")).unwrap();
        assert!(matches!(open_folder(&folder), Err(LoadError::NotAModel { .. })));
    }
}
