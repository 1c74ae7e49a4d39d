use crate::{Ctx, Error, Layer, Signal, module};

/// In training, zeroes each element with probability `rate` and divides the others by `1 − rate`;
/// in evaluation, the identity.
///
/// Srivastava et al. 2014, in the form that scales during training. The mask is a function of the
/// context's seed and step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    rate: f32,
}

impl Dropout {
    /// Dropout with this rate.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] unless 0 ≤ rate < 1.
    pub fn new(rate: f32) -> Result<Self, Error> {
        if (0.0..1.0).contains(&rate) {
            return Ok(Self { rate });
        }
        let expected = "at least 0 and below 1".to_owned();
        Err(Error::Setting { layer: "dropout", setting: "rate", value: rate.to_string(), expected })
    }

    /// The probability of zero.
    pub fn rate(&self) -> f32 {
        self.rate
    }
}

module!(Dropout {});

impl Layer for Dropout {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        if !cx.is_training() || self.rate == 0.0 {
            return Ok(x);
        }
        Ok(x.value().dropout(self.rate.into(), &mut cx.draw()).into())
    }
}

#[cfg(test)]
mod tests {
    use qnn_tensor::{Tape, Tensor};

    use super::*;
    use crate::Mode;

    fn dropped(mode: Mode, seed: u64, step: u64) -> Vec<f32> {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, mode, seed, step);
        let x = tape.leaf(Tensor::full(&[1000], 1.0));
        let y = Dropout::new(0.25).unwrap().forward(&mut cx, x.into()).unwrap();
        y.value().value().as_slice().to_vec()
    }

    #[test]
    fn the_mask_is_a_function_of_seed_and_step() {
        let first = dropped(Mode::Train, 5, 7);
        assert_eq!(first, dropped(Mode::Train, 5, 7));
        assert_ne!(first, dropped(Mode::Train, 5, 8));
        assert_ne!(first, dropped(Mode::Train, 6, 7));
        let zeros = first.iter().filter(|&&x| x == 0.0).count();
        assert!((200..300).contains(&zeros), "{zeros}");
        assert!(first.iter().all(|&x| x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
    }

    #[test]
    fn evaluation_is_the_identity() {
        assert_eq!(dropped(Mode::Eval, 5, 7), [1.0; 1000]);
    }

    #[test]
    fn rates_outside_of_the_range_are_errors() {
        for rate in [-0.1, 1.0, f32::NAN] {
            assert!(Dropout::new(rate).is_err(), "{rate}");
        }
    }
}
