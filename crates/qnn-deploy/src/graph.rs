use std::collections::{BTreeMap, BTreeSet};

use qnn_layers::{Leaf, Module, Op, ParamId, Path, Step};

use crate::{Error, Result};

/// A trace as a graph: who made each value, and who takes it.
pub(crate) struct Graph<'t> {
    pub(crate) steps: Vec<Step<'t>>,
    /// What each step is called: the path of its layer, or what it follows.
    pub(crate) names: Vec<String>,
    /// Whether the output depends on a step.
    pub(crate) lives: Vec<bool>,
    pub(crate) output: usize,
    makers: BTreeMap<usize, usize>,
    takers: BTreeMap<usize, Vec<usize>>,
}

impl<'t> Graph<'t> {
    /// The graph between the nodes `input` and `output` of the tape.
    pub(crate) fn new(model: &dyn Module, steps: Vec<Step<'t>>, input: usize, output: usize) -> Result<Self> {
        let makers: BTreeMap<_, _> =
            steps.iter().enumerate().map(|(i, step)| (step.output.index(), i)).collect();
        let names = names(model, &steps, &makers);
        check_reported(&steps, &names, input)?;
        if output != input && !makers.contains_key(&output) {
            return Err(Error::Unreported { layer: "the end of the model".to_owned() });
        }
        let lives = lives(&steps, &makers, output);
        let mut takers: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (i, step) in steps.iter().enumerate().filter(|&(i, _)| lives[i]) {
            step.inputs.iter().for_each(|x| takers.entry(x.index()).or_default().push(i));
        }
        Ok(Self { steps, names, lives, output, makers, takers })
    }

    /// The step that made a value; the input has none.
    pub(crate) fn maker(&self, node: usize) -> Option<usize> {
        self.makers.get(&node).copied()
    }

    /// The only step that takes a value. The output leaves the graph, which counts as another.
    pub(crate) fn only_taker(&self, node: usize) -> Option<usize> {
        match self.takers.get(&node).map(Vec::as_slice) {
            Some(&[taker]) if node != self.output => Some(taker),
            _ => None,
        }
    }
}

impl Graph<'_> {
    /// The shape per image of what a step made: `[n, h, w, c]`, `[n, w, c]` or `[n, c]`.
    pub(crate) fn shape(&self, step: usize) -> Result<[usize; 3]> {
        match self.steps[step].output.shape()[..] {
            [1, h, w, c] => Ok([h, w, c]),
            [1, w, c] => Ok([1, w, c]),
            [1, c] => Ok([1, 1, c]),
            ref other => Err(Error::Unsupported {
                layer: self.names[step].clone(),
                reason: format!(
                    "its output has the shape {other:?}; a program holds images [n, h, w, c] and rows [n, c]"
                ),
            }),
        }
    }
}

/// Every input must be the output of an earlier step, or the image.
fn check_reported(steps: &[Step<'_>], names: &[String], input: usize) -> Result<()> {
    let mut known = BTreeSet::from([input]);
    for (step, name) in steps.iter().zip(names) {
        if step.inputs.iter().any(|x| !known.contains(&x.index())) {
            return Err(Error::Unreported { layer: format!("{} ({name})", step.layer) });
        }
        known.insert(step.output.index());
    }
    Ok(())
}

fn lives(steps: &[Step<'_>], makers: &BTreeMap<usize, usize>, output: usize) -> Vec<bool> {
    let mut lives = vec![false; steps.len()];
    if let Some(&last) = makers.get(&output) {
        lives[last] = true;
    }
    for i in (0..steps.len()).rev() {
        if lives[i] {
            let inputs = steps[i].inputs.iter().filter_map(|x| makers.get(&x.index()));
            inputs.for_each(|&maker| lives[maker] = true);
        }
    }
    lives
}

/// The layer's path where it has a parameter; else its kind and the path that its input comes from.
fn names(model: &dyn Module, steps: &[Step<'_>], makers: &BTreeMap<usize, usize>) -> Vec<String> {
    let paths = layer_paths(model);
    let mut origins: Vec<&str> = Vec::with_capacity(steps.len());
    let mut names = Vec::with_capacity(steps.len());
    for step in steps {
        let before = step.inputs.first().and_then(|x| makers.get(&x.index()));
        let origin = before.map_or("the input", |&maker| origins.get(maker).copied().unwrap_or("the input"));
        match step.param.and_then(|param| paths.get(&param)) {
            Some(path) => {
                origins.push(path);
                names.push(path.clone());
            }
            None => {
                origins.push(origin);
                names.push(match step.op {
                    Op::Value { .. } => format!("values of {origin}"),
                    _ => format!("{} after {origin}", step.layer),
                });
            }
        }
    }
    names
}

/// The path of the layer that holds each parameter: that of the parameter without its last name.
fn layer_paths(model: &dyn Module) -> BTreeMap<ParamId, String> {
    let mut paths = BTreeMap::new();
    model.visit(&mut Path::default(), &mut |at, leaf| {
        if let Leaf::Param(param) = leaf {
            let path = at.as_str();
            let layer = path.rsplit_once('.').map_or("the model", |(layer, _)| layer);
            paths.entry(param.id()).or_insert_with(|| layer.to_owned());
        }
    });
    paths
}
