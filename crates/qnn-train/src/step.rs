use qnn_layers::{Ctx, Layer, Mode, ParamGradients, Updates, apply_updates};
use qnn_tensor::{Tape, Tensor};

use crate::{Error, Loss, Optimizer, StepReport, count_correct};

/// What one training step depends on beside the model, the optimizer and the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// What is made small.
    pub loss: Loss,
    /// The run's seed: all chance in the model is a function of it and of the step.
    pub seed: u64,
    /// The number of the step.
    pub step: u64,
    /// The learning rate.
    pub rate: f32,
    /// How much of the training is done, from 0 to 1: what is scheduled inside of the model goes by it.
    pub progress: f64,
}

/// What one training step showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// The mean loss per image, before the update.
    pub loss: f32,
    /// Images that were classified correctly, before the update.
    pub correct: usize,
    /// Sign changes of latent weights.
    pub report: StepReport,
}

/// One training step: forward, backward, update. The body of [`fit`](crate::fit)'s loop, for loops
/// of your own.
///
/// ```
/// use qnn_layers::{Dense, DenseConfig, Init};
/// use qnn_tensor::Tensor;
/// use qnn_train::{Loss, Sgd, SgdConfig, StepSettings, step};
///
/// let mut model = Dense::new(&DenseConfig::new(2, 2), &mut Init::new(0))?;
/// let mut optimizer = Sgd::new(SgdConfig::default())?;
/// let images = Tensor::from_vec(&[2, 2], vec![1.0, 0.0, 0.0, 1.0])?;
/// let mut losses = Vec::new();
/// for number in 0..20 {
///     let settings = StepSettings { loss: Loss::default(), seed: 0, step: number, rate: 0.5, progress: 0.0 };
///     losses.push(step(&mut model, &mut optimizer, images.clone(), &[0, 1], &settings)?.loss);
/// }
/// assert!(losses[19] < 0.1 * losses[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::Diverged`] if the loss is infinite or NaN, [`Error::Layer`], [`Error::Outputs`] or
/// [`Error::Label`] if the batch does not fit the model, and those of [`Optimizer::step`]. The model
/// is then unchanged.
pub fn step(
    model: &mut dyn Layer,
    optimizer: &mut dyn Optimizer,
    images: Tensor,
    labels: &[usize],
    settings: &StepSettings,
) -> Result<StepResult, Error> {
    let Pass { loss, correct, mut gradients, updates } = differentiate(model, images, labels, settings)?;
    let report = optimizer.step(model, &mut gradients, settings.rate)?;
    apply_updates(model, updates);
    Ok(StepResult { loss, correct, report })
}

/// What forward and backward leave.
struct Pass {
    loss: f32,
    correct: usize,
    gradients: ParamGradients,
    updates: Updates,
}

/// Forward and backward. The tape ends here: while it lived, it shared the parameters' buffers, and
/// an update in place would have copied each of them.
fn differentiate(
    model: &dyn Layer,
    images: Tensor,
    labels: &[usize],
    settings: &StepSettings,
) -> Result<Pass, Error> {
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Train, settings.seed, settings.step).with_progress(settings.progress);
    let outputs = model.forward(&mut cx, tape.constant(images).into())?.value();
    let mean = settings.loss.of(outputs, labels)?;
    let (loss, correct) = (mean.value().item(), count_correct(&outputs.value(), labels));
    if !loss.is_finite() {
        let at = format!("step {}", settings.step);
        return Err(Error::Diverged { loss, at, rate: settings.rate });
    }
    let bindings = cx.finish();
    let gradients = bindings.gradients(&mut tape.backward_deferred(mean));
    Ok(Pass { loss, correct, gradients, updates: bindings.into_updates() })
}
