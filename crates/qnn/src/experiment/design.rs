use std::fmt::Debug;

use qnn_layers::{Init, Layer};
use qnn_models::{
    BnnCnn, BnnCnnConfig, LeNet5, LeNet5Config, Mlp, MlpConfig, ResNet, ResNetConfig, Scheme, Vgg7,
    Vgg7Config,
};

/// A network as data: what a variant of an experiment holds and the command line changes.
///
/// The configurations of [`qnn::models`](qnn_models) are designs. So is any network of one's own that can say these four
/// things; a [`Builder`](qnn_models::Builder) makes it follow its scheme, so that every preset and every flag works with it:
///
/// ```
/// use qnn::data::embedded_digits;
/// use qnn::experiment::Options;
/// use qnn::layers::{DenseConfig, Flatten, Sequential};
/// use qnn::prelude::*;
///
/// #[derive(Clone, Debug)]
/// struct TwoLayers {
///     hidden: usize,
///     scheme: Scheme,
/// }
///
/// impl Design for TwoLayers {
///     fn build(&self, init: &mut Init) -> Result<Box<dyn Layer>, qnn::models::Error> {
///         let mut builder = Builder::new(&self.scheme, Initializer::HeNormal, false, init);
///         let hidden = builder.dense("hidden", Place::First, DenseConfig::new(64, self.hidden))?;
///         let classifier = builder.dense("classifier", Place::Last, DenseConfig::new(self.hidden, 10))?;
///         let model = Sequential::new()
///             .with("flatten", Flatten)
///             .with("hidden", hidden)
///             .with("norm", builder.norm(self.hidden)?)
///             .with("activation", builder.activation()?)
///             .with("classifier", classifier);
///         Ok(Box::new(builder.finish(model)?))
///     }
///
///     fn input(&self) -> [usize; 3] {
///         [8, 8, 1]
///     }
///
///     fn scheme_mut(&mut self) -> &mut Scheme {
///         &mut self.scheme
///     }
///
///     fn boxed(&self) -> Box<dyn Design> {
///         Box::new(self.clone())
///     }
/// }
///
/// // Any images will do: `Images::new` takes pixels and labels.
/// let Dataset { train, test, .. } = embedded_digits()?;
/// let experiment = Experiment::new("mine", "two layers on images of my own")
///     .images(Dataset { name: "my-images".to_owned(), train, test })
///     .recipe(Recipe { epochs: 3, learning_rate: 0.05, ..Recipe::default() })
///     .variant(Variant::new("bc", "BinaryConnect", TwoLayers { hidden: 64, scheme: Scheme::preset("bc")? }));
///
/// let folder = tempfile::tempdir()?; // a program ends with `experiment.main()` instead, which reads its flags
/// let options = Options { out: Some(folder.path().join("bc")), quiet: true, ..Options::default() };
/// let summary = experiment.run(&options)?.expect("options that do not ask for a list");
/// assert!(summary.mean_test_accuracy > 80.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Design: Debug + Send + Sync {
    /// Makes the network with fresh weights.
    ///
    /// # Errors
    ///
    /// [`qnn_models::Error`] for sizes that make no network.
    fn build(&self, init: &mut Init) -> Result<Box<dyn Layer>, qnn_models::Error>;

    /// Height, width and channels of the images it takes.
    fn input(&self) -> [usize; 3];

    /// How it is quantized.
    fn scheme_mut(&mut self) -> &mut Scheme;

    /// The number of weight layers, for designs whose depth can be chosen.
    fn depth(&self) -> Option<usize> {
        None
    }

    /// Changes the number of weight layers; `Ok(false)` if this design has but one depth.
    ///
    /// # Errors
    ///
    /// [`qnn_models::Error`] for a depth that the architecture cannot have.
    fn set_depth(&mut self, _layers: usize) -> Result<bool, qnn_models::Error> {
        Ok(false)
    }

    /// A copy on the heap.
    fn boxed(&self) -> Box<dyn Design>;
}

macro_rules! design {
    ($config:ident, $model:ident, $input:expr $(, $extra:item)*) => {
        impl Design for $config {
            fn build(&self, init: &mut Init) -> Result<Box<dyn Layer>, qnn_models::Error> {
                Ok(Box::new($model::new(self, init)?))
            }

            fn input(&self) -> [usize; 3] {
                let input: fn(&$config) -> [usize; 3] = $input;
                input(self)
            }

            fn scheme_mut(&mut self) -> &mut Scheme {
                &mut self.scheme
            }

            fn boxed(&self) -> Box<dyn Design> {
                Box::new(self.clone())
            }

            $($extra)*
        }
    };
}
design!(LeNet5Config, LeNet5, |config| config.input);
design!(Vgg7Config, Vgg7, |config| config.input);
design!(BnnCnnConfig, BnnCnn, |config| config.input);
design!(MlpConfig, Mlp, |config| image_of(config.in_features));
design!(
    ResNetConfig,
    ResNet,
    // The network takes any size; its published one is CIFAR's.
    |config| [32, 32, config.in_channels],
    fn depth(&self) -> Option<usize> {
        Some(6 * self.blocks_per_stage + 2)
    },
    fn set_depth(&mut self, layers: usize) -> Result<bool, qnn_models::Error> {
        self.blocks_per_stage = ResNetConfig::from_depth(layers)?.blocks_per_stage;
        Ok(true)
    }
);

/// The image that a network of so many inputs takes: a grey square, a coloured square, or one row.
fn image_of(values: usize) -> [usize; 3] {
    let square = |pixels: usize| Some(pixels.isqrt()).filter(|side| side * side == pixels);
    let coloured = || square(values / 3).filter(|_| values.is_multiple_of(3));
    match (square(values), coloured()) {
        (Some(side), _) => [side, side, 1],
        (None, Some(side)) => [side, side, 3],
        (None, None) => [1, values, 1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perceptrons_take_squares_where_they_can() {
        let input = |values| MlpConfig::new(values, &[2], 10).input();
        assert_eq!((input(784), input(1024)), ([28, 28, 1], [32, 32, 1]));
        assert_eq!((input(3072), input(10)), ([32, 32, 3], [1, 10, 1]));
    }
}
