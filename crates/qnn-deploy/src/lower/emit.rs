use std::collections::{BTreeMap, BTreeSet};

use qnn_kernels::packed::Thresholds;
use qnn_quant::Alphabet;

use super::draft::{Body, Draft};
use super::product::Factorization;
use super::remarks::{WITHOUT_SCALES, alone, remark};
use super::thresholds::{NotMonotone, thresholds};
use super::{Nodes, Store};
use crate::chain::{Cuts, Functions};
use crate::codes::{KernelLayout, planes};
use crate::geometry::pool_geometry;
use crate::graph::Graph;
use crate::program::{
    Action, Arithmetic, Chain, Data, Elements, Finish, LayerName, Link, Product, Program, Remark, Stage,
    Value, Weights,
};
use crate::tensors::Tensors;
use crate::{Error, Result};

/// More comparisons than this for each sum take longer than the functions in f32.
const MOST_COMPARISONS: u32 = 16;
/// Thresholds between more levels take up to a kilobyte for each channel, and about as long as the functions.
const MOST_LEVELS: u32 = 128;

/// Turns drafts into stages.
pub(crate) struct Emission<'a, 't> {
    graph: &'a Graph<'t>,
    nodes: &'a Nodes<'a, 't>,
    drafts: Vec<Draft>,
    tensors: Store<'a, 't>,
    values: Vec<Value>,
    stages: Vec<Stage>,
    /// From nodes to values.
    places: BTreeMap<usize, usize>,
    /// From packed values to their unpacked twins.
    unpacked: BTreeMap<usize, usize>,
    /// Drafts that an earlier one has computed.
    done: BTreeSet<usize>,
}

impl<'a, 't> Emission<'a, 't> {
    pub(crate) fn new(
        graph: &'a Graph<'t>,
        nodes: &'a Nodes<'a, 't>,
        tensors: Store<'a, 't>,
        drafts: Vec<Draft>,
    ) -> Self {
        let (values, stages, done) = (Vec::new(), Vec::new(), BTreeSet::new());
        let (places, unpacked) = (BTreeMap::new(), BTreeMap::new());
        Self { graph, nodes, drafts, tensors, values, stages, places, unpacked, done }
    }

    pub(crate) fn program(mut self, input: usize, output: usize) -> Result<Program> {
        self.value(input);
        let drafts = std::mem::take(&mut self.drafts);
        for (i, draft) in drafts.iter().enumerate() {
            if self.done.contains(&i) {
                continue;
            }
            match draft.body {
                Body::Product => self.product(&drafts, i)?,
                _ => self.other(draft)?,
            }
        }
        let output = self.places[&output];
        let Self { values, stages, tensors, .. } = self;
        let (normalization, classes) = (None, Vec::new());
        let mut program = Program { values, stages, output, normalization, classes, tensors: tensors.data };
        program.forget_unused_tensors();
        program.checked()
    }

    /// The value of a node, made when first asked for.
    fn value(&mut self, node: usize) -> usize {
        if let Some(&place) = self.places.get(&node) {
            return place;
        }
        let of = self.nodes.of(node);
        let elements = match of.codes {
            Some(codes) if of.packed => Elements::Packed(codes),
            _ => Elements::Float,
        };
        let place = self.new_value(of.shape, elements);
        self.places.insert(node, place);
        place
    }

    fn new_value(&mut self, shape: [usize; 3], elements: Elements) -> usize {
        self.values.push(Value { shape, elements });
        self.values.len() - 1
    }

    /// A value in f32: the node's own, or codes unpacked.
    fn float_value(&mut self, node: usize) -> usize {
        let place = self.value(node);
        if self.values[place].elements == Elements::Float {
            return place;
        }
        if let Some(&twin) = self.unpacked.get(&place) {
            return twin;
        }
        let twin = self.new_value(self.values[place].shape, Elements::Float);
        self.unpacked.insert(place, twin);
        let remarks = vec![remark("a layer behind it computes in f32", "quantize that layer's kernel too")];
        self.push(&[], place, None, twin, Action::Chain(Chain::default()), remarks);
        twin
    }

