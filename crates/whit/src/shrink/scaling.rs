//! Scaling the inputs of linear layers without changing what a block computes: what makes an input is
//! divided by a factor, and the weights that read it are multiplied with it.

use super::{Block, Form, ShrinkError};
use crate::nn::attention::Port;

/// The largest `|W_j|` of each input of `port`, over the rows of all matrices that read it.
///
/// # Errors
/// If the block has no such matrices.
pub fn column_maxima(block: &Block<'_>, port: Port) -> Result<Vec<f32>, ShrinkError> {
    let mut maxima = Vec::new();
    for name in block.matrices(port) {
        let weight = block.get(&name)?;
        maxima.resize(weight.inputs(), 0.0f32);
        for row in weight.values.chunks_exact(weight.inputs()) {
            maxima.iter_mut().zip(row).for_each(|(largest, w)| *largest = largest.max(w.abs()));
        }
    }
    Ok(maxima)
}

/// Whether there is a linear operation before `port` that can take a division over: a norm, the values
/// where every query head has its own, or the up-projection.
pub fn can_fold(block: &Block<'_>, port: Port) -> bool {
    match port {
        Port::Attention | Port::FeedForward => true,
        Port::Output => block.config.heads == block.config.kv_heads,
        Port::Down => block.has("mlp.up_proj.weight") && block.config.gated,
    }
}

/// Multiplies column `j` of every matrix behind `port` with `scales[j]`, and divides what comes before.
///
/// # Errors
/// If a tensor is missing.
pub fn fold(block: &mut Block<'_>, port: Port, scales: &[f32]) -> Result<(), ShrinkError> {
    for name in block.matrices(port) {
        let scaled = columns(&block.get(&name)?.values, scales);
        block.set_values(&name, scaled, Form::Dense)?;
    }
    let before = match port {
        Port::Attention => "input_layernorm",
        Port::FeedForward => "post_attention_layernorm",
        Port::Output => "self_attn.v_proj",
        Port::Down => "mlp.up_proj",
    };
    for name in [format!("{before}.weight"), format!("{before}.bias")] {
        if block.has(&name) {
            let divided = divided(&block.get(&name)?.values, scales);
            block.set_values(&name, divided, Form::Dense)?;
        }
    }
    Ok(())
}

/// `W diag(s)`.
pub fn columns(weights: &[f32], scales: &[f32]) -> Vec<f32> {
    weights.chunks_exact(scales.len()).flat_map(|row| row.iter().zip(scales).map(|(w, s)| w * s)).collect()
}

/// `diag(1/s) V`, for a vector or a matrix of as many rows as there are scales.
fn divided(values: &[f32], scales: &[f32]) -> Vec<f32> {
    let width = values.len() / scales.len().max(1);
    values
        .chunks_exact(width.max(1))
        .zip(scales)
        .flat_map(|(row, s)| row.iter().map(move |v| v / s))
        .collect()
}
