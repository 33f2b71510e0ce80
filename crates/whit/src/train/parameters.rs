//! The parameters of a module by name: their gradients out, their new values in.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
use whit_kernels::op;

/// Values by the parameter's path in the module, such as `layers.0.attention.query.weight`.
pub type Named = BTreeMap<String, Vec<f32>>;

/// One parameter as the optimiser sees it.
#[derive(Debug)]
pub struct Slot<'a> {
    /// The path in the module.
    pub name: &'a str,
    /// The sizes of its dimensions.
    pub shape: &'a [usize],
    /// Its values, to be changed in place.
    pub values: &'a mut Vec<f32>,
}

/// Takes the gradients of `module` out of `gradients` and adds them to `sums`.
pub fn add_gradients<M: Module>(module: &M, gradients: &mut Gradients, sums: &mut Named) {
    module.visit(&mut Collect { path: Vec::new(), gradients, sums });
}

/// Calls `change` on every float parameter and returns the module with the new values.
pub fn change<M: Module>(module: M, change: impl FnMut(Slot<'_>)) -> M {
    module.map(&mut Change { path: Vec::new(), change })
}

/// Calls `read(name, shape, values)` on every float parameter.
pub fn read<M: Module>(module: &M, read: impl FnMut(&str, Vec<usize>, Vec<f32>)) {
    module.visit(&mut Read { path: Vec::new(), read });
}

/// The variants of an enum are no part of a name: a parameter is called as in checkpoints.
fn is_variant(container: &str) -> bool {
    container.starts_with("Enum:")
}

fn enter(path: &mut Vec<String>, name: &str, container: &str) {
    if !is_variant(container) {
        path.push(name.to_owned());
    }
}

fn exit(path: &mut Vec<String>, container: &str) {
    if !is_variant(container) {
        path.pop();
    }
}

struct Collect<'a> {
    path: Vec<String>,
    gradients: &'a mut Gradients,
    sums: &'a mut Named,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        enter(&mut self.path, name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        exit(&mut self.path, container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = param.val().grad_remove(self.gradients) else { return };
        let gradient = op::host(gradient);
        match self.sums.get_mut(&self.path.join(".")) {
            Some(sum) => sum.iter_mut().zip(gradient.data()).for_each(|(sum, value)| *sum += value),
            None => drop(self.sums.insert(self.path.join("."), gradient.into_vec())),
        }
    }
}

struct Read<F> {
    path: Vec<String>,
    read: F,
}

impl<F: FnMut(&str, Vec<usize>, Vec<f32>)> ModuleVisitor for Read<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        enter(&mut self.path, name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        exit(&mut self.path, container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let host = op::host(param.val());
        (self.read)(&self.path.join("."), host.shape(), host.into_vec());
    }
}

struct Change<F> {
    path: Vec<String>,
    change: F,
}

impl<F: FnMut(Slot<'_>)> ModuleMapper for Change<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        enter(&mut self.path, name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        exit(&mut self.path, container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let (device, learns) = (tensor.device(), tensor.is_require_grad());
        let host = op::host(tensor);
        let shape = host.shape();
        let mut values = host.into_vec();
        (self.change)(Slot { name: &self.path.join("."), shape: &shape, values: &mut values });
        let tensor = Tensor::from_data(TensorData::new(values, shape), &device);
        let tensor = if learns { tensor.require_grad() } else { tensor };
        Param::from_mapped_value(id, tensor, mapper)
    }
}
