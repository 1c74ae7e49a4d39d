use std::sync::atomic::{AtomicU64, Ordering};

use qnn_tensor::Tensor;
use qnn_tensor::parallel::for_each_chunk;

/// What a parameter is to its layer. Optimizers decide by it, for instance on weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The weights of a convolution or a dense layer.
    Kernel,
    /// What a convolution or a dense layer adds per output.
    Bias,
    /// The factor per channel of a normalisation.
    Gamma,
    /// The offset per channel of a normalisation.
    Beta,
    /// What a quantizer learns: a step, a height, a scale.
    Quantizer,
    /// Anything else.
    Other,
}

/// What must hold of a parameter after every update.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Constraint {
    /// Every element lies in [−limit, limit]; NaN stays NaN.
    ///
    /// The latent weights of BinaryConnect are clipped to [−1, 1] (Courbariaux et al. 2015,
    /// arXiv:1511.00363, section 2.4): beyond, they would no longer change their sign.
    Clip {
        /// The bound of the absolute value, not negative.
        limit: f32,
    },
}

/// The identity of a [`Param`], unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(u64);

/// The identity of a [`Buffer`], unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(u64);

/// A trained tensor of a layer.
///
/// Two parameters are the same one exactly if their [`id`](Param::id)s are equal, whatever paths
/// lead to them.
#[derive(Debug)]
pub struct Param {
    id: ParamId,
    role: Role,
    value: Tensor,
    bits: u32,
    constraint: Option<Constraint>,
    learning_rate_factor: f32,
}

/// A tensor of a layer that is saved with the model but not trained by gradients, such as a running
/// mean.
#[derive(Debug)]
pub struct Buffer {
    id: BufferId,
    value: Tensor,
    is_optional: bool,
    marks_frozen: bool,
}

/// The bits of a value that no quantizer touches.
const FULL_PRECISION: u32 = 32;

impl Constraint {
    /// Moves the values that break the constraint to the nearest ones that do not.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Self::Clip { limit } => for_each_chunk(values, |_, values| {
                values.iter_mut().for_each(|x| *x = clipped(*x, limit));
            }),
        }
    }
}

/// Unlike `f32::clamp` no panic for a senseless limit, so that a bad file cannot bring one about.
fn clipped(x: f32, limit: f32) -> f32 {
    if x > limit {
        limit
    } else if x < -limit {
        -limit
    } else {
        x
    }
}

impl Param {
    /// An unconstrained parameter that is not latent, with learning rate factor 1.
    pub fn new(role: Role, value: Tensor) -> Self {
        let id = ParamId(next_id());
        Self { id, role, value, bits: FULL_PRECISION, constraint: None, learning_rate_factor: 1.0 }
    }

    /// The same parameter, computed with at `bits` bits per value; see [`bits`](Param::bits).
    pub fn with_bits(self, bits: u32) -> Self {
        Self { bits, ..self }
    }

    /// The same parameter under a constraint. Its value is moved into the constraint at once.
    pub fn with_constraint(mut self, constraint: Option<Constraint>) -> Self {
        self.constraint = constraint;
        self.constrain();
        self
    }

    /// The same parameter with another learning rate factor.
    pub fn with_learning_rate_factor(self, learning_rate_factor: f32) -> Self {
        Self { learning_rate_factor, ..self }
    }

    /// The identity.
    pub fn id(&self) -> ParamId {
        self.id
    }

    /// What the parameter is to its layer.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The present value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The present value for writing. Writing copies the buffer while a tape still shares it.
    pub fn value_mut(&mut self) -> &mut Tensor {
        &mut self.value
    }

    /// Bits of each value that the layer computes with: 32, or fewer if a quantizer stands between.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Whether a quantizer stands between this value and what the layer computes with. The identity
    /// quantizer does not count.
    pub fn is_latent(&self) -> bool {
        self.bits < FULL_PRECISION
    }

    /// Whether this is the kernel of a layer that computes with its signs, at one bit per value.
    pub fn is_binary_kernel(&self) -> bool {
        self.role == Role::Kernel && self.bits == 1
    }

    /// What must hold after every update.
    pub fn constraint(&self) -> Option<Constraint> {
        self.constraint
    }

    /// By what the optimizer multiplies its learning rate for this parameter.
    pub fn learning_rate_factor(&self) -> f32 {
        self.learning_rate_factor
    }

    /// Whether weight decay applies: to kernels that are not latent. Decay would pull a latent
    /// weight towards the threshold of its quantizer, which is no regularisation.
    pub fn decays(&self) -> bool {
        self.role == Role::Kernel && !self.is_latent()
    }

    /// Applies the constraint, if there is one.
    pub fn constrain(&mut self) {
        if let Some(constraint) = self.constraint {
            constraint.apply(self.value.as_mut_slice());
        }
    }
}

impl Buffer {
    /// A buffer that starts with `value`.
    pub fn new(value: Tensor) -> Self {
        Self { id: BufferId(next_id()), value, is_optional: false, marks_frozen: false }
    }

    /// The same buffer, which a pretrained model may lack: the state of a quantizer.
    pub fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }

    /// Whether [`load_pretrained`](crate::load_pretrained) does without it.
    pub fn is_optional(&self) -> bool {
        self.is_optional
    }

    /// The same buffer, whose value is 1 where a weight is frozen and 0 where it is still to be.
    pub(crate) fn marking_frozen(self) -> Self {
        Self { marks_frozen: true, ..self }
    }

    /// Whether it marks a weight as still to be frozen.
    pub(crate) fn awaits_freezing(&self) -> bool {
        self.marks_frozen && self.value.as_slice().iter().any(|&frozen| frozen != 1.0)
    }

    /// The identity.
    pub fn id(&self) -> BufferId {
        self.id
    }

    /// The present value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Replaces the value.
    ///
    /// # Panics
    ///
    /// If the shapes differ.
    #[track_caller]
    pub fn set(&mut self, value: Tensor) {
        assert_eq!(value.shape(), self.value.shape(), "a buffer keeps its shape");
        self.value = value;
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_moves_only_what_lies_outside() {
        let value = Tensor::from_vec(&[6], vec![-2.0, -1.0, -0.0, 0.5, f32::INFINITY, f32::NAN]).unwrap();
        let clip = Constraint::Clip { limit: 1.0 };
        let param = Param::new(Role::Kernel, value).with_constraint(Some(clip));
        assert_eq!(param.value().as_slice()[..5], [-1.0, -1.0, -0.0, 0.5, 1.0]);
        assert!(param.value().as_slice()[5].is_nan());
    }

    #[test]
    fn only_full_precision_kernels_decay() {
        let of = |role| Param::new(role, Tensor::scalar(1.0));
        assert!(of(Role::Kernel).decays());
        assert!(!of(Role::Kernel).with_bits(1).decays());
        for role in [Role::Bias, Role::Gamma, Role::Beta, Role::Other] {
            assert!(!of(role).decays(), "{role:?}");
        }
    }

    #[test]
    fn ids_are_unique() {
        let (a, b) = (Buffer::new(Tensor::scalar(0.0)), Buffer::new(Tensor::scalar(0.0)));
        assert_ne!(a.id(), b.id());
    }
}
