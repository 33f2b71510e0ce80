//! DINOv2 (Oquab et al., 2023), plain and with registers (Darcet et al., 2023): ViT with scaled layers, in
//! its largest size with a gated feed-forward part, and classes told from the class token and the patches' mean.

use super::config::{ConfigError, size};
use super::vision::{Fields, VisionArchitecture};
use crate::nn::activation::Activation;
use crate::nn::vision::{Head, Pooled, VisionConfig};

pub(super) const VISION: VisionArchitecture = VisionArchitecture {
    id: "dinov2",
    title: "DINOv2",
    epsilon: 1e-6,
    ignored: &[],
    adjust,
    ..super::vit::VISION
};

pub(super) const WITH_REGISTERS: VisionArchitecture = VisionArchitecture {
    id: "dinov2_with_registers",
    title: "DINOv2 with registers",
    adjust: |fields, config| {
        let registers = fields.num_register_tokens.unwrap_or(4);
        Ok(VisionConfig { registers, antialias: true, ..adjust(fields, config)? })
    },
    ..VISION
};

fn adjust(fields: &Fields, mut config: VisionConfig) -> Result<VisionConfig, ConfigError> {
    let inner = (config.block.width as f64 * fields.mlp_ratio.unwrap_or(4.0)) as usize;
    config.block.feed_forward = size("mlp_ratio", inner)?;
    config.block.layer_scale = true;
    if fields.use_swiglu_ffn == Some(true) {
        config.block.gated = true;
        config.block.activation = Activation::Silu;
        config.block.feed_forward = ((inner as f64 * 2.0 / 3.0) as usize).next_multiple_of(8);
    }
    config.pooled = Pooled::Class;
    if let Head::Class(labels) = config.head {
        config.head = Head::ClassAndMean(labels);
    }
    Ok(config)
}
