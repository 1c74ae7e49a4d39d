use qnn_layers::Constraint;
use qnn_quant::{
    Affine, ConstantScaledSign, DorefaActivations, DorefaWeights, ErrorDecay, EvenLevels, FixedPoint,
    Granularity, HysteresisSign, Inq, Lsq, ModifiedTanh, Pact, Pair, QuantizedRelu, Quantizer, ScaledSign,
    Sign, Ternary, TrainedTernary,
};

use crate::{Activation, Error, Result, Scheme};

/// A named [`Scheme`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What [`Scheme::preset`] takes.
    pub name: &'static str,
    /// What it stands for, in a line.
    pub about: &'static str,
}

type Make = fn() -> Result<Scheme>;

const PRESETS: [(Preset, Make); 33] = [
    (preset("fp", "full precision"), || Ok(Scheme::default())),
    (preset("bc", "BinaryConnect: weights ±1"), || Ok(clipped(Sign))),
    (preset("bc-1.1", "BinaryConnect with weights ±0.1"), || constant(0.1)),
    (preset("bc-1.2", "BinaryConnect with weights ±0.125"), || constant(0.125)),
    (preset("bc-2.1", "BinaryConnect with ReLU × 0.1"), || Ok(scaled_relu(0.1))),
    (preset("bc-2.2", "BinaryConnect with ReLU × 0.125"), || Ok(scaled_relu(0.125))),
    (preset("bnn", "weights and activations ±1"), || Ok(clipped(Sign).activated(Sign))),
    (preset("bnn-a", "activations ±1, weights in full precision"), || Ok(fp().activated(Sign))),
    (preset("dorefa-w", "DoReFa: weights ±mean|w| of the layer"), dorefa_weights),
    (preset("dorefa", "DoReFa: 1-bit weights and activations in {0, 1}"), || {
        Ok(dorefa_weights()?.activated(DorefaActivations::new(1)?))
    }),
    (preset("dorefa-a", "DoReFa activations in {0, 1}, weights in full precision"), || {
        Ok(fp().activated(DorefaActivations::new(1)?))
    }),
    (preset("bnn-w-dorefa-a", "weights ±1, activations in {0, 1}"), || {
        Ok(clipped(Sign).activated(DorefaActivations::new(1)?))
    }),
    (preset("dorefa-w-bnn-a", "DoReFa 1-bit weights, activations ±1"), || {
        Ok(dorefa_weights()?.activated(Sign))
    }),
    (preset("twn", "ternary weight networks: weights in {−α, 0, α}"), || {
        Ok(weights(Ternary::per_tensor()))
    }),
    (preset("bwn", "binary weight network: weights ±mean|w| of the filter"), || {
        Ok(weights(ScaledSign::per_filter()))
    }),
    (preset("xnor", "XNOR-Net: weights ±mean|w| of the filter, activations ±1"), || {
        Ok(weights(ScaledSign::per_filter()).activated(Sign))
    }),
    (preset("xnor-full", "XNOR-Net with its map K: products scaled by the mean |x| of their inputs"), || {
        let activation = Activation::Identity;
        Ok(Scheme { input_scaling: true, activation, ..weights(ScaledSign::per_filter()).with_inputs(Sign) })
    }),
    (preset("binary", "kernels, inputs and activations ±1, kernels clipped"), || {
        Ok(clipped(Sign).with_inputs(Sign).activated(Sign))
    }),
    (preset("int8", "integers alone: 8-bit weights per channel, 8-bit activations in observed ranges"), int8),
    (preset("fixed8", "8-bit fixed-point weights and activations"), || {
        Ok(clipped(FixedPoint::new(8)?).activated(QuantizedRelu::new(8)?))
    }),
    (preset("dorefa-1-2", "DoReFa: 1-bit weights, 2-bit activations"), || {
        Ok(dorefa_weights()?.activated(DorefaActivations::new(2)?))
    }),
    (preset("dorefa-2-2", "DoReFa: 2-bit weights and activations"), || {
        Ok(weights(DorefaWeights::new(2)?).activated(DorefaActivations::new(2)?))
    }),
    (preset("dorefa-124", "DoReFa-Net with 1-bit weights, 2-bit activations, 4-bit gradients"), || {
        let scheme = dorefa_weights()?.activated(DorefaActivations::new(2)?);
        Ok(Scheme { gradient_bits: Some(4), ..scheme })
    }),
    (
        preset("error-decay", "weights ±mean|w|, activations ±1, with gradients that sharpen as in IR-Net"),
        || {
            let decay = || ErrorDecay::at(0.0);
            let activation = Activation::Quantized(Pair::new(Sign, decay()));
            Ok(Scheme { kernel: Some(Pair::new(ScaledSign::per_filter(), decay())), activation, ..fp() })
        },
    ),
    (preset("ttq", "trained ternary quantization: weights in {−Wn, 0, Wp}, trained"), || {
        Ok(weights(TrainedTernary::new(1.0, 1.0)?))
    }),
    (preset("inq", "incremental network quantization: 5-bit powers of two, frozen in portions"), || {
        Ok(weights(Inq::new(5)?))
    }),
    (preset("pact", "4-bit DoReFa weights, 4-bit activations of trained height"), || {
        Ok(weights(DorefaWeights::new(4)?).activated(Pact::new(4, 10.0)?))
    }),
    (preset("lsq", "4-bit weights and activations with trained steps"), || {
        Ok(weights(Lsq::for_weights(4, 0.1)?).activated(Lsq::for_activations(4, 0.1)?))
    }),
    (preset("even-1", "weights and activations ±1, as even levels of 1 bit"), || {
        Scheme::even_levels(1, None)
    }),
    (preset("even-2", "weights and activations at 4 even levels in [−1, 1]"), || {
        Scheme::even_levels(2, None)
    }),
    (preset("even-3", "weights and activations at 8 even levels in [−1, 1]"), || {
        Scheme::even_levels(3, None)
    }),
    (preset("even-4", "weights and activations at 16 even levels in [−1, 1]"), || {
        Scheme::even_levels(4, None)
    }),
    (preset("w1a8", "1-bit weights with hysteresis 0.1, 8-bit activations in observed ranges"), || {
        Ok(Scheme { activation: Activation::ReluInRange { bits: 8 }, ..clipped(HysteresisSign::new(0.1)?) })
    }),
];

