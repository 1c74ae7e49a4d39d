use super::channels::bias_gradient;
use crate::gradient::Gradient;
use crate::parallel::{for_each_chunk, for_each_row, vectorized};
use crate::{Scalar, Tensor, Var};

/// The factors between the codes of a product's operands and their values.
///
/// ```text
/// x = x_factor · x_codes        w_o = w_factor_o · w_codes_o     (o: output channel)
/// ```
///
/// The product is taken of the codes, small integers as a rule, and scaled afterwards: it is then
/// exact in any order of summation, and a packed model reproduces it bit for bit.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors<T: Scalar = f32> {
    /// The factor of the input.
    pub x: T,
    /// The factor of the kernel: one, or one per output channel.
    pub w: Vec<T>,
}

impl<T: Scalar> Factors<T> {
    /// Codes that are the values.
    pub fn unit() -> Self {
        Self { x: T::one(), w: vec![T::one()] }
    }

    /// `x · w_o` for each output channel, rounded once; `None` if all are one. `op` names the
    /// operation in panics.
    ///
    /// # Panics
    ///
    /// If there is neither one kernel factor nor one per channel.
    #[track_caller]
    pub fn output_scale(&self, op: &str, channels: usize) -> Option<Vec<T>> {
        let given = self.w.len();
        assert!(
            given == 1 || given == channels,
            "{op}: expected 1 or {channels} kernel factors, one per output channel, got {given}"
        );
        if self.x.is_one() && self.has_unit_kernel() {
            return None;
        }
        Some((0..channels).map(|channel| self.x * self.w[channel % given]).collect())
    }

    /// The values of a kernel whose last axis is the output channels; not a copy if the factors
    /// are one.
    pub(super) fn kernel_values(&self, codes: &Tensor<T>) -> Tensor<T> {
        if self.has_unit_kernel() || codes.is_empty() {
            return codes.clone();
        }
        if let [factor] = self.w[..] {
            return codes.map(|code| code * factor);
        }
        let channels = self.w.len();
        Tensor::build(codes.shape(), |values| {
            for_each_row(
                channels,
                values,
                #[inline(always)]
                |row, values| {
                    let pairs = codes.as_slice()[row * channels..].iter().zip(&self.w);
                    values.iter_mut().zip(pairs).for_each(|(value, (&code, &w))| *value = code * w);
                },
            );
        })
    }

    /// Turns the sums of `x_codes · dy` into those of `x · dy`.
    pub(super) fn scale_by_input(&self, mut dw: Tensor<T>) -> Tensor<T> {
        if !self.x.is_one() {
            for_each_chunk(dw.as_mut_slice(), |_, dw| self.scale_part_by_input(dw));
        }
        dw
    }

    /// The same of some of the sums.
    pub(super) fn scale_part_by_input(&self, dw: &mut [T]) {
        if !self.x.is_one() {
            vectorized(|| dw.iter_mut().for_each(|dw| *dw *= self.x));
        }
    }

    fn has_unit_kernel(&self) -> bool {
        self.w.iter().all(|w| w.is_one())
    }
}

impl<T: Scalar> Default for Factors<T> {
    /// [`Factors::unit`].
    fn default() -> Self {
        Self::unit()
    }
}

/// The values of a bias, checked to be one per output channel.
#[track_caller]
pub(super) fn bias_values<T: Scalar>(
    op: &str,
    bias: Option<Var<'_, T>>,
    channels: usize,
) -> Option<Tensor<T>> {
    bias.map(|bias| {
        let bias = bias.value();
        assert_eq!(bias.shape(), [channels], "{op}: expected a bias of shape [{channels}]");
        bias
    })
}

/// Records `y`, the product of `x` and `w`, with the gradients of the two and of the bias.
#[track_caller]
pub(super) fn record_product<'t, T: Scalar>(
    op: &'static str,
    [x, w]: [Var<'t, T>; 2],
    bias: Option<Var<'t, T>>,
    y: Tensor<T>,
    input_gradient: impl FnOnce(&Tensor<T>) -> Tensor<T> + 'static,
    kernel_gradient: impl FnOnce(Tensor<T>) -> Gradient<T> + 'static,
) -> Var<'t, T> {
    let gradients = move |dy: Gradient<T>, [dx, dw, db]: [bool; 3]| {
        let dy = dy.into_tensor();
        let dx = dx.then(|| Gradient::Value(input_gradient(&dy)));
        let db = db.then(|| Gradient::Value(bias_gradient(&dy)));
        [dx, dw.then(|| kernel_gradient(dy)), db]
    };
    match bias {
        None => x.tape().record_gradients(op, [x, w], y, move |dy, received| {
            let [x, w] = received.wanted;
            let [dx, dw, _] = gradients(dy, [x, w, false]);
            [dx, dw]
        }),
        Some(bias) => {
            x.tape().record_gradients(op, [x, w, bias], y, move |dy, received| gradients(dy, received.wanted))
        }
    }
}