    fn push(
        &mut self,
        steps: &[usize],
        input: usize,
        operand: Option<usize>,
        output: usize,
        action: Action,
        remarks: Vec<Remark>,
    ) {
        let mut steps = steps.to_vec();
        steps.sort_unstable();
        let layer = |step: usize| LayerName { step, name: self.graph.names[step].clone() };
        let layers = steps.into_iter().map(layer).collect();
        self.stages.push(Stage { layers, input, operand, output, action, remarks });
    }

    fn other(&mut self, draft: &Draft) -> Result<()> {
        let output = self.value(draft.output);
        let packed = matches!(self.values[output].elements, Elements::Packed(_));
        let input = match draft.body {
            Body::Input => self.value(draft.input),
            Body::MaxPool(_) if packed => self.value(draft.input),
            Body::GlobalAveragePool => self.value(draft.input),
            _ => self.float_value(draft.input),
        };
        let operand = draft.operand.map(|operand| self.operand(operand, output));
        let action = match draft.body {
            Body::MaxPool(options) => Action::MaxPool { options, falling: None },
            Body::AveragePool(options) => Action::AveragePool(options),
            Body::GlobalAveragePool => Action::GlobalAveragePool,
            Body::MeanMagnitude => Action::MeanMagnitude,
            Body::PadZero { stride } => Action::PadZero { stride },
            Body::Input | Body::Product => Action::Chain(Chain { links: draft.links.clone() }),
        };
        let remarks = alone(self.graph, draft, &self.values[input]).into_iter().collect();
        self.push(&draft.steps, input, operand, output, action, remarks);
        Ok(())
    }

    /// What a sum adds: as it lies, unless it is packed in another shape.
    fn operand(&mut self, node: usize, output: usize) -> usize {
        let place = self.value(node);
        if self.values[place].shape == self.values[output].shape { place } else { self.float_value(node) }
    }

    fn product(&mut self, drafts: &[Draft], i: usize) -> Result<()> {
        let draft = &drafts[i];
        let node = self.nodes.of(draft.input);
        let factors = Factorization::of(self.graph, draft, &node)?;
        let weights = self.weights(draft, &factors)?;
        match factors.arithmetic {
            Arithmetic::Integer if node.packed => self.integer_product(drafts, i, &factors, weights),
            Arithmetic::Integer => self.float_product(draft, &factors.with_numbers(), weights),
            _ => self.float_product(draft, &factors, weights),
        }
    }

    fn float_product(&mut self, draft: &Draft, factors: &Factorization<'_>, weights: Weights) -> Result<()> {
        let input = self.float_value(draft.input);
        let remarks = match self.graph.steps[draft.start].param {
            Some(_) => factors.remark.clone().into_iter().collect(),
            None => vec![remark("its weights are constants, a mean over a window", WITHOUT_SCALES)],
        };
        let output = self.value(draft.output);
        let operand = draft.operand.map(|operand| self.operand(operand, output));
        let finish = Finish::Chain(Chain { links: draft.links.clone() });
        let product = Action::Product(assemble(factors, weights, factors.arithmetic, finish));
        self.push(&draft.steps, input, operand, output, product, remarks);
        Ok(())
    }

    fn integer_product(
        &mut self,
        drafts: &[Draft],
        i: usize,
        factors: &Factorization<'_>,
        weights: Weights,
    ) -> Result<()> {
        let draft = &drafts[i];
        let input = self.value(draft.input);
        let product =
            |finish| Action::Product(assemble(factors, weights.clone(), Arithmetic::Integer, finish));
        if let Some((pool, chain)) = self.pool_and_codes(drafts, draft)
            && self.pooled_thresholds(drafts, i, [pool, chain], factors, &product)?
        {
            return Ok(());
        }
        let output = self.value(draft.output);
        let operand = draft.operand.map(|operand| self.operand(operand, output));
        let (finish, remarks) = match self.thresholds(draft, &draft.links, factors, draft.output)? {
            Ok(found) => (self.finish(draft, &found), Vec::new()),
            Err(remark) => {
                (Finish::Chain(Chain { links: draft.links.clone() }), remark.into_iter().collect())
            }
        };
        self.push(&draft.steps, input, operand, output, product(finish), remarks);
        Ok(())
    }