impl Scheme {
    /// The scheme of a name.
    ///
    /// ```
    /// use qnn_models::Scheme;
    /// assert!(Scheme::preset("twn")?.kernel.is_some());
    /// let error = Scheme::preset("twm").unwrap_err();
    /// assert!(error.to_string().contains("known are fp, bc, "));
    /// # Ok::<(), qnn_models::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPreset`], which lists the known names.
    pub fn preset(name: &str) -> Result<Self> {
        match PRESETS.iter().find(|(preset, _)| preset.name == name) {
            Some((_, scheme)) => scheme(),
            None => {
                let known = Self::presets().map(|preset| preset.name).collect();
                Err(Error::UnknownPreset { name: name.to_owned(), known })
            }
        }
    }

    /// All presets.
    pub fn presets() -> impl Iterator<Item = Preset> {
        PRESETS.iter().map(|(preset, _)| *preset)
    }

    fn with_inputs(self, map: impl Quantizer + 'static) -> Self {
        Self { input: Some(Pair::published(map)), ..self }
    }

    /// Weights and activations at `2^bits` evenly spaced levels in [−1, 1], latent weights clipped to them.
    ///
    /// The gradient is the derivative of a hard tanh, as [`EvenLevels`] was published with; with a `steepness`, that
    /// of the tanh steps of [`ModifiedTanh`].
    ///
    /// ```
    /// use qnn_models::Scheme;
    /// let scheme = Scheme::even_levels(2, Some(4.0))?;
    /// assert_eq!(scheme.kernel.unwrap().gradient.name(), "modified-tanh");
    /// # Ok::<(), qnn_models::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Quantizer`] for bits that [`EvenLevels::of_bits`] refuses.
    pub fn even_levels(bits: u32, steepness: Option<f32>) -> Result<Self> {
        let levels = EvenLevels::of_bits(bits, 1.0)?;
        let pair = match steepness {
            None => Pair::published(levels),
            Some(k) => Pair::new(levels, ModifiedTanh::new(k)),
        };
        Ok(Self {
            kernel: Some(pair.clone()),
            constraint: Some(Constraint::Clip { limit: 1.0 }),
            activation: Activation::Quantized(pair),
            ..fp()
        })
    }

    fn activated(self, map: impl Quantizer + 'static) -> Self {
        Self { activation: Activation::Quantized(Pair::published(map)), ..self }
    }
}

const fn preset(name: &'static str, about: &'static str) -> Preset {
    Preset { name, about }
}

fn fp() -> Scheme {
    Scheme::default()
}

fn weights(map: impl Quantizer + 'static) -> Scheme {
    Scheme { kernel: Some(Pair::published(map)), ..fp() }
}

/// Latent weights in [−1, 1], as all methods with a clipped gradient keep them.
fn clipped(map: impl Quantizer + 'static) -> Scheme {
    Scheme { constraint: Some(Constraint::Clip { limit: 1.0 }), ..weights(map) }
}

fn constant(scale: f32) -> Result<Scheme> {
    Ok(clipped(ConstantScaledSign::new(scale)?))
}

fn scaled_relu(scale: f32) -> Scheme {
    Scheme { activation: Activation::Relu { scale }, ..clipped(Sign) }
}

fn int8() -> Result<Scheme> {
    Ok(Scheme {
        integer_only: true,
        activation: Activation::ReluInRange { bits: 8 },
        first_full_precision: Some(false),
        last_full_precision: Some(false),
        ..weights(Affine::symmetric(8)?.with_granularity(Granularity::LastAxis))
    })
}

fn dorefa_weights() -> Result<Scheme> {
    Ok(weights(DorefaWeights::new(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_exists_once_and_is_free_of_doubts() {
        let names: Vec<_> = Scheme::presets().map(|preset| preset.name).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name} twice");
            assert_eq!(Scheme::preset(name).unwrap().diagnostics(), [], "{name}");
        }
    }

    #[test]
    fn what_integers_cannot_do_is_an_obstacle() {
        let int8 = || Scheme::preset("int8").unwrap();
        assert!(int8().obstacle().is_none());
        assert!(Scheme { integer_only: false, norm: crate::Norm::Batch, ..fp() }.obstacle().is_none());
        for (scheme, setting) in [
            (Scheme { kernel: None, ..int8() }, "kernel"),
            (Scheme { kernel: Some(Pair::published(Affine::symmetric(8).unwrap())), ..int8() }, "kernel"),
            (Scheme { activation: Activation::HardTanh, ..int8() }, "activation"),
            (Scheme { norm: crate::Norm::ShiftBatch { round_variance: true }, ..int8() }, "norm"),
            (Scheme { gradient_bits: Some(4), ..int8() }, "gradient_bits"),
            (int8().with_inputs(Sign), "input"),
        ] {
            assert_eq!(scheme.obstacle().map(|(setting, ..)| setting), Some(setting));
        }
    }

    #[test]
    fn an_unclipped_sign_is_doubtful() {
        assert_eq!(weights(Sign).diagnostics().len(), 1);
    }
}
