use std::collections::BTreeSet;
use std::fmt;

use crate::{Buffer, Param, ParamId, Role};

/// Something that holds parameters and buffers: a layer, a block, a model.
///
/// A visit passes every leaf with its path, in the order of declaration. All that is done with a
/// model's tensors (saving, loading, counting, updating, clipping) is a closure over a visit.
/// Implement it for a struct of your own with [`module!`](crate::module).
pub trait Module {
    /// Passes every leaf below `at` to `f`.
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>));

    /// Passes every leaf below `at` to `f`, for writing.
    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>));
}

/// What a visit finds.
#[derive(Clone, Copy, Debug)]
pub enum Leaf<'a> {
    /// A trained tensor.
    Param(&'a Param),
    /// A saved but untrained tensor.
    Buffer(&'a Buffer),
}

/// What a visit for writing finds.
#[derive(Debug)]
pub enum LeafMut<'a> {
    /// A trained tensor.
    Param(&'a mut Param),
    /// A saved but untrained tensor.
    Buffer(&'a mut Buffer),
}

/// Where a visit is: names joined by dots, such as `blocks.0.conv1.kernel`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    text: String,
}

/// Which parameters [`parameter_count`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Count {
    /// Kernels and biases of convolutions and dense layers, without normalisations: the count that
    /// publications state.
    ConvAndDense,
    /// Every trained tensor.
    All,
}

/// Implements [`Module`] for a struct by listing the fields that hold parameters or buffers; their
/// names become the path.
///
/// A field that is left out is neither saved nor trained: compare
/// [`parameter_count`](crate::parameter_count) with the expected number in a test.
///
/// ```
/// use qnn_layers::{Param, Role, module, state_dict};
/// use qnn_tensor::Tensor;
///
/// struct Affine { factor: Param, offset: Param }
/// module!(Affine { factor, offset });
///
/// let one = || Param::new(Role::Other, Tensor::scalar(1.0));
/// let affine = Affine { factor: one(), offset: one() };
/// assert!(state_dict(&affine).keys().eq(["factor", "offset"]));
/// ```
#[macro_export]
macro_rules! module {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::Module for $type {
            #[allow(unused_variables)]
            fn visit<'a>(
                &'a self,
                at: &mut $crate::Path,
                f: &mut dyn ::std::ops::FnMut(&$crate::Path, $crate::Leaf<'a>),
            ) {
                $(at.within(stringify!($field), |at| {
                    $crate::Module::visit(&self.$field, at, &mut *f)
                });)*
            }

            #[allow(unused_variables)]
            fn visit_mut(
                &mut self,
                at: &mut $crate::Path,
                f: &mut dyn ::std::ops::FnMut(&$crate::Path, $crate::LeafMut<'_>),
            ) {
                $(at.within(stringify!($field), |at| {
                    $crate::Module::visit_mut(&mut self.$field, at, &mut *f)
                });)*
            }
        }
    };
}

/// Passes every parameter once, with the first path that leads to it.
pub fn for_each_param<'a>(module: &'a dyn Module, f: &mut dyn FnMut(&str, &'a Param)) {
    let mut seen = BTreeSet::new();
    module.visit(&mut Path::default(), &mut |at, leaf| match leaf {
        Leaf::Param(param) if seen.insert(param.id()) => f(at.as_str(), param),
        _ => {}
    });
}

/// Passes every parameter once, for writing, with the first path that leads to it.
pub fn for_each_param_mut(module: &mut dyn Module, f: &mut dyn FnMut(&str, &mut Param)) {
    let mut seen: BTreeSet<ParamId> = BTreeSet::new();
    module.visit_mut(&mut Path::default(), &mut |at, leaf| match leaf {
        LeafMut::Param(param) if seen.insert(param.id()) => f(at.as_str(), param),
        _ => {}
    });
}

/// The number of trained values; a shared parameter counts once.
pub fn parameter_count(module: &dyn Module, which: Count) -> usize {
    let mut count = 0;
    for_each_param(module, &mut |_, param| {
        let counts = which == Count::All || matches!(param.role(), Role::Kernel | Role::Bias);
        count += if counts { param.value().len() } else { 0 };
    });
    count
}

