use qnn_data::{Batch, Loader};
use qnn_layers::{Ctx, Layer, Mode};
use qnn_tensor::Tape;

use crate::data::into_tensor;
use crate::{Error, Loss, Stop, count_correct};

/// How a model does on a set of images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The mean loss per image, added in f64.
    pub loss: f64,
    /// The share of images that are classified correctly.
    pub accuracy: f64,
    /// Images that are classified correctly.
    pub correct: usize,
    /// Images.
    pub count: usize,
}

/// Evaluates a model on all images of a loader, with running statistics and no chance.
///
/// # Errors
///
/// [`Error::Layer`], [`Error::Outputs`] or [`Error::Label`] if the images or labels do not fit the
/// model.
pub fn evaluate(model: &dyn Layer, loader: &Loader, loss: &Loss) -> Result<Evaluation, Error> {
    Ok(evaluate_unless(&Stop::new(), model, loader, loss)?.unwrap_or_default())
}

/// [`evaluate`], or `None` if someone asked to stop meanwhile.
pub(crate) fn evaluate_unless(
    stop: &Stop,
    model: &dyn Layer,
    loader: &Loader,
    loss: &Loss,
) -> Result<Option<Evaluation>, Error> {
    let mut total = Evaluation::default();
    for batch in loader.epoch(0) {
        if stop.is_requested() {
            return Ok(None);
        }
        let part = evaluate_batch(model, batch, loss)?;
        total.loss += part.loss * part.count as f64;
        total.correct += part.correct;
        total.count += part.count;
    }
    total.loss /= total.count as f64;
    total.accuracy = total.correct as f64 / total.count as f64;
    Ok(Some(total))
}

fn evaluate_batch(model: &dyn Layer, batch: Batch, loss: &Loss) -> Result<Evaluation, Error> {
    let (images, labels) = into_tensor(batch)?;
    let tape = Tape::new();
    let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
    let outputs = model.forward(&mut cx, tape.constant(images).into())?.value();
    let loss = f64::from(loss.of(outputs, &labels)?.value().item());
    let (correct, count) = (count_correct(&outputs.value(), &labels), labels.len());
    Ok(Evaluation { loss, accuracy: correct as f64 / count as f64, correct, count })
}
