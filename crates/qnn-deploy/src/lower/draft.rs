use std::collections::BTreeMap;

use qnn_layers::Op;
use qnn_tensor::Tensor;
use qnn_tensor::ops::PoolOptions;

use super::Store;
use crate::chain::Cuts;
use crate::graph::Graph;
use crate::program::{Data, Link};
use crate::{Error, Result};

/// A stage in the making: one layer with the functions of single elements that follow it.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The step it begins with.
    pub(crate) start: usize,
    /// All steps it computes, in no order.
    pub(crate) steps: Vec<usize>,
    pub(crate) body: Body,
    /// What is done to each element of the body's result.
    pub(crate) links: Vec<Link>,
    /// The nodes it reads and writes; flattened nodes are named by what was flattened.
    pub(crate) input: usize,
    pub(crate) operand: Option<usize>,
    pub(crate) output: usize,
}

/// What a draft begins with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Body {
    /// The product that is the draft's first step.
    Product,
    /// Nothing: the links take the input as it is.
    Input,
    MaxPool(PoolOptions),
    AveragePool(PoolOptions),
    GlobalAveragePool,
    MeanMagnitude,
    PadZero {
        stride: usize,
    },
}

/// Divides a graph into drafts.
pub(crate) struct Drafting<'a, 't> {
    graph: &'a Graph<'t>,
    taken: Vec<bool>,
    /// From flattened nodes to what they were flattened from.
    flattened: BTreeMap<usize, usize>,
    pub(crate) tensors: Store<'a, 't>,
}

impl<'a, 't> Drafting<'a, 't> {
    pub(crate) fn new(graph: &'a Graph<'t>) -> Self {
        let taken = graph.lives.iter().map(|lives| !lives).collect();
        Self { graph, taken, flattened: BTreeMap::new(), tensors: Store::new(graph) }
    }

    /// The drafts in an order in which they can run: each ends after all that it reads.
    pub(crate) fn drafts(&mut self) -> Result<Vec<Draft>> {
        let mut drafts = Vec::new();
        for i in 0..self.graph.steps.len() {
            if std::mem::replace(&mut self.taken[i], true) {
                continue;
            }
            let step = &self.graph.steps[i];
            let Some(body) = body_of(&step.op) else {
                let from = self.root(step.inputs[0].index());
                self.flattened.insert(step.output.index(), from);
                continue;
            };
            let mut draft = self.start(i, body)?;
            self.extend(&mut draft)?;
            drafts.push(draft);
        }
        drafts.sort_by_key(|draft| draft.steps.iter().max().copied());
        Ok(drafts)
    }

    /// The node that holds a node's elements.
    pub(crate) fn root(&self, node: usize) -> usize {
        self.flattened.get(&node).copied().unwrap_or(node)
    }

    fn start(&mut self, i: usize, body: Body) -> Result<Draft> {
        let step = &self.graph.steps[i];
        let (input, output) = (step.inputs[0].index(), step.output.index());
        let mut draft = Draft {
            start: i,
            steps: vec![i],
            body,
            links: Vec::new(),
            input: self.root(input),
            operand: None,
            output,
        };
        match body {
            Body::Product => draft.links = self.product_links(i)?,
            Body::Input => self.link(&mut draft, i, input)?,
            _ => {}
        }
        Ok(draft)
    }

    /// Takes in what follows as long as nobody else reads what lies between.
    fn extend(&mut self, draft: &mut Draft) -> Result<()> {
        if !matches!(draft.body, Body::Product | Body::Input) {
            return Ok(());
        }
        while let Some(next) = self.graph.only_taker(draft.output) {
            let op = &self.graph.steps[next].op;
            let second = matches!(op, Op::Add { .. } | Op::PixelScale { .. }) && draft.operand.is_some();
            // Scales are the operand of the product that they scale.
            let scales = matches!(op, Op::PixelScale { .. })
                && self.graph.steps[next].inputs[0].index() != draft.output;
            if self.taken[next] || second || scales || body_of(op) != Some(Body::Input) {
                return Ok(());
            }
            self.taken[next] = true;
            draft.steps.push(next);
            self.link(draft, next, draft.output)?;
            draft.output = self.graph.steps[next].output.index();
        }
        Ok(())
    }

