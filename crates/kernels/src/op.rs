//! The one bridge between Burn's tensors and the kernels: a [`Kernel`] is written on plain slices,
//! and [`apply`] runs it on tensors, records it for autodiff, and hands its gradients back.
//!
//! Kernels see [`Host`] arrays: contiguous `f32` in main memory. Tensors on another device are
//! refused by [`on_host`]; the kernel's public function then takes its portable path in tensor ops.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, BackendTensor, DispatchAutodiffContext, DispatchDevice, DispatchKindConversion, DispatchTensor,
    Flex, GradientCheckpointingStrategy, TensorMetadata,
};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};

type Tracked<C> = <Autodiff<Flex, C> as burn::backend::BackendTypes>::FloatTensorPrimitive;

/// A contiguous `f32` array in main memory, cheap to clone (shared storage).
#[derive(Clone, Debug)]
pub struct Host(FlexTensor);

impl Host {
    /// Wraps `data` in row-major order.
    ///
    /// # Panics
    /// If the number of values is not the product of `shape`: a kernel's bug, never a user's input.
    pub fn new(shape: impl Into<Shape>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.num_elements(), data.len(), "values do not fill {shape:?}");
        Self(FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(shape), DType::F32))
    }

    /// The sizes of the dimensions, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    /// The size of dimension `index`.
    pub fn dim(&self, index: usize) -> usize {
        self.0.shape()[index]
    }

    /// The size of the last dimension (1 for a scalar).
    pub fn width(&self) -> usize {
        self.0.shape().to_vec().last().copied().unwrap_or(1)
    }

    /// The values in row-major order.
    pub fn data(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("Host is contiguous f32 by construction")
    }

    /// Takes the values out, without a copy where this is the only owner.
    pub fn into_vec(self) -> Vec<f32> {
        let data = self.0.into_data();
        data.try_into_vec::<f32>().expect("Host is contiguous f32 by construction")
    }

    fn from_flex(tensor: FlexTensor) -> Self {
        let whole = tensor.is_contiguous()
            && tensor.layout().start_offset() == 0
            && tensor.bytes().len() == tensor.layout().num_elements() * size_of::<f32>();
        assert_eq!(tensor.dtype(), DType::F32, "kernels take f32 tensors");
        if whole { Self(tensor) } else { Self(tensor.to_contiguous()) }
    }
}

/// An operation on `N` host arrays, with its derivative.
pub trait Kernel<const N: usize>: Clone + Debug + Send + Sync + 'static {
    /// What the backward pass needs from the forward pass besides inputs and output.
    type Saved: Clone + Debug + Send + 'static;

    /// Computes the output.
    fn forward(&self, inputs: [&Host; N]) -> (Host, Self::Saved);

    /// Computes the gradient of each input with `wanted` set, from the gradient of the output.
    fn backward(&self, pass: Pass<'_, Self::Saved, N>) -> [Option<Host>; N];
}

/// What [`Kernel::backward`] is given.
#[derive(Debug)]
pub struct Pass<'a, S, const N: usize> {
    /// The forward pass's inputs.
    pub inputs: [&'a Host; N],
    /// The forward pass's output.
    pub output: &'a Host,
    /// What the forward pass saved.
    pub saved: &'a S,
    /// The gradient of the output, in its shape.
    pub gradient: &'a Host,
    /// Which inputs need a gradient.
    pub wanted: [bool; N],
}

/// Whether `tensor` lies in main memory as `f32`, so that [`apply`] can take it.
pub fn on_host<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && is_flex(tensor.device().as_dispatch())
}

