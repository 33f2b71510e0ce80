//! The feed-forward block of BlockFFN (arXiv 2507.08771, section 3.1): a router that opens any number
//! of many small experts, differentiable because nothing is chosen. And what it is compared with: the
//! same experts behind a router that chooses a fixed number of them.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use whit_kernels::block_ffn::{self, Packed, Reach, Sizes};
use whit_kernels::op::{self, Host};

use super::attention::Attend;
use super::linear::Linear;
use super::norm::Norm;
use super::top_k::top_softmax;
use super::vars::{Vars, VarsError};
use crate::nn::decoder::DecoderConfig;

/// The experts of every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFfnConfig {
    /// Experts in a layer.
    pub experts: usize,
    /// Inner values of an expert.
    pub size: usize,
    /// How scores become gates.
    pub router: Router,
}

/// How a router's scores become gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    /// `RMSNorm(ReLU(scores))`: any number of experts is open.
    Relu,
    /// Softmax over so many highest scores, zero elsewhere: a usual mixture of experts.
    TopK(usize),
}

/// What a router said of the tokens of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// The layer's index, from zero.
    pub layer: usize,
    /// Raw scores. `[tokens, experts]`
    pub scores: &'a Tensor<2>,
    /// What the experts' outputs are multiplied with, zero where an expert is not open. `[tokens, experts]`
    pub gates: &'a Tensor<2>,
}

/// `y = sum of a_i E_i(x)` with gates `a` of the [`Router`] and experts `E_i(x) = D_i SiLU(U_i x)`.
///
/// A gate may be negative, where the norm's weight is; an expert is open where its gate is not zero.
#[derive(Module, Debug)]
pub struct BlockFfn {
    router_proj: Linear, // [experts, width]
    router_norm: Option<Norm>,
    up_proj: Option<Linear>,   // [experts * size, width]
    down_proj: Option<Linear>, // [width, experts * size]
    #[module(skip)]
    packed: Option<Arc<Packed>>,
    #[module(skip)]
    router: Router,
    #[module(skip)]
    layer: usize,
}

impl BlockFfn {
    /// Builds the block of layer `layer` from the variables below its name.
    ///
    /// # Errors
    /// If a variable is missing or misshapen, or cannot be packed.
    pub fn new(
        block: BlockFfnConfig,
        config: &DecoderConfig,
        layer: usize,
        vars: &Vars<'_>,
    ) -> Result<Self, VarsError> {
        let BlockFfnConfig { experts, size, router } = block;
        let (inner, width) = (experts * size, config.width);
        let up = vars.own("up_proj", inner, width)?;
        let down = vars.own("down_proj", width, inner)?;
        let packed = match (&up, &down) {
            (Some((up, kind)), Some((down, _))) => {
                let sizes = Sizes { experts, size, width };
                let packed = Packed::pack(up, down, sizes, *kind);
                let name = vars.path("up_proj");
                Some(Arc::new(packed.map_err(|reason| VarsError::Experts { name, reason })?))
            }
            _ => None,
        };
        let trained = packed.is_none();
        let dense = |name, outputs, inputs| match trained {
            true => vars.linear(name, outputs, inputs, false).map(Some),
            false => Ok(None),
        };
        let router_norm = match router {
            Router::Relu => Some(vars.norm("router_norm", experts, config.norm)?),
            Router::TopK(_) => None,
        };
        Ok(Self {
            router_proj: vars.linear("router_proj", experts, width, false)?,
            router_norm,
            up_proj: dense("up_proj", inner, width)?,
            down_proj: dense("down_proj", width, inner)?,
            packed,
            router,
            layer,
        })
    }

    /// `[tokens, width]` to `[tokens, width]`; `attend` sees the router and says which experts are read.
    pub fn forward(&self, x: Tensor<2>, attend: &mut dyn Attend) -> Tensor<2> {
        let scores = self.router_proj.forward(x.clone());
        let gates = self.gates(scores.clone());
        let reach = attend.route(&Routing { layer: self.layer, scores: &scores, gates: &gates });
        match (&self.packed, &self.up_proj, &self.down_proj) {
            (Some(packed), ..) => run(packed, x, gates, &reach),
            (None, Some(up), Some(down)) => down.forward(block_ffn::gated(up.forward(x), gates)),
            _ => unreachable!("a block is built with its weights"),
        }
    }

    fn gates(&self, scores: Tensor<2>) -> Tensor<2> {
        let open = match self.router {
            Router::Relu => whit_kernels::activation::relu(scores),
            Router::TopK(count) => top_softmax(scores, count),
        };
        match &self.router_norm {
            Some(norm) => norm.forward(open),
            None => open,
        }
    }

    /// The bytes that the weights hold.
    pub fn bytes(&self) -> usize {
        let dense = [&self.up_proj, &self.down_proj].into_iter().flatten().map(Linear::bytes).sum::<usize>();
        self.router_proj.bytes() + dense + self.packed.as_ref().map_or(0, |packed| packed.bytes())
    }
}

/// The packed block on tensors. Where a gate is not finite, neither is the result.
fn run(packed: &Packed, x: Tensor<2>, gates: Tensor<2>, reach: &Reach) -> Tensor<2> {
    let device = x.device();
    let [x, gates] = [x, gates].map(op::host);
    let mut out = vec![0.0; x.data().len()];
    if packed.forward(x.data(), gates.data(), reach, &mut out).is_err() {
        out.fill(f32::NAN);
    }
    op::tensor::<2>(Host::new(x.shape(), out)).to_device(&device)
}
