//! DeiT (Touvron et al., 2020): ViT with a second token that learns from a teacher.

use super::vision::VisionArchitecture;
use crate::nn::vision::VisionConfig;

pub(super) const VISION: VisionArchitecture = VisionArchitecture {
    id: "deit",
    title: "DeiT",
    adjust: |_, config| Ok(VisionConfig { distillation_token: true, ..config }),
    ..super::vit::VISION
};