fn is_flex(device: &DispatchDevice) -> bool {
    match device {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(inner) => is_flex(inner),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// The values of a tensor as a host array; detached from autodiff, moved from its device if needed.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Host {
    let tensor = if tensor.device().is_autodiff() { tensor.inner() } else { tensor };
    if on_host(&tensor) {
        return Host::from_flex(flex(tensor.into_dispatch()));
    }
    let data = tensor.into_data().convert::<f32>();
    Host(FlexTensor::from_data(data))
}

/// A tensor on the CPU that shares a host array's storage.
pub fn tensor<const D: usize>(host: Host) -> Tensor<D> {
    Tensor::from_dispatch(plain(host))
}

/// Runs `kernel` on tensors for which [`on_host`] holds, tracked by autodiff where an input is.
///
/// # Panics
/// If a tensor is not `f32` in main memory.
pub fn apply<K: Kernel<N>, const N: usize>(kernel: K, inputs: [DispatchTensor; N]) -> DispatchTensor {
    let context = inputs.iter().fold(DispatchAutodiffContext::Disabled, |all, one| all.merge(one.autodiff));
    match context {
        DispatchAutodiffContext::Disabled => {
            let hosts = inputs.map(|input| Host::from_flex(flex(input)));
            plain(kernel.forward(hosts.each_ref()).0)
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Disabled) => {
            tracked::<K, NoCheckpointing, N>(kernel, inputs.map(lift::<NoCheckpointing>))
        }
        DispatchAutodiffContext::Enabled(_) => {
            tracked::<K, BalancedCheckpointing, N>(kernel, inputs.map(lift::<BalancedCheckpointing>))
        }
    }
}

fn flex(tensor: DispatchTensor) -> FlexTensor {
    match <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(tensor) {
        Ok(tensor) => tensor.float(),
        Err(reason) => panic!("a kernel was given a tensor outside main memory: {reason}"),
    }
}

fn plain(host: Host) -> DispatchTensor {
    <DispatchTensor as DispatchKindConversion<Flex>>::from_backend(BackendTensor::Float(host.0))
}

fn lift<C: CheckpointStrategy>(tensor: DispatchTensor) -> Tracked<C>
where
    DispatchTensor: DispatchKindConversion<Autodiff<Flex, C>>,
{
    if tensor.autodiff == DispatchAutodiffContext::Disabled {
        return Tracked::<C>::new(flex(tensor));
    }
    match <DispatchTensor as DispatchKindConversion<Autodiff<Flex, C>>>::try_into_backend(tensor) {
        Ok(tensor) => tensor.float(),
        Err(reason) => panic!("a kernel was given a tensor outside main memory: {reason}"),
    }
}

/// The node that [`apply`] leaves in the autodiff graph.
#[derive(Debug)]
struct Node<K>(K);

#[derive(Clone, Debug)]
struct State<K, S, const N: usize> {
    kernel: K,
    inputs: [Host; N],
    output: Host,
    saved: S,
}

impl<K: Kernel<N>, const N: usize> Backward<Flex, N> for Node<K> {
    type State = State<K, K::Saved, N>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = Host::from_flex(grads.consume::<Flex>(&ops.node));
        let state = &ops.state;
        let pass = Pass {
            inputs: state.inputs.each_ref(),
            output: &state.output,
            saved: &state.saved,
            gradient: &gradient,
            wanted: ops.parents.each_ref().map(Option::is_some),
        };
        let results = state.kernel.backward(pass);
        for (parent, result) in ops.parents.into_iter().zip(results) {
            if let (Some(parent), Some(result)) = (parent, result) {
                grads.register::<Flex>(parent.id, result.0);
            }
        }
    }
}

fn tracked<K: Kernel<N>, C: CheckpointStrategy, const N: usize>(
    kernel: K,
    inputs: [Tracked<C>; N],
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<Autodiff<Flex, C>>,
{
    let guards = inputs.each_ref().map(|input| input.node());
    let hosts = inputs.map(|input| Host::from_flex(input.into_primitive()));
    let (output, saved) = kernel.forward(hosts.each_ref());
    let result = match Node(kernel.clone()).prepare::<C>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let state = State { kernel, inputs: hosts, output: output.clone(), saved };
            prepared.finish(state, output.0)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(output.0),
    };
    <DispatchTensor as DispatchKindConversion<Autodiff<Flex, C>>>::from_backend(BackendTensor::Float(result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[derive(Clone, Debug)]
    struct Product;

    impl Kernel<2> for Product {
        type Saved = ();

        fn forward(&self, [a, b]: [&Host; 2]) -> (Host, ()) {
            let data = a.data().iter().zip(b.data()).map(|(a, b)| a * b).collect();
            (Host::new(a.shape(), data), ())
        }

        fn backward(&self, pass: Pass<'_, (), 2>) -> [Option<Host>; 2] {
            let [a, b] = pass.inputs;
            [b, a].map(|other| Some(self.forward([pass.gradient, other]).0))
        }
    }

    fn product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
        Tensor::from_dispatch(apply(Product, [a.into_dispatch(), b.into_dispatch()]))
    }

    #[test]
    fn forward_reads_strided_inputs() {
        let device = Device::flex();
        let a = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
        product(a.clone(), a.transpose())
            .into_data()
            .assert_eq(&TensorData::from([[1.0f32, 6.0], [6.0, 16.0]]), true);
    }

    #[test]
    fn gradients_equal_burns_own() {
        for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
            let a = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device).require_grad();
            let b = Tensor::<2>::from_data([[5.0, 6.0], [7.0, 8.0]], &Device::flex());
            let ours = product(a.clone(), b.clone()).sum().backward();
            let theirs = (a.clone() * b).sum().backward();
            let pair = [ours, theirs].map(|grads| a.grad(&grads).map(Tensor::into_data));
            assert_eq!(pair[0], pair[1]);
        }
    }
}
