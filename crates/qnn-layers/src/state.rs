use std::collections::BTreeMap;
use std::fmt;

use qnn_tensor::Tensor;

use crate::{Leaf, LeafMut, Module, Path, Role};

/// All tensors of a model under their paths, such as `blocks.0.conv1.kernel` or
/// `stem.norm.running_mean`. The tensors share their buffers with the model.
pub type StateDict = BTreeMap<String, Tensor>;

/// A [`StateDict`] that does not fit the model it was to be loaded into: everything that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// Paths of the model that the state lacks.
    pub missing: Vec<String>,
    /// Paths of the state that the model lacks.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than the model's.
    pub wrong_shapes: Vec<WrongShape>,
}

/// A tensor of a [`StateDict`] whose shape is not the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongShape {
    /// Where the tensor stands.
    pub path: String,
    /// The shape in the model.
    pub expected: Vec<usize>,
    /// The shape in the state.
    pub got: Vec<usize>,
}

/// All parameters and buffers of a model.
pub fn state_dict(module: &dyn Module) -> StateDict {
    let mut state = StateDict::new();
    module.visit(&mut Path::default(), &mut |at, leaf| {
        state.insert(at.to_string(), leaf.value().clone());
    });
    state
}

/// Writes a state into a model with the same paths and shapes.
///
/// # Errors
///
/// [`LoadError`] with every path that is missing, unexpected or of another shape; the model is then
/// unchanged.
pub fn load_state_dict(module: &mut dyn Module, state: &StateDict) -> Result<(), LoadError> {
    check(module, state)?;
    module.visit_mut(&mut Path::default(), &mut |at, leaf| {
        let value = state[at.as_str()].clone();
        match leaf {
            LeafMut::Param(param) => *param.value_mut() = value,
            LeafMut::Buffer(buffer) => buffer.set(value),
        }
    });
    Ok(())
}

/// Like [`load_state_dict`], for a state that a network without its quantizers may have left, or one with
/// others that learn and remember nothing: what quantizers learn and remember keeps its first value where the state lacks it.
///
/// ```
/// use qnn_layers::{Dense, DenseConfig, Init, load_pretrained, load_state_dict, state_dict};
/// use qnn_quant::{Lsq, Pair};
///
/// let plain = Dense::new(&DenseConfig::new(4, 2), &mut Init::new(1))?;
/// let kernel_quantizer = Some(Pair::published(Lsq::for_weights(4, 0.1).expect("4 bits")));
/// let config = DenseConfig { kernel_quantizer, ..DenseConfig::new(4, 2) };
/// let mut quantized = Dense::new(&config, &mut Init::new(2))?;
/// assert!(load_state_dict(&mut quantized, &state_dict(&plain)).is_err());
/// load_pretrained(&mut quantized, &state_dict(&plain)).expect("only the quantizer's step is missing");
/// assert_eq!(quantized.kernel().value(), plain.kernel().value());
/// # Ok::<(), qnn_layers::Error>(())
/// ```
///
/// # Errors
///
/// As [`load_state_dict`].
pub fn load_pretrained(module: &mut dyn Module, state: &StateDict) -> Result<(), LoadError> {
    let mut complete = state.clone();
    module.visit(&mut Path::default(), &mut |at, leaf| {
        let optional = match leaf {
            Leaf::Param(param) => param.role() == Role::Quantizer,
            Leaf::Buffer(buffer) => buffer.is_optional(),
        };
        if optional {
            complete.entry(at.to_string()).or_insert_with(|| leaf.value().clone());
        }
    });
    load_state_dict(module, &complete)
}

fn check(module: &dyn Module, state: &StateDict) -> Result<(), LoadError> {
    let mut error = LoadError::default();
    let mut unexpected: BTreeMap<&str, ()> = state.keys().map(|path| (path.as_str(), ())).collect();
    module.visit(&mut Path::default(), &mut |at, leaf| {
        unexpected.remove(at.as_str());
        let expected = leaf.value().shape();
        match state.get(at.as_str()) {
            None => error.missing.push(at.to_string()),
            Some(value) if value.shape() != expected => error.wrong_shapes.push(WrongShape {
                path: at.to_string(),
                expected: expected.to_vec(),
                got: value.shape().to_vec(),
            }),
            Some(_) => {}
        }
    });
    error.unexpected = unexpected.into_keys().map(str::to_owned).collect();
    if error == LoadError::default() { Ok(()) } else { Err(error) }
}

impl<'a> Leaf<'a> {
    /// The tensor.
    pub fn value(self) -> &'a Tensor {
        match self {
            Self::Param(param) => param.value(),
            Self::Buffer(buffer) => buffer.value(),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state does not fit the model")?;
        write_list(f, "missing", &self.missing)?;
        write_list(f, "unexpected", &self.unexpected)?;
        write_list(f, "of another shape", &self.wrong_shapes)
    }
}

impl fmt::Display for WrongShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (expected {:?}, got {:?})", self.path, self.expected, self.got)
    }
}

/// The first few: with the wrong model there are hundreds.
fn write_list(f: &mut fmt::Formatter<'_>, what: &str, items: &[impl fmt::Display]) -> fmt::Result {
    const SHOWN: usize = 6;
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "; {} {what}: ", items.len())?;
    for (i, item) in items.iter().take(SHOWN).enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
    }
    if items.len() > SHOWN { write!(f, ", …") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, Param, Role, module};

    struct Norm {
        gamma: Param,
        beta: Param,
        mean: Buffer,
    }
    module!(Norm { gamma, beta, mean });

    fn norm(start: f32) -> Norm {
        let tensor = |offset: f32| Tensor::from_fn(&[3], |i| start + offset + i as f32 / 3.0);
        Norm {
            gamma: Param::new(Role::Gamma, tensor(0.0)),
            beta: Param::new(Role::Beta, tensor(0.1)),
            mean: Buffer::new(tensor(0.2)),
        }
    }

    #[test]
    fn a_state_goes_into_another_model_bit_for_bit() {
        let (a, mut b) = (norm(1.0), norm(2.0));
        load_state_dict(&mut b, &state_dict(&a)).unwrap();
        for (path, value) in state_dict(&a) {
            let bits = |t: &Tensor| t.as_slice().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&value), bits(&state_dict(&b)[&path]), "{path}");
        }
    }

    #[test]
    fn everything_wrong_is_reported_and_nothing_changes() {
        let mut model = norm(1.0);
        let before = state_dict(&model);
        let mut state = state_dict(&norm(5.0));
        state.remove("beta");
        state.insert("mean".into(), Tensor::zeros(&[4]));
        state.insert("delta".into(), Tensor::zeros(&[1]));
        let error = load_state_dict(&mut model, &state).unwrap_err();
        assert_eq!(
            (&error.missing[..], &error.unexpected[..]),
            (&["beta".into()][..], &["delta".into()][..])
        );
        assert_eq!(
            error.to_string(),
            "the state does not fit the model; 1 missing: beta; 1 unexpected: delta; \
             1 of another shape: mean (expected [3], got [4])"
        );
        assert_eq!(state_dict(&model), before);
    }

    #[test]
    fn long_lists_are_cut_in_the_message_only() {
        let state = (0..20).map(|i| (format!("x{i:02}"), Tensor::scalar(0.0))).collect();
        let error = load_state_dict(&mut norm(1.0), &state).unwrap_err();
        assert_eq!(error.unexpected.len(), 20);
        assert!(error.to_string().ends_with("20 unexpected: x00, x01, x02, x03, x04, x05, …"));
    }
}
