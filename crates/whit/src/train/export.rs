//! A trained decoder as a folder in the Hugging Face layout, weights in bf16.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use half::bf16;
use serde_json::{Value, json};

use super::vocabulary::END;
use super::{TrainError, parameters, write_whole};
use crate::load::safetensors::save;
use crate::load::{Dtype, RawTensor};
use crate::nn::decoder::Decoder;
use crate::nn::encoder::Encoder;
use crate::nn::vision::Vision;
use crate::nn::white_mae::WhiteMae;

/// Writes `config.json`, `generation_config.json`, `model.safetensors`, `tokenizer.json` and
/// `tokenizer_config.json` into `folder`.
///
/// # Errors
/// If the disk refuses.
pub fn save_decoder(
    folder: &Path,
    model: &Decoder,
    config: &Value,
    tokenizer: &[u8],
) -> Result<(), TrainError> {
    save_weights(folder, model, |path, shape| (file_name(path, config), shape))?;
    let end = config["eos_token_id"].clone();
    let generation = json!({ "bos_token_id": end, "eos_token_id": end, "do_sample": false });
    write_json(&folder.join("config.json"), config)?;
    write_json(&folder.join("generation_config.json"), &generation)?;
    write_json(&folder.join("tokenizer_config.json"), &tokenizer_config(config))?;
    write_whole(&folder.join("tokenizer.json"), tokenizer)
}

/// Writes `config.json`, `model.safetensors` and `tokenizer.json` of a token classifier into `folder`.
///
/// # Errors
/// If the disk refuses.
pub fn save_encoder(
    folder: &Path,
    model: &Encoder,
    config: &Value,
    tokenizer: &[u8],
) -> Result<(), TrainError> {
    let prefix = config["model_type"].as_str().unwrap_or("bert");
    save_weights(folder, model, |path, shape| (encoder_name(prefix, path), shape))?;
    write_json(&folder.join("config.json"), config)?;
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": true,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
        "model_max_length": config["max_position_embeddings"],
    });
    write_json(&folder.join("tokenizer_config.json"), &settings)?;
    write_whole(&folder.join("tokenizer.json"), tokenizer)
}

/// Writes `config.json`, `model.safetensors` and `preprocessor_config.json` of a ViT into `folder`.
///
/// # Errors
/// If the disk refuses.
pub fn save_vision(folder: &Path, model: &Vision, config: &Value) -> Result<(), TrainError> {
    let settings = model.config();
    let (width, [high, wide]) = (settings.block.width, settings.patch);
    let white = settings.block.white.is_some();
    save_weights(folder, model, |path, shape| {
        let shape = match path {
            "class_token" | "position_embeddings" => vec![1, shape[0], width],
            "patch_projection.weight" if !white => vec![width, settings.channels, high, wide],
            _ => shape,
        };
        (if white { white_name(path) } else { vision_name(path) }, shape)
    })?;
    write_json(&folder.join("config.json"), config)?;
    write_json(&folder.join("preprocessor_config.json"), &image_preparation(settings.image))
}

/// As [`save_vision`], of a masked autoencoder.
///
/// # Errors
/// If the disk refuses.
pub fn save_autoencoder(folder: &Path, model: &WhiteMae, config: &Value) -> Result<(), TrainError> {
    let settings = &model.config().encoder;
    let (width, [high, wide]) = (settings.block.width, settings.patch);
    save_weights(folder, model, |path, shape| {
        let shape = match path {
            "mask_token" | "encoder.class_token" | "encoder.position_embeddings" => vec![1, shape[0], width],
            "encoder.patch_projection.weight" => vec![width, settings.channels, high, wide],
            _ => shape,
        };
        (autoencoder_name(path), shape)
    })?;
    write_json(&folder.join("config.json"), config)?;
    write_json(&folder.join("preprocessor_config.json"), &image_preparation(settings.image))
}

