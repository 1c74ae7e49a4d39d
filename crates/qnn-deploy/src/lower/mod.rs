//! From a traced forward pass to a program.
//!
//! ```text
//!   Graph ──▶ drafts: a layer and the functions behind it ──▶ formats: which codes are packed ──▶ stages
//! ```

mod draft;
mod emit;
mod integer;
mod product;
mod thresholds;

use std::collections::BTreeMap;

use qnn_kernels::packed::PoolGeometry;
use qnn_quant::Alphabet;

use crate::codes::{encoding, planes};
use crate::graph::Graph;
use crate::program::{Link, Program};
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
    let tensors = std::mem::take(&mut drafting.tensors);
    let mut nodes = Nodes { graph, by_node: BTreeMap::new() };
    nodes.by_node.insert(input, Node { shape, codes: None, packed: false });
    for draft in &drafts {
        nodes.describe(draft)?;
    }
    nodes.choose_formats(&drafts, output)?;
    emit::Emission::new(graph, &nodes, tensors, drafts).program(input, output)
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
            _ => self.shape(draft.start)?,
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

    /// The shape per image of what a step made: `[n, h, w, c]`, `[n, w, c]` or `[n, c]`.
    fn shape(&self, step: usize) -> Result<[usize; 3]> {
        match self.graph.steps[step].output.shape()[..] {
            [1, h, w, c] => Ok([h, w, c]),
            [1, w, c] => Ok([1, w, c]),
            [1, c] => Ok([1, 1, c]),
            ref other => Err(Error::Unsupported {
                layer: self.graph.names[step].clone(),
                reason: format!(
                    "its output has the shape {other:?}; a program holds images [n, h, w, c] and rows [n, c]"
                ),
            }),
        }
    }

    /// Codes are packed where a kernel takes them so. Whether a pool takes them so depends on who
    /// takes the pool's, hence the reverse order.
    fn choose_formats(&mut self, drafts: &[Draft], output: usize) -> Result<()> {
        for draft in drafts.iter().rev() {
            let input = self.of(draft.input);
            let Some(codes) = input.codes.filter(|&codes| encoding(codes).is_some()) else { continue };
            let wants = match draft.body {
                Body::Product => Factorization::of(self.graph, draft, &input)?.is_integer(),
                Body::MaxPool(options) => {
                    self.of(draft.output).packed
                        && pool_geometry(input.shape, &options).is_some()
                        && planes(codes)
                }
                // A mean of packed codes lets the layer before it end in thresholds.
                Body::GlobalAveragePool => planes(codes),
                _ => false,
            };
            if wants && draft.input != output {
                self.by_node.entry(draft.input).and_modify(|node| node.packed = true);
            }
        }
        Ok(())
    }
}

/// The pool as a kernel over packed codes does it, if it can: it knows no incomplete windows.
pub(crate) fn pool_geometry(
    [height, width, _]: [usize; 3],
    options: &qnn_tensor::ops::PoolOptions,
) -> Option<PoolGeometry> {
    let qnn_tensor::ops::PoolOptions { size: window, stride, padding, .. } = *options;
    let geometry = PoolGeometry { height, width, window, stride, padding };
    let same = qnn_tensor::ops::slices::pool_output([height, width], options)
        == Some([geometry.out_height(), geometry.out_width()]);
    (geometry.check().is_ok() && same).then_some(geometry)
}

/// The least alphabet that holds these codes and zero.
fn with_zero(codes: Alphabet) -> Alphabet {
    if codes.contains(0) {
        return codes;
    }
    let (first, last) = (codes.first.min(0), codes.last().max(0));
    Alphabet { first, step: 1, count: (last - first + 1) as u32 }
}
