use crate::{Ctx, Error, Layer, Leaf, LeafMut, Module, Path, Signal, Within};

/// Layers one after the other.
///
/// ```
/// use qnn_layers::{Dense, DenseConfig, Init, Relu, Sequential, state_dict};
///
/// let mut init = Init::new(0);
/// let model = Sequential::new()
///     .with("hidden", Dense::new(&DenseConfig::new(64, 32), &mut init)?)
///     .then(Relu::default())
///     .then(Dense::new(&DenseConfig::new(32, 10), &mut init)?);
/// assert!(state_dict(&model).keys().eq(["2.bias", "2.kernel", "hidden.bias", "hidden.kernel"]));
/// # Ok::<(), qnn_layers::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Sequential {
    layers: Vec<(String, Box<dyn Layer>)>,
}

impl Sequential {
    /// No layers: the identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a layer, named by its number (from 0).
    #[must_use]
    pub fn then(self, layer: impl Layer + 'static) -> Self {
        let name = self.layers.len().to_string();
        self.with(&name, layer)
    }

    /// Appends a layer under a name.
    ///
    /// # Panics
    ///
    /// If the name is taken.
    #[must_use]
    #[track_caller]
    pub fn with(mut self, name: &str, layer: impl Layer + 'static) -> Self {
        assert!(self.layers.iter().all(|(taken, _)| taken != name), "there are two layers `{name}`");
        self.layers.push((name.to_owned(), Box::new(layer)));
        self
    }

    /// The layers with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &dyn Layer)> {
        self.layers.iter().map(|(name, layer)| (name.as_str(), &**layer))
    }
}

impl Module for Sequential {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        for (name, layer) in &self.layers {
            at.within(name, |at| layer.visit(at, &mut *f));
        }
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        for (name, layer) in &mut self.layers {
            at.within(name, |at| layer.visit_mut(at, &mut *f));
        }
    }
}

impl Layer for Sequential {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        self.layers.iter().try_fold(x, |x, (name, layer)| layer.forward(cx, x).within(name))
    }
}

#[cfg(test)]
mod tests {
    use qnn_tensor::{Tape, Tensor};

    use super::*;
    use crate::{Dense, DenseConfig, Init, Mode, Relu};

    fn dense(inputs: usize, outputs: usize) -> Dense {
        Dense::new(&DenseConfig::new(inputs, outputs), &mut Init::new(0)).unwrap()
    }

    fn run(layer: &dyn Layer, x: Tensor) -> Result<Tensor, Error> {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let x = tape.constant(x).into();
        layer.forward(&mut cx, x).map(|y| y.value().value())
    }

    #[test]
    fn an_error_says_in_which_layer() {
        let model = Sequential::new().then(dense(4, 3)).with("head", dense(5, 2));
        let error = run(&model, Tensor::zeros(&[1, 4])).unwrap_err();
        assert_eq!(error.to_string(), "in head: dense takes [.., 5], got [1, 3]");
    }

    #[test]
    #[should_panic(expected = "two layers `1`")]
    fn names_are_unique() {
        let _ = Sequential::new().with("1", Relu::default()).then(Relu::default());
    }
}