/// What is done to pictures before a model that was trained here sees them: values from -1 to 1.
pub(super) fn image_preparation([height, width]: [usize; 2]) -> Value {
    json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true, "size": { "height": height, "width": width }, "resample": 2,
        "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    })
}

/// The name that ViT's checkpoints give a parameter, from its path in the module.
fn vision_name(path: &str) -> String {
    const PARTS: [(&str, &str); 8] = [
        ("query.", "attention.attention.query."),
        ("key.", "attention.attention.key."),
        ("value.", "attention.attention.value."),
        ("attention_output.", "attention.output.dense."),
        ("attention_norm.", "layernorm_before."),
        ("mlp.up_proj.", "intermediate.dense."),
        ("mlp.down_proj.", "output.dense."),
        ("output_norm.", "layernorm_after."),
    ];
    if path.starts_with("classifier") {
        return path.to_owned();
    }
    if let Some((layer, part)) = path.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        let renamed =
            PARTS.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
        return format!("vit.encoder.layer.{layer}.{}", renamed.unwrap_or_else(|| part.to_owned()));
    }
    let name = path
        .replace("class_token", "embeddings.cls_token")
        .replace("position_embeddings", "embeddings.position_embeddings")
        .replace("patch_projection", "embeddings.patch_embeddings.projection")
        .replace("final_norm", "layernorm");
    format!("vit.{name}")
}

/// The name that CRATE's checkpoints give a parameter, from its path in the module.
fn white_name(path: &str) -> String {
    const PARTS: [(&str, &str); 12] = [
        ("class_token", "cls_token"),
        ("position_embeddings", "pos_embedding"),
        ("patch_norms.0.", "to_patch_embedding.1."),
        ("patch_projection.", "to_patch_embedding.2."),
        ("patch_norms.1.", "to_patch_embedding.3."),
        ("attention_norm.", "0.norm."),
        ("attention.subspaces.matrix.", "0.fn.qkv."),
        ("attention.output.", "0.fn.to_out.0."),
        ("output_norm.", "1.norm."),
        ("ista.dictionary.matrix.", "1.fn."),
        ("final_norm.", "mlp_head.0."),
        ("classifier.", "mlp_head.1."),
    ];
    let rename = |part: &str| {
        let found =
            PARTS.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
        found.unwrap_or_else(|| part.to_owned())
    };
    match path.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => format!("transformer.layers.{layer}.{}", rename(part)),
        None => rename(path),
    }
}

/// The name that CRATE-MAE's checkpoints give a parameter, from its path in the module.
fn autoencoder_name(path: &str) -> String {
    const PARTS: [(&str, &str); 12] = [
        ("encoder.class_token", "cls_token"),
        ("encoder.position_embeddings", "decoder_pos_embed"),
        ("encoder.patch_projection", "patch_embed.proj"),
        ("encoder.final_norm", "norm"),
        ("prediction", "decoder_pred"),
        ("dictionary_norm", "0.norm"),
        ("ista.dictionary.matrix", "1.fn"),
        ("dictionary.weight", "0.fn.weight"),
        ("attention.subspaces.matrix", "fn.qkv"),
        ("attention.output", "fn.to_out.0"),
        ("attention_norm", "norm"),
        ("output_norm", "1.norm"),
    ];
    let rename =
        |part: &str| PARTS.iter().fold(part.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs));
    let (stack, attention) =
        if path.starts_with("decoder.") { ("decoder_blocks", "1.") } else { ("blocks", "0.") };
    let layer = path.strip_prefix("encoder.layers.").or_else(|| path.strip_prefix("decoder."));
    let Some((layer, part)) = layer.and_then(|rest| rest.split_once('.')) else { return rename(path) };
    let place = if part.starts_with("attention") { attention } else { "" };
    format!("{stack}.{layer}.layers.0.{place}{}", rename(part))
}

