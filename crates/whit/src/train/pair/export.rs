//! A trained pair as a folder of transformers' `CLIPModel`, weights in bf16.

use std::path::Path;

use serde_json::{Value, json};

use super::Pair;
use crate::nn::vision::VisionConfig;
use crate::train::export::{image_preparation, save_weights, write_json};
use crate::train::vocabulary::{TEXT_END, TEXT_START};
use crate::train::{TrainError, write_whole};

/// Writes `config.json`, `model.safetensors`, `preprocessor_config.json`, `tokenizer.json` and
/// `tokenizer_config.json` into `folder`.
///
/// # Errors
/// If the disk refuses.
pub fn save_pair(folder: &Path, pair: &Pair, config: &Value, tokenizer: &[u8]) -> Result<(), TrainError> {
    let vision = pair.vision.config();
    save_weights(folder, pair, |path, shape| (name(path), stored(path, shape, vision)))?;
    write_json(&folder.join("config.json"), config)?;
    write_json(&folder.join("preprocessor_config.json"), &image_preparation(vision.image))?;
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]",
        "bos_token": TEXT_START, "eos_token": TEXT_END, "pad_token": TEXT_END,
        "model_max_length": config["text_config"]["max_position_embeddings"],
    });
    write_json(&folder.join("tokenizer_config.json"), &settings)?;
    write_whole(&folder.join("tokenizer.json"), tokenizer)
}

/// The shape that a checkpoint has of a parameter: patches are a convolution there, the class token and the
/// factor have fewer dimensions.
fn stored(path: &str, shape: Vec<usize>, vision: &VisionConfig) -> Vec<usize> {
    match path {
        "vision.class_token" => vec![vision.block.width],
        "vision.patch_projection.weight" => {
            vec![vision.block.width, vision.channels, vision.patch[0], vision.patch[1]]
        }
        "logit_scale" => Vec::new(),
        _ => shape,
    }
}

/// The name that CLIP's checkpoints give a parameter, from its path in the module.
fn name(path: &str) -> String {
    const PARTS: [(&str, &str); 17] = [
        (".query.", ".self_attn.q_proj."),
        (".key.", ".self_attn.k_proj."),
        (".value.", ".self_attn.v_proj."),
        (".attention_output.", ".self_attn.out_proj."),
        (".attention_norm.", ".layer_norm1."),
        (".mlp.up_proj.", ".mlp.fc1."),
        (".mlp.down_proj.", ".mlp.fc2."),
        (".output_norm.", ".layer_norm2."),
        (".layers.", ".encoder.layers."),
        ("vision.class_token", "vision.embeddings.class_embedding"),
        ("vision.position_embeddings", "vision.embeddings.position_embedding.weight"),
        ("vision.patch_projection.", "vision.embeddings.patch_embedding."),
        ("vision.embedding_norm.", "vision.pre_layrnorm."),
        ("vision.final_norm.", "vision.post_layernorm."),
        ("text.word_embeddings.table.", "text.embeddings.token_embedding."),
        ("text.position_embeddings.table.", "text.embeddings.position_embedding."),
        ("text.final_norm.", "text.final_layer_norm."),
    ];
    match path {
        "vision.projection.weight" => return "visual_projection.weight".into(),
        "text.projection.weight" => return "text_projection.weight".into(),
        _ => {}
    }
    let renamed = PARTS.iter().fold(path.to_owned(), |name, (ours, theirs)| name.replacen(ours, theirs, 1));
    match renamed.split_once('.') {
        Some((encoder @ ("vision" | "text"), rest)) => format!("{encoder}_model.{rest}"),
        _ => renamed,
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn paths_become_the_names_of_checkpoints() {
        let pairs = [
            ("vision.class_token", "vision_model.embeddings.class_embedding"),
            ("vision.layers.3.query.bias", "vision_model.encoder.layers.3.self_attn.q_proj.bias"),
            ("vision.layers.0.output_norm.weight", "vision_model.encoder.layers.0.layer_norm2.weight"),
            ("vision.embedding_norm.bias", "vision_model.pre_layrnorm.bias"),
            ("vision.projection.weight", "visual_projection.weight"),
            ("text.word_embeddings.table.weight", "text_model.embeddings.token_embedding.weight"),
            ("text.layers.1.mlp.down_proj.weight", "text_model.encoder.layers.1.mlp.fc2.weight"),
            ("text.final_norm.weight", "text_model.final_layer_norm.weight"),
            ("logit_scale", "logit_scale"),
        ];
        for (path, expected) in pairs {
            assert_eq!(name(path), expected);
        }
    }
}
