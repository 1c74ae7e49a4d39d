//! From a traced forward pass to a program.
//!
//! ```text
//!   Graph ──▶ drafts: a layer and the functions behind it ──▶ formats: which codes are packed ──▶ stages
//! ```

mod draft;
mod emit;
mod integer;
mod product;
mod remarks;
mod thresholds;

use std::collections::BTreeMap;

use qnn_quant::Alphabet;

use crate::codes::{encoding, planes};
use crate::geometry::pool_geometry;
use crate::graph::Graph;
use crate::program::{Data, Link, Program, Stage};
use crate::{Error, Result};

use draft::{Body, Draft, Drafting};
use product::Factorization;

/// The program of a graph whose image is the node `input`.
pub(crate) fn lower(graph: &Graph<'_>, input: usize, shape: [usize; 3]) -> Result<Program> {
    if integer::is_integer(graph) {
        return integer::lower(graph, input, shape);
    }
    let mut drafting = Drafting::new(graph);
    let drafts = drafting.drafts()?;
    let output = drafting.root(graph.output);
    let tensors = drafting.tensors;
    let mut nodes = Nodes { graph, by_node: BTreeMap::new() };
    nodes.by_node.insert(input, Node { shape, codes: None, packed: false });
    for draft in &drafts {
        nodes.describe(draft)?;
    }
    nodes.choose_formats(&drafts, output)?;
    emit::Emission::new(graph, &nodes, tensors, drafts).program(input, output)
}

impl Program {
    /// The program itself, if a session would take it; else which layers it would not.
    fn checked(self) -> Result<Self> {
        match self.check() {
            Err(Error::Program { stage, reason }) => {
                let layer = self.stages.get(stage).map_or_else(|| "the model".to_owned(), Stage::title);
                Err(Error::Unsupported { layer, reason: format!("no program holds it: {reason}") })
            }
            found => found.map(|()| self),
        }
    }
}

/// The tensors of a program in the making, named by the steps that they belong to.
pub(crate) struct Store<'a, 't> {
    graph: &'a Graph<'t>,
    data: BTreeMap<String, Data>,
}

impl<'a, 't> Store<'a, 't> {
    fn new(graph: &'a Graph<'t>) -> Self {
        Self { graph, data: BTreeMap::new() }
    }

    /// Takes in a tensor of a step and returns its name.
    fn put(&mut self, step: usize, what: &str, data: Data) -> String {
        let name = format!("{step:03}.{}.{what}", self.graph.names[step]);
        self.data.insert(name.clone(), data);
        name
    }
}

/// What is known of the values between drafts.
pub(crate) struct Nodes<'a, 't> {
    graph: &'a Graph<'t>,
    by_node: BTreeMap<usize, Node>,
}

/// A value between drafts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    /// How its elements lie, before any flattening.
    pub(crate) shape: [usize; 3],
    /// Which codes it holds, if it holds codes.
    pub(crate) codes: Option<Alphabet>,
    /// Whether they lie in memory packed.
    pub(crate) packed: bool,
}

impl Nodes<'_, '_> {
    pub(crate) fn of(&self, node: usize) -> Node {
        self.by_node[&node]
    }

    /// Shape and codes of a draft's output.
    fn describe(&mut self, draft: &Draft) -> Result<()> {
        let from = self.of(draft.input);
        let shape = match draft.body {
            // The functions of single elements do not mind a flattening.
            Body::Input => from.shape,
            _ => self.graph.shape(draft.start)?,
        };
        let codes = match (draft.body, draft.links.last()) {
            (_, Some(Link::Quantize { alphabet, .. })) => Some(*alphabet),
            (Body::MaxPool(_), _) => from.codes,
            (Body::PadZero { .. }, _) => from.codes.map(with_zero),
            _ => None,
        };
        self.by_node.insert(draft.output, Node { shape, codes, packed: false });
        Ok(())
    }

    /// Codes are packed where a kernel takes them so, if they can be made so. Whether a pool takes them so
    /// depends on who takes the pool's, hence the reverse order.
    fn choose_formats(&mut self, drafts: &[Draft], output: usize) -> Result<()> {
        for draft in drafts.iter().rev() {
            let input = self.of(draft.input);
            let Some(codes) = input.codes.filter(|&codes| encoding(codes).is_some()) else { continue };
            let wants = match draft.body {
                Body::Product => Factorization::of(self.graph, draft, &input)?.is_integer(),
                // It was asked whether this pool can.
                Body::MaxPool(_) => self.of(draft.output).packed,
                // A mean of packed codes lets the layer before it end in thresholds.
                Body::GlobalAveragePool => planes(codes),
                _ => false,
            };
            if wants && draft.input != output && self.can_lie_packed(drafts, draft.input) {
                self.by_node.entry(draft.input).and_modify(|node| node.packed = true);
            }
        }
        Ok(())
    }

    /// Whether the draft that makes codes can make them packed.
    fn can_lie_packed(&self, drafts: &[Draft], node: usize) -> bool {
        let Some(maker) = drafts.iter().find(|draft| draft.output == node) else { return false };
        match maker.body {
            Body::MaxPool(options) => {
                pool_geometry(self.of(maker.input).shape, &options).is_some()
                    && self.can_lie_packed(drafts, maker.input)
            }
            Body::PadZero { .. } => false,
            _ => true,
        }
    }
}

/// The least alphabet that holds these codes and zero.
fn with_zero(codes: Alphabet) -> Alphabet {
    if codes.contains(0) {
        return codes;
    }
    let (first, last) = (codes.first.min(0), codes.last().max(0));
    Alphabet { first, step: 1, count: (last - first + 1) as u32 }
}