/// The name that BERT's checkpoints give a parameter, from its path in the module.
fn encoder_name(prefix: &str, path: &str) -> String {
    const PARTS: [(&str, &str); 9] = [
        ("query.", "attention.self.query."),
        ("key.", "attention.self.key."),
        ("value.", "attention.self.value."),
        ("attention_output.", "attention.output.dense."),
        ("attention_norm.", "attention.output.LayerNorm."),
        ("mlp.up_proj.", "intermediate.dense."),
        ("mlp.down_proj.", "output.dense."),
        ("output_norm.", "output.LayerNorm."),
        ("embedding_norm.", "embeddings.LayerNorm."),
    ];
    if path.starts_with("classifier") {
        return path.to_owned();
    }
    let rename = |part: &str| {
        let found =
            PARTS.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
        found.unwrap_or_else(|| part.to_owned())
    };
    let name = match path.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => format!("encoder.layer.{layer}.{}", rename(part)),
        None => match path.strip_suffix(".table.weight") {
            Some(table) => format!("embeddings.{table}.weight"),
            None => rename(path),
        },
    };
    format!("{prefix}.{name}")
}

/// The tensor's name in a checkpoint, from the parameter's path in the module. BlockFFN's experts are no
/// linear layers there, and their matrices bear no `weight`.
fn file_name(path: &str, config: &Value) -> String {
    if config["model_type"] == "crate_gpt" {
        return white_decoder_name(path);
    }
    let mut path = path.replace("embed_tokens.table.", "embed_tokens.");
    let experts = path.ends_with(".mlp.up_proj.weight") || path.ends_with(".mlp.down_proj.weight");
    if experts && config["ffn_type"] == "block_linear" {
        path.truncate(path.len() - ".weight".len());
    }
    if path.starts_with("lm_head") { path } else { format!("model.{path}") }
}

