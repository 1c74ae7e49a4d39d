use qnn_quant::{Alphabet, Scale};
use qnn_tensor::{Tensor, Var};

/// What flows between layers: a value on the tape, perhaps in factored form.
///
/// ```text
/// value = scale · codes
/// ```
///
/// Codes are the small integers of a quantizer. A convolution of codes is an exact sum, and the
/// scale multiplies it afterwards: the same operation in training and in a packed model.
///
/// The gradient that reaches `codes` is by convention the gradient with respect to the *value*,
/// because that is what gradient estimators are defined on. Take [`value`](Signal::value) for
/// ordinary arithmetic: it keeps to the convention.
#[derive(Clone, Copy, Debug)]
pub struct Signal<'t> {
    codes: Var<'t>,
    scale: Scale,
    alphabet: Option<Alphabet>,
    largest: Option<u32>,
}

impl<'t> Signal<'t> {
    /// A value in factored form.
    pub fn factored(codes: Var<'t>, scale: impl Into<Scale>) -> Self {
        Self { codes, scale: scale.into(), alphabet: None, largest: None }
    }

    /// The same value, of which all codes are known: those of a range that has been observed. What follows may
    /// then compute in integers.
    #[must_use]
    pub fn with_alphabet(self, alphabet: Alphabet) -> Self {
        Self { alphabet: Some(alphabet), ..self }.with_largest_code(alphabet.magnitude())
    }

    /// The same value, whose codes are integers of at most this magnitude: sums of their products may then be known to be too large for f32,
    /// and be made exactly.
    #[must_use]
    pub fn with_largest_code(self, magnitude: u32) -> Self {
        Self { largest: Some(magnitude), ..self }
    }

    /// The codes; the value itself if the scale is 1.
    pub fn codes(self) -> Var<'t> {
        self.codes
    }

    /// The codes there are, if whoever made them has [said](Signal::with_alphabet) so.
    pub fn alphabet(self) -> Option<Alphabet> {
        self.alphabet
    }

    /// The largest magnitude of a code, if whoever made them has [said](Signal::with_largest_code) so.
    pub fn largest_code(self) -> Option<u32> {
        self.largest
    }

    /// The factor between codes and value, rounded to f32: what multiplies a product of codes.
    pub fn scale(self) -> f32 {
        self.scale.factor()
    }

    /// The factor between codes and value, exactly.
    pub fn factor(self) -> Scale {
        self.scale
    }

    /// The sizes of the axes.
    pub fn shape(self) -> Vec<usize> {
        self.codes.shape()
    }

    /// The value, rounded once from the exact quotient. Adds no node if the scale is 1.
    pub fn value(self) -> Var<'t> {
        if self.scale == Scale::ONE {
            return self.codes;
        }
        let scale = self.scale;
        let value = self.codes.value().map(|code| scale.value(code));
        let pullback = |dy: &Tensor, _| [Some(dy.clone())];
        self.codes.tape().record("value", [self.codes], value, pullback)
    }

    /// Applies an operation that only moves or selects elements, such as a reshape: it does to the
    /// codes what it would do to the value.
    ///
    /// An operation that compares elements, such as a maximum, selects the same ones only if the
    /// scale is positive.
    pub fn map_codes(self, f: impl FnOnce(Var<'t>) -> Var<'t>) -> Self {
        Self { codes: f(self.codes), ..self }
    }
}

impl<'t> From<Var<'t>> for Signal<'t> {
    fn from(value: Var<'t>) -> Self {
        Self::factored(value, Scale::ONE)
    }
}

#[cfg(test)]
mod tests {
    use qnn_tensor::Tape;

    use super::*;

    #[test]
    fn a_plain_value_adds_no_node() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(3.0));
        assert_eq!(Signal::from(x).value().value().item(), 3.0);
        assert_eq!(tape.len(), 1);
    }

    #[test]
    fn the_gradient_of_the_codes_is_the_gradient_of_the_value() {
        let tape = Tape::new();
        let codes = tape.leaf(Tensor::scalar(3.0));
        let value = Signal::factored(codes, 0.25).value();
        assert_eq!(value.value().item(), 0.75);
        assert_eq!(tape.backward(value).of(codes).unwrap().item(), 1.0);
    }
}