    /// The drafts behind a product that pool its sums and make codes of the largest ones.
    fn pool_and_codes(&self, drafts: &[Draft], product: &Draft) -> Option<(usize, usize)> {
        let behind = |node: usize| {
            let taker = self.graph.only_taker(node)?;
            drafts.iter().position(|draft| draft.start == taker)
        };
        let pool = behind(product.output)?;
        let Body::MaxPool(options) = drafts[pool].body else { return None };
        let codes = behind(drafts[pool].output)?;
        let fits = drafts[codes].body == Body::Input
            && drafts[codes].operand.is_none()
            && self.nodes.of(drafts[codes].output).packed
            && pool_geometry(self.nodes.of(product.output).shape, &options).is_some();
        fits.then_some((pool, codes))
    }

    /// Thresholds before the pool instead of behind it. The functions between sum and pool never
    /// fall, so they commute with the maximum; where the ones behind it fall, the smallest code
    /// stands for the largest sum.
    fn pooled_thresholds(
        &mut self,
        drafts: &[Draft],
        i: usize,
        [pool, codes]: [usize; 2],
        factors: &Factorization<'_>,
        product: &impl Fn(Finish) -> Action,
    ) -> Result<bool> {
        let (draft, last) = (&drafts[i], &drafts[codes]);
        let Body::MaxPool(options) = drafts[pool].body else { return Ok(false) };
        if !self.never_falls(&draft.links) {
            return Ok(false);
        }
        let links = [&draft.links[..], &last.links[..]].concat();
        let Ok(found) = self.thresholds(draft, &links, factors, last.output)? else { return Ok(false) };
        let [found_flips] = &found.iter().map(Thresholds::flips).collect::<Vec<_>>()[..] else {
            return Ok(false);
        };
        let input = self.value(draft.input);
        let output = self.value(last.output);
        let between = self.new_value(self.nodes.of(draft.output).shape, self.values[output].elements);
        let flips: Vec<u8> = found_flips.iter().map(|&flip| flip.into()).collect();
        let finish = self.finish(draft, &found);
        let falling =
            flips.contains(&1).then(|| self.tensors.put(draft.start, "falling", Data::Bytes(flips)));
        self.push(&draft.steps, input, None, between, product(finish), Vec::new());
        let steps = [&drafts[pool].steps[..], &last.steps[..]].concat();
        self.push(&steps, between, None, output, Action::MaxPool { options, falling }, Vec::new());
        self.done.extend([pool, codes]);
        Ok(true)
    }

    /// Whether all factors of a product are positive or zero.
    fn never_falls(&self, links: &[Link]) -> bool {
        links.iter().all(|link| match link {
            Link::Scale { factors } => {
                matches!(self.tensors.data.get(factors), Some(Data::Floats(values)) if values.iter().all(|&x| x >= 0.0))
            }
            Link::Bias { .. } => true,
            _ => false,
        })
    }

    /// Thresholds in place of a product's links, for each code of an operand where there is one; or
    /// why there are none, with nothing to remark where there is no quantizer.
    fn thresholds(
        &self,
        draft: &Draft,
        links: &[Link],
        factors: &Factorization<'_>,
        output: usize,
    ) -> Result<Result<Vec<Thresholds>, Option<Remark>>> {
        let Some((Link::Quantize { alphabet, cuts }, before)) = links.split_last() else {
            return Ok(Err(None));
        };
        if !self.nodes.of(output).packed || !planes(*alphabet) {
            return Ok(Err(None));
        }
        if alphabet.count > MOST_LEVELS {
            let bytes = 4 * (alphabet.count - 1);
            let reason =
                format!("its {} levels would take {bytes} bytes of thresholds a channel", alphabet.count);
            let remedy = "none is needed: its functions run in f32 while the sums lie in the cache";
            return Ok(Err(Some(remark(&reason, remedy))));
        }
        let selector = match draft.operand {
            Some(operand) => match self.selector(operand, output, *alphabet) {
                Some(codes) => Some(codes),
                None => {
                    let reason = "a residual sum with f32 lies between the product and its codes";
                    let remedy = "none is needed: it runs in f32 while the sums lie in the cache";
                    return Ok(Err(Some(remark(reason, remedy))));
                }
            },
            None => None,
        };
        // Beside a given code a sum is a bias.
        if !before.iter().all(|link| link.is_monotone() || matches!(link, Link::Add { .. })) {
            let reason = "the activation before the quantizer is not known to be monotone in f32";
            return Ok(Err(Some(remark(reason, "leave it out: the quantizer saturates by itself"))));
        }
        let tensors = Tensors { data: &self.tensors.data, stage: self.stages.len() };
        let channels = factors.geometry.out_channels;
        let functions = Functions::new(&Chain { links: before.to_vec() }, channels, &tensors)?;
        let steps = Cuts::stored(*alphabet, cuts, &tensors)?;
        let operands: Vec<Vec<f32>> = match selector {
            None => vec![Vec::new()],
            Some(codes) => codes_of(codes).map(|code| vec![code as f32; channels]).collect(),
        };
        let found = operands
            .iter()
            .map(|operand| thresholds((&functions, operand), &steps, channels, factors.reach as i32));
        Ok(found.collect::<Result<_, _>>().map_err(|NotMonotone { channel, at }| {
            let name = &self.graph.names[draft.start];
            let reason = format!("the codes of {name}, channel {channel}, go up and down near the sum {at}");
            Some(remark(&reason, "use an activation and a quantizer that never fall"))
        }))
    }

