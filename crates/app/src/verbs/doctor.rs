//! `whit doctor`: what was found, what will be used, how fast it is.

use clap::ValueEnum;
use serde::Serialize;
use whit::measure::{bytes, memory};
use whit_kernels::{parallel, simd};

use crate::context::Context;
use crate::device::DeviceName;
use crate::error::AppError;
use crate::machine;
use crate::output;

/// Say what this machine offers, which kernels will be used, and how fast it is
#[derive(Debug, clap::Args)]
pub struct Arguments {}

#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    system: String,
    processor: Option<String>,
    level: &'static str,
    vnni: bool,
    bf16: bool,
    threads: usize,
    cores: usize,
    memory_total_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    devices: Vec<String>,
    kernels: Vec<Kernel>,
    memory_read_gigabytes_per_second: f64,
    f32_product_gigaflops: f64,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Kernel {
    operation: &'static str,
    uses: &'static str,
}

pub fn run(_: Arguments, context: &Context) -> Result<(), AppError> {
    let mut findings = examine(context.device);
    findings.warnings = warnings(&findings);
    context.emit(&findings, || describe(&findings))
}

fn examine(device: DeviceName) -> Findings {
    let features = simd::features();
    Findings {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: machine::processor(),
        level: level_name(features.level),
        vnni: features.vnni,
        bf16: features.bf16,
        threads: parallel::threads(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_total_bytes: memory::total(),
        memory_available_bytes: memory::available(),
        devices: DeviceName::value_variants().iter().map(|device| device.name()).collect(),
        kernels: kernels(features),
        memory_read_gigabytes_per_second: machine::read_speed() / 1e9,
        f32_product_gigaflops: machine::product_speed(&device.open()) / 1e9,
        warnings: Vec::new(),
    }
}

fn level_name(level: simd::Level) -> &'static str {
    match level {
        simd::Level::Plain => "plain",
        simd::Level::Avx2 => "avx2",
        simd::Level::Avx512 => "avx512",
    }
}

/// What the kernels choose, as they choose it.
fn kernels(features: simd::Features) -> Vec<Kernel> {
    let wide = match features.level {
        simd::Level::Avx512 => "AVX-512",
        simd::Level::Avx2 => "AVX2 with FMA",
        simd::Level::Plain => "portable code",
    };
    let pairs = if features.bf16 { "AVX-512 BF16 dot products" } else { wide };
    let bytes = match features.level {
        simd::Level::Avx512 if features.vnni => "AVX-512 VNNI dot products",
        simd::Level::Avx512 | simd::Level::Avx2 => "AVX2",
        simd::Level::Plain => "portable code",
    };
    [
        ("attention, norms, activations, rotary", wide),
        ("linear and convolution in f32", wide),
        ("linear and convolution in bf16", pairs),
        ("linear in int8, q8_0, q4_0, q4_k, q5_k, q6_k", bytes),
    ]
    .map(|(operation, uses)| Kernel { operation, uses })
    .into()
}

fn warnings(findings: &Findings) -> Vec<String> {
    let memory = findings.memory_available_bytes.zip(findings.memory_total_bytes);
    let low = memory.is_some_and(|(available, total)| available < total / 5);
    let lowered = std::env::var_os("WHIT_SIMD").is_some();
    let cases = [
        (
            findings.level == "plain" && cfg!(target_arch = "x86_64") && !lowered,
            "no AVX2: expect a fraction of the usual speed",
        ),
        (lowered, "WHIT_SIMD is set and may rule out the fast kernels"),
        (findings.threads > findings.cores, "more threads than cores: they will wait for each other"),
        (findings.threads < findings.cores, "not all cores are used: raise --threads or unset WHIT_THREADS"),
        (low, "less than a fifth of the memory is free: larger models will be refused"),
        (cfg!(debug_assertions), "this is a debug build: build with --release"),
        (
            findings.memory_read_gigabytes_per_second < 5.0,
            "memory reads are slow: is something else running?",
        ),
    ];
    cases.into_iter().filter(|(holds, _)| *holds).map(|(_, warning)| warning.to_owned()).collect()
}

fn describe(findings: &Findings) -> String {
    let yes = |found| if found { "yes" } else { "no" };
    let size = |size: Option<u64>| size.map_or("unknown".into(), bytes);
    let (total, available) = (size(findings.memory_total_bytes), size(findings.memory_available_bytes));
    let rows = [
        ("whit", format!("{} on {}", findings.version, findings.system)),
        ("processor", findings.processor.clone().unwrap_or_else(|| "unknown".into())),
        (
            "instructions",
            format!("{}; VNNI {}, BF16 {}", findings.level, yes(findings.vnni), yes(findings.bf16)),
        ),
        ("threads", format!("{} of {} cores", findings.threads, findings.cores)),
        ("memory", format!("{total}, {available} available")),
        ("devices", findings.devices.join(", ")),
        ("memory read", format!("{:.1} GB/s", findings.memory_read_gigabytes_per_second)),
        ("f32 product", format!("{:.0} GFLOP/s", findings.f32_product_gigaflops)),
    ];
    let facts = output::pairs(rows.map(|(name, value)| (name.into(), value)));
    let uses = findings.kernels.iter().map(|kernel| vec![kernel.operation.into(), kernel.uses.into()]);
    let kernels = output::table(&["operation", "uses"], uses);
    let warnings: String = findings.warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
    format!("{facts}\n\n{kernels}\n{warnings}")
}
