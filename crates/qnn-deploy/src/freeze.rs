use qnn_data::Normalize;
use qnn_layers::{Ctx, Layer, Trace};
use qnn_tensor::{Tape, Tensor};

use crate::graph::Graph;
use crate::lower::lower;
use crate::program::{Normalization, Program};
use crate::{Error, Result};

/// The program of a model for images `[height, width, channels]`, by listening to one evaluation.
///
/// ```
/// use qnn_deploy::{Session, freeze};
/// use qnn_layers::Init;
/// use qnn_models::{LeNet5, LeNet5Config, Scheme};
///
/// let config = LeNet5Config { scheme: Scheme::preset("bnn")?, ..LeNet5Config::default() };
/// let model = LeNet5::new(&config, &mut Init::new(0))?;
/// let program = freeze(&model, [28, 28, 1])?;
/// let logits = Session::new(&program)?.run(&[0.5_f32; 28 * 28][..])?;
/// assert_eq!(logits.len(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::Forward`] if the model does not take such images, and one that names the layer if it
/// has none that a program could hold: tape operations that no layer reported, quantizers that
/// measure their input, parameters that are not finite.
pub fn freeze(model: &dyn Layer, shape: [usize; 3]) -> Result<Program> {
    let tape = Tape::new();
    // Different numbers, lest a quantizer that measures finds nothing to measure.
    let image = Tensor::from_fn(&batch_of(1, shape), |i| (i % 17) as f32 / 8.0 - 1.0);
    let traced = Traced::new(model, &tape, image, shape)?;
    let Traced { trace, input, output } = traced;
    lower(&Graph::new(model, trace.steps, input, output)?, input, shape)
}

/// One evaluation that was listened to.
pub(crate) struct Traced<'t> {
    pub(crate) trace: Trace<'t>,
    /// The nodes of the images and of the logits.
    pub(crate) input: usize,
    pub(crate) output: usize,
}

impl<'t> Traced<'t> {
    pub(crate) fn new(model: &dyn Layer, tape: &'t Tape, images: Tensor, shape: [usize; 3]) -> Result<Self> {
        let mut cx = Ctx::tracing(tape);
        let images = tape.constant(images);
        let output = model
            .forward(&mut cx, images.into())
            .map_err(|source| Error::Forward { shape, source: Box::new(source) })?;
        let output = cx.value(output);
        Ok(Self { trace: cx.into_trace(), input: images.index(), output: output.index() })
    }
}

pub(crate) fn batch_of(images: usize, [h, w, c]: [usize; 3]) -> [usize; 4] {
    [images, h, w, c]
}

impl Program {
    /// The same program, which knows how training made numbers of bytes: it takes images as bytes too.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] if the normalisation is for another number of channels.
    pub fn with_normalization(mut self, normalize: &Normalize) -> Result<Self> {
        let (mean, std) = (normalize.mean().to_vec(), normalize.std().to_vec());
        let normalization = Normalization { mean, std };
        normalization.tables(self.input_shape()[2])?;
        self.normalization = Some(normalization);
        Ok(self)
    }

    /// The same program, which knows what its outputs stand for.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] unless there is one name for each output.
    pub fn with_classes(mut self, classes: Vec<String>) -> Result<Self> {
        if classes.len() != self.outputs() {
            let expected = format!("{}, one for each output", self.outputs());
            return Err(Error::Length { what: "class names", got: classes.len(), expected });
        }
        self.classes = classes;
        Ok(self)
    }
}
