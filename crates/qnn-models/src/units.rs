use qnn_layers::{
    Conv2d, Conv2dConfig, Ctx, Dense, DenseConfig, Error, IntegerUnit, Layer, Leaf, LeafMut, MaxPool2d,
    Module, Normalization, NormalizedConv2d, Path, Signal, UnitOutput, Within, module,
    normalize_and_activate,
};

use crate::Result;
use crate::build::Builder;
use crate::scheme::Place;

/// Convolution, max pool, batch norm, activation, in the order of the BNN paper: the pool sees sums
/// before their sign is taken.
#[derive(Debug)]
pub(crate) struct ConvUnit {
    conv: Conv2d,
    pool: Option<MaxPool2d>,
    norm: Box<dyn Normalization>,
    activation: Box<dyn Layer>,
    integer_only: bool,
}

/// Dense layer, batch norm, activation.
#[derive(Debug)]
pub(crate) struct DenseUnit {
    dense: Dense,
    norm: Option<Box<dyn Normalization>>,
    activation: Box<dyn Layer>,
    integer_only: bool,
}

/// The last dense layer, whose sums, normalised or not, are the logits.
#[derive(Debug)]
pub(crate) struct Classifier {
    dense: Dense,
    norm: Option<Box<dyn Normalization>>,
    integer_only: bool,
}

impl ConvUnit {
    /// With a 2×2 max pool or without.
    pub(crate) fn new(
        builder: &mut Builder<'_>,
        path: &str,
        place: Place,
        config: Conv2dConfig,
        pool: bool,
    ) -> Result<Self> {
        let channels = config.out_channels;
        Ok(Self {
            conv: builder.conv(&format!("{path}.conv"), place, config)?,
            pool: pool.then(|| MaxPool2d::new(2)),
            norm: builder.norm(channels)?,
            activation: builder.activation()?,
            integer_only: builder.integer_only(),
        })
    }
}

impl DenseUnit {
    /// With batch norm or without.
    pub(crate) fn new(
        builder: &mut Builder<'_>,
        path: &str,
        place: Place,
        config: DenseConfig,
        norm: bool,
    ) -> Result<Self> {
        let features = config.out_features;
        Ok(Self {
            dense: builder.dense(&format!("{path}.dense"), place, config)?,
            norm: norm.then(|| builder.norm(features)).transpose()?,
            activation: builder.activation()?,
            integer_only: builder.integer_only(),
        })
    }
}

impl Classifier {
    /// Named `classifier`; its sums are the logits.
    pub(crate) fn new(builder: &mut Builder<'_>, place: Place, config: DenseConfig) -> Result<Self> {
        let dense = builder.dense("classifier", place, config)?;
        Ok(Self { dense, norm: None, integer_only: builder.integer_only() })
    }

    /// The same with batch norm on the logits, or without.
    pub(crate) fn normalized(
        builder: &mut Builder<'_>,
        place: Place,
        config: DenseConfig,
        norm: bool,
    ) -> Result<Self> {
        let classes = config.out_features;
        let classifier = Self::new(builder, place, config)?;
        Ok(Self { norm: norm.then(|| builder.norm(classes)).transpose()?, ..classifier })
    }
}

module!(ConvUnit { conv, pool, norm, activation });
module!(DenseUnit { dense, norm, activation });

impl Layer for ConvUnit {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        if self.integer_only {
            let unit = IntegerUnit::activated(&self.conv, &self.activation)?.folding(Some(&self.norm))?;
            return unit.pooling(self.pool.as_ref()).forward(cx, x).within("conv");
        }
        let Some(pool) = &self.pool else {
            let (norm, activation) = (&self.norm, &*self.activation);
            let names = ["conv", "norm", "activation"];
            return NormalizedConv2d { conv: &self.conv, norm, activation, names }.forward(cx, x);
        };
        let x = self.conv.forward(cx, x).within("conv")?;
        let x = pool.forward(cx, x).within("pool")?;
        normalize_and_activate(cx, x, &self.norm, &*self.activation, ["norm", "activation"])
    }
}

impl Layer for DenseUnit {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        if self.integer_only {
            let norm = self.norm.as_ref().map(|norm| norm as &dyn Normalization);
            let unit = IntegerUnit::activated(&self.dense, &self.activation)?.folding(norm)?;
            return unit.forward(cx, x).within("dense");
        }
        let x = self.dense.forward(cx, x).within("dense")?;
        match &self.norm {
            Some(norm) => normalize_and_activate(cx, x, norm, &*self.activation, ["norm", "activation"]),
            None => self.activation.forward(cx, x).within("activation"),
        }
    }
}

/// The dense layer's parameters are named as if they stood directly in the classifier.
impl Module for Classifier {
    fn visit<'a>(&'a self, at: &mut Path, f: &mut dyn FnMut(&Path, Leaf<'a>)) {
        self.dense.visit(at, f);
        at.within("norm", |at| self.norm.visit(at, f));
    }

    fn visit_mut(&mut self, at: &mut Path, f: &mut dyn FnMut(&Path, LeafMut<'_>)) {
        self.dense.visit_mut(at, f);
        at.within("norm", |at| self.norm.visit_mut(at, f));
    }
}

impl Layer for Classifier {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        if self.integer_only {
            let norm = self.norm.as_ref().map(|norm| norm as &dyn Normalization);
            return IntegerUnit::new(&self.dense, UnitOutput::Values).folding(norm)?.forward(cx, x);
        }
        let logits = self.dense.forward(cx, x)?;
        match &self.norm {
            Some(norm) => norm.forward(cx, logits).within("norm"),
            None => Ok(logits),
        }
    }
}

/// Runs a list of layers, with their numbers below `name` in errors.
pub(crate) fn forward_all<'t>(
    layers: &[impl Layer],
    name: &str,
    cx: &mut Ctx<'t>,
    x: Signal<'t>,
) -> Result<Signal<'t>, Error> {
    let mut numbered = layers.iter().enumerate();
    numbered.try_fold(x, |x, (i, layer)| layer.forward(cx, x).within(&i.to_string()).within(name))
}