    /// Appends what a step does to the elements of `from`.
    fn link(&mut self, draft: &mut Draft, i: usize, from: usize) -> Result<()> {
        let graph = self.graph;
        let link = match &graph.steps[i].op {
            Op::BatchNorm { mean, s, beta } => Link::Norm {
                mean: self.floats(i, "mean", mean)?,
                s: self.floats(i, "s", s)?,
                beta: self.floats(i, "beta", beta)?,
            },
            Op::Quantize { map, grid } => {
                let cuts = Cuts::of(&graph.names[i], &**map, grid)?;
                let name = self.tensors.put(i, "cuts", Data::Floats(cuts.cuts));
                Link::Quantize { alphabet: cuts.alphabet, cuts: name }
            }
            Op::Value { scale } => Link::Value((*scale).into()),
            Op::PixelScale { bias } => {
                draft.operand = Some(self.root(graph.steps[i].inputs[1].index()));
                draft.links.push(Link::PixelScale);
                let Some(bias) = bias else { return Ok(()) };
                Link::Bias { bias: self.floats(i, "bias", bias)? }
            }
            Op::Relu => Link::Relu,
            Op::Scale { factor } => Link::Factor { factor: self.finite(i, "factor", *factor)? },
            Op::LeakyRelu { slope } => Link::LeakyRelu { slope: self.finite(i, "slope", *slope)? },
            Op::HardTanh => Link::HardTanh,
            Op::HardSigmoid => Link::HardSigmoid,
            Op::Sigmoid => Link::Sigmoid,
            Op::Tanh => Link::Tanh,
            Op::Add { relu } => {
                let sum = self.sum(draft, i, from);
                draft.links.push(sum);
                if !relu {
                    return Ok(());
                }
                Link::Relu
            }
            other => unreachable!("{other:?} is no function of single elements"),
        };
        draft.links.push(link);
        Ok(())
    }

    /// The sum with the other input, whose conversion from codes to values joins in.
    fn sum(&mut self, draft: &mut Draft, i: usize, from: usize) -> Link {
        let [a, b] = [0, 1].map(|input| self.graph.steps[i].inputs[input].index());
        let other = if a == from { b } else { a };
        let maker = self.graph.maker(other).filter(|&maker| !self.taken[maker]);
        if let Some(maker) = maker
            && let Op::Value { scale } = self.graph.steps[maker].op
            && self.graph.only_taker(other) == Some(i)
        {
            self.taken[maker] = true;
            draft.steps.push(maker);
            draft.operand = Some(self.root(self.graph.steps[maker].inputs[0].index()));
            return Link::Add { operand: Some(scale.into()) };
        }
        draft.operand = Some(self.root(other));
        Link::Add { operand: None }
    }

    fn product_links(&mut self, i: usize) -> Result<Vec<Link>> {
        let (Op::Conv2d { product, .. } | Op::Dense { product, .. }) = &self.graph.steps[i].op else {
            unreachable!("the caller has found a product");
        };
        let channels = product.kernel.shape().last().copied().unwrap_or(0);
        let mut links = Vec::new();
        if let Some(factors) = product.factors.output_scale("freeze", channels) {
            let factors = self.checked(i, "scale", factors)?;
            links.push(Link::Scale { factors: self.tensors.put(i, "scale", Data::Floats(factors)) });
        }
        if let Some(bias) = &product.bias {
            links.push(Link::Bias { bias: self.floats(i, "bias", bias)? });
        }
        Ok(links)
    }

    fn floats(&mut self, i: usize, what: &'static str, values: &Tensor) -> Result<String> {
        let values = self.checked(i, what, values.as_slice().to_vec())?;
        Ok(self.tensors.put(i, what, Data::Floats(values)))
    }

    /// The values themselves if all are finite.
    pub(crate) fn checked(&self, i: usize, parameter: &'static str, values: Vec<f32>) -> Result<Vec<f32>> {
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => {
                let layer = self.graph.names[i].clone();
                Err(Error::NotFinite { layer, parameter, index, value: values[index] })
            }
        }
    }

    fn finite(&self, i: usize, parameter: &'static str, value: f32) -> Result<f32> {
        self.checked(i, parameter, vec![value]).map(|values| values[0])
    }
}

/// What a draft that starts with an operation begins with; nothing is left of a flattening.
fn body_of(op: &Op) -> Option<Body> {
    match *op {
        Op::Conv2d { .. } | Op::Dense { .. } => Some(Body::Product),
        Op::MaxPool(options) => Some(Body::MaxPool(options)),
        Op::AveragePool(options) => Some(Body::AveragePool(options)),
        Op::GlobalAveragePool => Some(Body::GlobalAveragePool),
        Op::MeanMagnitude => Some(Body::MeanMagnitude),
        Op::PadZero { stride, .. } => Some(Body::PadZero { stride }),
        Op::Flatten => None,
        Op::Integer(_) => unreachable!("networks of integers are lowered as such"),
        Op::BatchNorm { .. } | Op::Quantize { .. } | Op::Value { .. } | Op::Add { .. } => Some(Body::Input),
        Op::PixelScale { .. } => Some(Body::Input),
        Op::Relu | Op::Scale { .. } | Op::LeakyRelu { .. } | Op::HardTanh => Some(Body::Input),
        Op::HardSigmoid | Op::Sigmoid | Op::Tanh => Some(Body::Input),
    }
}