/// The size of all trained values at the bits that the layers compute with; a shared parameter
/// counts once.
pub fn model_bits(module: &dyn Module) -> u64 {
    let mut bits = 0;
    for_each_param(module, &mut |_, param| bits += u64::from(param.bits()) * param.value().len() as u64);
    bits
}

impl Path {
    /// Runs `f` one name deeper.
    pub fn within<R>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let len = self.text.len();
        if len > 0 {
            self.text.push('.');
        }
        self.text.push_str(name);
        let result = f(self);
        self.text.truncate(len);
        result
    }

    /// The names joined by dots; empty at the root.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Module for Param {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        f(at, Leaf::Param(self));
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        f(at, LeafMut::Param(self));
    }
}

impl Module for Buffer {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        f(at, Leaf::Buffer(self));
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        f(at, LeafMut::Buffer(self));
    }
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        (**self).visit(at, f);
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        (**self).visit_mut(at, f);
    }
}

impl<M: Module> Module for Option<M> {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        if let Some(module) = self {
            module.visit(at, f);
        }
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        if let Some(module) = self {
            module.visit_mut(at, f);
        }
    }
}

/// The children are named by their numbers, from 0.
impl<M: Module> Module for Vec<M> {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        for (i, module) in self.iter().enumerate() {
            at.within(&i.to_string(), |at| module.visit(at, &mut *f));
        }
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        for (i, module) in self.iter_mut().enumerate() {
            at.within(&i.to_string(), |at| module.visit_mut(at, &mut *f));
        }
    }
}

#[cfg(test)]
mod tests {
    use qnn_tensor::Tensor;

    use super::*;

    struct Inner {
        kernel: Param,
        mean: Buffer,
    }
    module!(Inner { kernel, mean });

    struct Outer {
        first: Inner,
        rest: Vec<Inner>,
        absent: Option<Inner>,
        boxed: Box<dyn Module>,
    }
    module!(Outer { first, rest, absent, boxed });

    fn inner() -> Inner {
        let kernel = Param::new(Role::Kernel, Tensor::zeros(&[2, 3]));
        Inner { kernel, mean: Buffer::new(Tensor::zeros(&[3])) }
    }

    fn outer() -> Outer {
        let bias = Param::new(Role::Beta, Tensor::zeros(&[4]));
        Outer { first: inner(), rest: vec![inner(), inner()], absent: None, boxed: Box::new(bias) }
    }

    const PATHS: [&str; 7] = [
        "first.kernel",
        "first.mean",
        "rest.0.kernel",
        "rest.0.mean",
        "rest.1.kernel",
        "rest.1.mean",
        "boxed",
    ];

    #[test]
    fn both_visits_pass_every_leaf_of_every_field_in_order() {
        let mut module = outer();
        let mut paths = Vec::new();
        module.visit(&mut Path::default(), &mut |at, _| paths.push(at.to_string()));
        assert_eq!(paths, PATHS);
        paths.clear();
        module.visit_mut(&mut Path::default(), &mut |at, _| paths.push(at.to_string()));
        assert_eq!(paths, PATHS);
    }

    #[test]
    fn counts_tell_normalisations_from_weights() {
        assert_eq!(parameter_count(&outer(), Count::ConvAndDense), 18);
        assert_eq!(parameter_count(&outer(), Count::All), 22);
    }

    #[test]
    fn a_parameter_with_two_paths_is_passed_once() {
        struct Tied {
            kernel: Param,
        }
        impl Module for Tied {
            fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
                at.within("encoder", |at| self.kernel.visit(at, &mut *f));
                at.within("decoder", |at| self.kernel.visit(at, &mut *f));
            }

            fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
                at.within("encoder", |at| self.kernel.visit_mut(at, &mut *f));
                at.within("decoder", |at| self.kernel.visit_mut(at, &mut *f));
            }
        }
        let mut tied = Tied { kernel: Param::new(Role::Kernel, Tensor::scalar(1.0)) };
        for_each_param_mut(&mut tied, &mut |path, param| {
            assert_eq!(path, "encoder");
            param.value_mut().as_mut_slice()[0] += 1.0;
        });
        assert_eq!(tied.kernel.value().item(), 2.0);
        assert_eq!(parameter_count(&tied, Count::All), 1);
    }
}
