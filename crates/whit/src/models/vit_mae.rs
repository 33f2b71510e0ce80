//! MAE (He et al., 2021): the encoder of a masked autoencoder, which sees a part of the patches while it is
//! trained.

use super::config::ConfigError;
use super::vision::VisionArchitecture;
use crate::nn::vision::{Pooled, VisionConfig};

pub(super) const VISION: VisionArchitecture = VisionArchitecture {
    id: "vit_mae",
    title: "MAE",
    ignored: &["PreTraining"],
    adjust: |fields, config| {
        let ratio = fields.mask_ratio.unwrap_or(0.75);
        if !(0.0..1.0).contains(&ratio) {
            let allowed = "it must lie between 0 and 1".into();
            return Err(ConfigError::Value { field: "mask_ratio", found: ratio.to_string(), allowed });
        }
        Ok(VisionConfig { pooled: Pooled::Nothing, mask_ratio: Some(ratio), ..config })
    },
    ..super::vit::VISION
};
