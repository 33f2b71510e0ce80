//! CRATE (Yu et al., 2023): the white-box transformer as a classifier of pictures, under the names of the official
//! checkpoints. These come without a `config.json`; it says `"model_type": "crate"` and has the fields of a ViT's,
//! with the original's `ista` (the step, 0.1), `lambd` (0.1) and `pool` (`cls` or `mean`).

use serde::Deserialize;
use serde_json::Value;

use super::config::{self, ConfigError};
use super::names::{Names, part};
use super::vision::{Fields, VisionArchitecture};
use crate::nn::block::BlockConfig;
use crate::nn::vision::{FinalNorm, Head, Pooled, VisionConfig};
use crate::nn::white::WhiteConfig;

pub(super) const VISION: VisionArchitecture =
    VisionArchitecture { id: "crate", title: "CRATE", names: NAMES, epsilon: 1e-5, ignored: &[], adjust };

const NAMES: &[Names] = &[Names {
    probe: "pos_embedding",
    prefixes: &["", "module."],
    layers: &["transformer.layers.0."],
    parts: &[
        part("embeddings.class_token", "cls_token"),
        part("embeddings.positions", "pos_embedding"),
        part("embeddings.patch_norm", "to_patch_embedding.1"),
        part("embeddings.patches", "to_patch_embedding.2"),
        part("embeddings.token_norm", "to_patch_embedding.3"),
        part("attention.self.query", "0.fn.qkv"),
        part("attention.output.dense", "0.fn.to_out.0"),
        part("attention.output.LayerNorm", "0.norm"),
        part("output.dictionary", "1.fn"),
        part("output.LayerNorm", "1.norm"),
        part("final_norm", "mlp_head.0"),
        part("classifier", "mlp_head.1"),
    ],
}];

fn adjust(fields: &Fields, config: VisionConfig) -> Result<VisionConfig, ConfigError> {
    whole_patches(&config)?;
    let white = fields.white.config(WhiteConfig::default().sparsity);
    let block = BlockConfig { feed_forward: config.block.width, white: Some(white), ..config.block };
    Ok(VisionConfig {
        patch_norms: true,
        final_norm: FinalNorm::Class,
        pooled: Pooled::Nothing,
        head: head(fields, config.head)?,
        block,
        ..config
    })
}

/// The fields of a white-box block, by the original's names.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct White {
    ista: Option<f32>,
    lambd: Option<f32>,
    tied_output: Option<bool>,
}

impl White {
    /// Those of a whole configuration.
    pub(super) fn read(json: &Value) -> Result<Self, ConfigError> {
        config::parse(json)
    }

    /// What the blocks are, where the file is silent with this price of values.
    pub(super) fn config(self, sparsity: f32) -> WhiteConfig {
        let plain = WhiteConfig::default();
        WhiteConfig {
            step: self.ista.unwrap_or(plain.step),
            sparsity: self.lambd.unwrap_or(sparsity),
            tied_output: self.tied_output.unwrap_or(plain.tied_output),
        }
    }
}

fn head(fields: &Fields, head: Head) -> Result<Head, ConfigError> {
    match (fields.pool.as_deref(), head) {
        (None | Some("cls"), head) => Ok(head),
        (Some("mean"), Head::Class(classes)) => Ok(Head::WholeMean(classes)),
        (Some("mean"), head) => Ok(head),
        (Some(other), _) => Err(ConfigError::Value {
            field: "pool",
            found: format!("`{other}`"),
            allowed: "`cls` and `mean` are supported".into(),
        }),
    }
}

/// As the original, which has no patches that hang over the edge.
pub(super) fn whole_patches(config: &VisionConfig) -> Result<(), ConfigError> {
    let divides = |(image, patch): (&usize, &usize)| image % patch == 0;
    if config.image.iter().zip(&config.patch).all(divides) {
        return Ok(());
    }
    Err(ConfigError::Value {
        field: "image_size",
        found: format!("{:?}", config.image),
        allowed: format!("it must be divisible by patch_size ({:?})", config.patch),
    })
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;
    use serde_json::json;

    use super::*;
    use crate::nn::vars::{Random, Storage, Vars};
    use crate::nn::vision::Vision;

    fn config(more: &Value) -> Result<VisionConfig, ConfigError> {
        let mut config = json!({ "architectures": ["CrateForImageClassification"], "num_labels": 1000 });
        for (field, value) in more.as_object().into_iter().flatten() {
            config[field] = value.clone();
        }
        VISION.config(&config)
    }

    fn weights(config: &VisionConfig, layers: usize) -> usize {
        let storage = Storage::Dense(Device::flex());
        let config = VisionConfig { layers, ..config.clone() };
        let model = Vision::new(config, &Vars::new(&Random { seed: 1 }, &storage));
        model.unwrap_or_else(|error| panic!("{error}")).num_params()
    }

    /// The published sizes T, S, B and L, in millions; every layer has as many weights as the second.
    #[test]
    fn weights_are_as_many_as_published() {
        let sizes = [(384, 12, 6, 6.09), (576, 12, 12, 13.12), (768, 12, 12, 22.80), (1024, 24, 16, 77.64)];
        for (width, layers, heads, published) in sizes {
            let fields = json!({ "hidden_size": width, "num_attention_heads": heads });
            let config = config(&fields).unwrap_or_else(|error| panic!("{error}"));
            let [one, two] = [1, 2].map(|layers| weights(&config, layers));
            let millions = (one + (layers - 1) * (two - one)) as f64 / 1e6;
            assert!((millions - published).abs() < 0.01, "{width}: {millions}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let cases = [
            (
                json!({ "num_attention_heads": 7 }),
                "`num_attention_heads` is 7; it must divide hidden_size (768)",
            ),
            (json!({ "image_size": 220 }), "`image_size` is [220, 220]; it must be divisible by patch_size"),
            (json!({ "pool": "max" }), "`pool` is `max`; `cls` and `mean`"),
        ];
        for (fields, wanted) in cases {
            let error = config(&fields).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
