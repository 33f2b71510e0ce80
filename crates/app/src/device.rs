//! The devices that were compiled in.

use clap::ValueEnum;
use whit::burn::tensor::Device;
#[cfg(any(feature = "vulkan", feature = "metal", feature = "webgpu"))]
use whit::burn::tensor::DeviceKind;
use whit::nn::vars::{Precision, Storage};

/// A device by name. Which ones there are depends on the features of the build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The processor
    #[default]
    Cpu,
    /// The default GPU, through Vulkan
    #[cfg(feature = "vulkan")]
    Vulkan,
    /// The default GPU, through Metal
    #[cfg(feature = "metal")]
    Metal,
    /// The default GPU, through WebGPU
    #[cfg(feature = "webgpu")]
    Webgpu,
    /// The first Nvidia GPU, through CUDA
    #[cfg(feature = "cuda")]
    Cuda,
    /// The first AMD GPU, through ROCm
    #[cfg(feature = "rocm")]
    Rocm,
}

impl DeviceName {
    /// The device for tensors.
    pub fn open(self) -> Device {
        match self {
            Self::Cpu => Device::flex(),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Device::vulkan(DeviceKind::DefaultDevice),
            #[cfg(feature = "metal")]
            Self::Metal => Device::metal(DeviceKind::DefaultDevice),
            #[cfg(feature = "webgpu")]
            Self::Webgpu => Device::webgpu(DeviceKind::DefaultDevice),
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::cuda(0),
            #[cfg(feature = "rocm")]
            Self::Rocm => Device::rocm(0),
        }
    }

    /// The form in which a model's weights are kept: packed for the processor's kernels, or as tensors
    /// on the device.
    pub fn storage(self, precision: Precision) -> Storage {
        match self {
            Self::Cpu => Storage::Packed(precision),
            #[allow(unreachable_patterns, reason = "there are other devices only in some builds")]
            other => Storage::Dense(other.open()),
        }
    }

    /// The name as it is typed.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