    /// The codes of an operand that can select thresholds: packed as the output is, and few.
    fn selector(&self, operand: usize, output: usize, alphabet: Alphabet) -> Option<Alphabet> {
        let [operand, output] = [operand, output].map(|node| self.nodes.of(node));
        let codes = operand.codes.filter(|&codes| operand.packed && planes(codes))?;
        let comparisons = codes.count.saturating_mul(alphabet.count - 1);
        (operand.shape == output.shape && comparisons <= MOST_COMPARISONS).then_some(codes)
    }

    /// Thresholds as the program holds them: those of a draft with an operand are selected by it.
    fn finish(&mut self, draft: &Draft, found: &[Thresholds]) -> Finish {
        let cuts = |found: &Thresholds| {
            let of = |channel| (0..found.levels() - 1).map(move |rank| found.cuts(rank)[channel]);
            (0..found.channels()).flat_map(of).collect::<Vec<i32>>()
        };
        let cuts = Data::Integers(found.iter().flat_map(cuts).collect());
        let flips = found.iter().flat_map(|found| found.flips().iter().map(|&flip| flip.into()));
        let flips = Data::Bytes(flips.collect());
        let [cuts, flips] =
            [("cuts", cuts), ("flips", flips)].map(|(what, data)| self.tensors.put(draft.start, what, data));
        match draft.operand {
            None => Finish::Thresholds { cuts, flips },
            Some(_) => Finish::Selected { cuts, flips },
        }
    }

    fn weights(&mut self, draft: &Draft, factors: &Factorization<'_>) -> Result<Weights> {
        let layer = || self.graph.names[draft.start].clone();
        let codes = factors.operands.kernel.as_slice();
        if let Some(index) = codes.iter().position(|value| !value.is_finite()) {
            let (parameter, value) = ("kernel", codes[index]);
            return Err(Error::NotFinite { layer: layer(), parameter, index, value });
        }
        let packed = factors
            .operands
            .alphabet
            .and_then(|alphabet: Alphabet| Some((alphabet, KernelLayout::new(alphabet, codes.len())?)));
        let Some((alphabet, layout)) = packed else {
            let tensor = self.tensors.put(draft.start, "kernel", Data::Floats(codes.to_vec()));
            return Ok(Weights::Float { tensor });
        };
        let bytes = layout.and_then(|layout| layout.pack(codes));
        let bytes = bytes.map_err(|source| Error::Pack { layer: layer(), source })?;
        let tensor = self.tensors.put(draft.start, "kernel", Data::Bytes(bytes));
        Ok(Weights::Packed { alphabet, tensor })
    }
}

fn assemble(
    factors: &Factorization<'_>,
    weights: Weights,
    arithmetic: Arithmetic,
    finish: Finish,
) -> Product {
    let qnn_kernels::packed::ConvGeometry { kernel, stride, padding, groups, .. } = factors.geometry;
    Product { kernel, stride, padding, pad_code: factors.pad_code, groups, weights, arithmetic, finish }
}

/// The codes of an alphabet in ascending order.
fn codes_of(alphabet: Alphabet) -> impl Iterator<Item = i32> {
    (0..alphabet.count as i32).map(move |rank| alphabet.first + alphabet.step * rank)
}