/// The name that the official code of CRATE gives a parameter of its language model.
fn white_decoder_name(path: &str) -> String {
    const PARTS: [(&str, &str); 8] = [
        ("embed_tokens.table", "transformer.wte"),
        ("embed_positions.table", "transformer.wpe"),
        ("layers.", "transformer.h."),
        ("input_layernorm", "prenorm_1"),
        ("post_attention_layernorm", "prenorm_2"),
        ("self_attn.subspaces.matrix", "attn.c_attn"),
        ("self_attn.output", "attn.c_proj"),
        ("mlp.dictionary.matrix", "ista"),
    ];
    PARTS.iter().fold(path.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}

/// Makes `folder` and writes the parameters of `model` into its `model.safetensors`, each with the name and the shape
/// that `stored` gives for its path in the module and its shape there.
pub(super) fn save_weights<M: Module>(
    folder: &Path,
    model: &M,
    stored: impl Fn(&str, Vec<usize>) -> (String, Vec<usize>),
) -> Result<(), TrainError> {
    std::fs::create_dir_all(folder).map_err(TrainError::file("write", folder))?;
    let mut tensors = Vec::new();
    parameters::read(model, |path, shape, values| {
        let (name, shape) = stored(path, shape);
        tensors.push((name, half_precision(shape, &values)));
    });
    let named: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(save(&folder.join("model.safetensors"), &named, &metadata)?)
}

fn half_precision(shape: Vec<usize>, values: &[f32]) -> RawTensor {
    let bytes = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    RawTensor { dtype: Dtype::Bf16, shape, bytes }
}

fn tokenizer_config(config: &Value) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": false,
    })
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), TrainError> {
    write_whole(path, format!("{value:#}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_the_names_of_checkpoints() {
        assert_eq!(file_name("embed_tokens.table.weight", &json!({})), "model.embed_tokens.weight");
        assert_eq!(file_name("layers.0.mlp.up_proj.weight", &json!({})), "model.layers.0.mlp.up_proj.weight");
        let blocks = json!({ "ffn_type": "block_linear" });
        assert_eq!(file_name("layers.0.mlp.up_proj.weight", &blocks), "model.layers.0.mlp.up_proj");
        assert_eq!(file_name("norm.weight", &json!({})), "model.norm.weight");
        assert_eq!(file_name("lm_head.weight", &json!({})), "lm_head.weight");
        let white = json!({ "model_type": "crate_gpt" });
        let names = [
            ("embed_tokens.table.weight", "transformer.wte.weight"),
            ("layers.2.self_attn.subspaces.matrix.weight", "transformer.h.2.attn.c_attn.weight"),
            ("layers.0.self_attn.output.bias", "transformer.h.0.attn.c_proj.bias"),
            ("layers.0.mlp.dictionary.matrix.weight", "transformer.h.0.ista.weight"),
        ];
        names.into_iter().for_each(|(path, name)| assert_eq!(file_name(path, &white), name));
    }

    #[test]
    fn paths_of_a_vit_become_the_names_of_checkpoints() {
        assert_eq!(
            vision_name("layers.3.query.weight"),
            "vit.encoder.layer.3.attention.attention.query.weight"
        );
        assert_eq!(vision_name("layers.0.output_norm.bias"), "vit.encoder.layer.0.layernorm_after.bias");
        assert_eq!(vision_name("patch_projection.bias"), "vit.embeddings.patch_embeddings.projection.bias");
        assert_eq!(vision_name("final_norm.weight"), "vit.layernorm.weight");
        assert_eq!(vision_name("classifier.weight"), "classifier.weight");
    }

    #[test]
    fn paths_of_a_white_box_become_the_names_of_checkpoints() {
        let names = [
            ("patch_norms.1.weight", "to_patch_embedding.3.weight"),
            ("layers.3.attention.subspaces.matrix.weight", "transformer.layers.3.0.fn.qkv.weight"),
            ("layers.0.attention.output.bias", "transformer.layers.0.0.fn.to_out.0.bias"),
            ("layers.0.ista.dictionary.matrix.weight", "transformer.layers.0.1.fn.weight"),
            ("final_norm.bias", "mlp_head.0.bias"),
            ("classifier.weight", "mlp_head.1.weight"),
        ];
        names.into_iter().for_each(|(path, name)| assert_eq!(white_name(path), name));
    }

    #[test]
    fn paths_of_an_autoencoder_become_the_names_of_checkpoints() {
        let names = [
            ("mask_token", "mask_token"),
            ("encoder.class_token", "cls_token"),
            ("encoder.final_norm.bias", "norm.bias"),
            ("encoder.layers.2.attention_norm.bias", "blocks.2.layers.0.0.norm.bias"),
            ("encoder.layers.2.attention.subspaces.matrix.weight", "blocks.2.layers.0.0.fn.qkv.weight"),
            ("encoder.layers.2.output_norm.weight", "blocks.2.layers.0.1.norm.weight"),
            ("encoder.layers.2.ista.dictionary.matrix.weight", "blocks.2.layers.0.1.fn.weight"),
            ("decoder.0.dictionary_norm.weight", "decoder_blocks.0.layers.0.0.norm.weight"),
            ("decoder.0.dictionary.weight", "decoder_blocks.0.layers.0.0.fn.weight"),
            ("decoder.0.attention_norm.weight", "decoder_blocks.0.layers.0.1.norm.weight"),
            ("decoder.0.attention.output.bias", "decoder_blocks.0.layers.0.1.fn.to_out.0.bias"),
            ("decoder_norm.weight", "decoder_norm.weight"),
            ("prediction.weight", "decoder_pred.weight"),
        ];
        names.into_iter().for_each(|(path, name)| assert_eq!(autoencoder_name(path), name));
    }

    #[test]
    fn weights_are_rounded_to_bf16() {
        let tensor = half_precision(vec![2], &[1.0, 1.0 + 1.0 / 512.0]);
        assert_eq!(tensor.bytes, [0x80, 0x3f, 0x80, 0x3f]);
    }
}
