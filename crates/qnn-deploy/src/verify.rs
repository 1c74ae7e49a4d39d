use std::collections::BTreeSet;
use std::fmt;

use qnn_kernels::{ChannelAffine, Conv2dShape, Convolution, MatmulShape};
use qnn_layers::{IntegerOp, Layer, Op, Step};
use qnn_tensor::{Tape, Tensor};

use crate::freeze::{Traced, batch_of};
use crate::graph::Graph;
use crate::memory::Memory;
use crate::program::{Action, Finish, Product, Program, Stage};
use crate::run::{Kind, StageRun};
use crate::session::Moment;
use crate::{Error, Images, Result, Session};

/// What a comparison of a model with its program has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Images that went through both.
    pub images: usize,
    /// Stages whose outputs were compared, for each batch.
    pub stages: usize,
    /// Integer sums that were compared.
    pub sums: u64,
    /// Numbers and codes that were compared.
    pub values: u64,
    /// Images for which both have the same largest logit.
    pub equal_predictions: usize,
    /// The first layer that differs, in the order of execution.
    pub difference: Option<Difference>,
}

/// An element in which model and program differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The layer.
    pub layer: String,
    /// `sums` or `values`.
    pub what: &'static str,
    /// The image, counted over all batches.
    pub image: usize,
    /// The element of the image's output, in row-major order.
    pub element: usize,
    /// What the model has; NaN where its output has no such element.
    pub model: f64,
    /// What the program has, likewise.
    pub program: f64,
}

/// Runs a model and its program on batches of images `[n, height, width, channels]` and compares every
/// integer sum, the output of every stage and the logits of [`Session::run`], bit for bit.
///
/// # Errors
///
/// [`Error::OtherModel`] if the program was not frozen from such a model, and those of
/// [`Session::run_into`].
pub fn verify(
    model: &dyn Layer,
    program: &Program,
    batches: impl IntoIterator<Item = Vec<f32>>,
) -> Result<Report> {
    let mut session = Session::new(program)?;
    let mut report = Report::default();
    for batch in batches {
        Comparison { program, report: &mut report }.batch(model, &mut session, &batch)?;
    }
    Ok(report)
}

impl Report {
    /// Whether images were compared, and nothing differs.
    pub fn is_exact(&self) -> bool {
        self.images > 0 && self.difference.is_none() && self.equal_predictions == self.images
    }
}

struct Comparison<'a> {
    program: &'a Program,
    report: &'a mut Report,
}

impl Comparison<'_> {
    fn batch(&mut self, model: &dyn Layer, session: &mut Session, images: &[f32]) -> Result<()> {
        let shape = self.program.input_shape();
        let count = images.len() / shape.iter().product::<usize>();
        let batch = batch_of(count, shape);
        let numbers = Tensor::from_vec(&batch, images.to_vec()).map_err(|_| Error::Length {
            what: "images",
            got: images.len(),
            expected: format!("a multiple of {}", shape.iter().product::<usize>()),
        })?;
        let tape = Tape::new();
        let Traced { trace, input, output } = Traced::new(model, &tape, numbers, shape)?;
        let graph = Graph::new(model, trace.steps, input, output)?;
        self.check_same(&graph)?;
        let mut stages = 0;
        session.observe(Images::Numbers(images), |i, run, memory, moment| {
            let stage = &self.program.stages[i];
            match moment {
                Moment::Before => self.sums(&graph, stage, run, memory, count),
                Moment::After => stages += usize::from(self.values(&graph, stage, run, memory, count)),
            }
        })?;
        // As whoever deploys it runs it: in groups, on all threads, in memory that was used before.
        let logits = session.run(images)?;
        let expected = match graph.maker(output) {
            Some(maker) => graph.steps[maker].output.value().as_slice().to_vec(),
            None => images.to_vec(),
        };
        self.report.values += logits.len() as u64;
        self.compare("the logits", "values", count, &expected, &logits);
        self.report.equal_predictions += equal_predictions(&logits, &expected, self.program.outputs());
        self.report.images += count;
        self.report.stages = stages;
        Ok(())
    }

    /// The layers of the program must be those of the trace, and all of them; nothing is left of a flattening.
    fn check_same(&self, graph: &Graph<'_>) -> Result<()> {
        let layers = || self.program.stages.iter().flat_map(|stage| &stage.layers);
        for layer in layers() {
            let found = graph.names.get(layer.step);
            if found != Some(&layer.name) {
                let found = found.map_or_else(|| "nothing".to_owned(), String::clone);
                return Err(Error::OtherModel { found, expected: layer.name.clone() });
            }
        }
        let done: BTreeSet<usize> = layers().map(|layer| layer.step).collect();
        let more = |&step: &usize| {
            graph.lives[step] && !done.contains(&step) && !matches!(graph.steps[step].op, Op::Flatten)
        };
        match (0..graph.steps.len()).find(more) {
            Some(step) => {
                let (found, expected) = (graph.names[step].clone(), "nothing".to_owned());
                Err(Error::OtherModel { found, expected })
            }
            None => Ok(()),
        }
    }

    fn sums(&mut self, graph: &Graph<'_>, stage: &Stage, run: &StageRun, memory: &Memory, images: usize) {
        if let Kind::Integer(integer) = &run.kind {
            return self.integer_sums(
                graph,
                stage,
                integer.accumulators(run.input.read(memory, images), images),
                images,
            );
        }
        let Kind::Product(product) = &run.kind else { return };
        let Some(found) = product.accumulators(run.input.read(memory, images), images) else { return };
        let steps = stage.layers.iter().map(|layer| &graph.steps[layer.step]);
        let Some((layer, expected)) =
            steps.zip(&stage.layers).find_map(|(step, layer)| Some((layer, sums_of(step)?)))
        else {
            return;
        };
        let found: Vec<f32> = found.iter().map(|&sum| sum as f32).collect();
        self.report.sums += found.len() as u64;
        self.compare(&layer.name, "sums", images, &expected, &found);
    }

    /// Sums of integer arithmetic, which have more bits than f32.
    fn integer_sums(&mut self, graph: &Graph<'_>, stage: &Stage, found: Option<Vec<i32>>, images: usize) {
        let Some((layer, found)) = stage.layers.first().zip(found) else { return };
        let Some(expected) = integer_sums_of(&graph.steps[layer.step]) else { return };
        self.report.sums += found.len() as u64;
        let at = expected.iter().zip(&found).position(|(model, program)| model != program);
        let at = at.or((expected.len() != found.len()).then_some(expected.len().min(found.len())));
        let number = |sums: &[i32], at: usize| sums.get(at).map_or(f64::NAN, |&sum| f64::from(sum));
        let numbers = at.map(|at| (at, [number(&expected, at), number(&found, at)]));
        self.note(&layer.name, "sums", found.len() / images.max(1), numbers);
    }

    /// Whether there was something to compare.
    fn values(
        &mut self,
        graph: &Graph<'_>,
        stage: &Stage,
        run: &StageRun,
        memory: &Memory,
        images: usize,
    ) -> bool {
        let Some(last) = stage.layers.last().filter(|_| stage.has_comparable_output(graph)) else {
            return false;
        };
        let expected = graph.steps[last.step].output.value();
        let len = run.output.value.len() * images;
        let mut scratch = vec![0.0; len];
        let channels = run.output.value.shape[2];
        let source = run.output.read(memory, images);
        let mut found = source.numbers(0..len / channels, channels, &mut scratch).to_vec();
        if let Some(codes) = run.output.value.byte_codes() {
            found.iter_mut().for_each(|stored| *stored -= codes.zero_point() as f32);
        }
        self.report.values += len as u64;
        self.compare(&last.name, "values", images, expected.as_slice(), &found);
        true
    }

    fn compare(&mut self, layer: &str, what: &'static str, images: usize, model: &[f32], program: &[f32]) {
        let differs = |(model, program): (&f32, &f32)| model.to_bits() != program.to_bits();
        let at = model.iter().zip(program).position(differs);
        let at = at.or((model.len() != program.len()).then_some(model.len().min(program.len())));
        let of = |values: &[f32], at: usize| values.get(at).map_or(f64::NAN, |&value| f64::from(value));
        let numbers = at.map(|at| (at, [of(model, at), of(program, at)]));
        self.note(layer, what, program.len() / images.max(1), numbers);
    }

    /// Keeps the first difference: where it is, among so many elements per image, and what model and program have.
    fn note(&mut self, layer: &str, what: &'static str, each: usize, numbers: Option<(usize, [f64; 2])>) {
        let (Some((at, [model, program])), None) = (numbers, &self.report.difference) else { return };
        let (image, element) = (self.report.images + at / each.max(1), at % each.max(1));
        self.report.difference =
            Some(Difference { layer: layer.to_owned(), what, image, element, model, program });
    }
}

impl Stage {
    /// Thresholds that stand before a pool make codes that the model never has there.
    fn has_comparable_output(&self, graph: &Graph<'_>) -> bool {
        let ends_in_codes =
            self.layers.last().is_some_and(|last| matches!(graph.steps[last.step].op, Op::Quantize { .. }));
        let thresholds =
            matches!(self.action, Action::Product(Product { finish: Finish::Thresholds { .. }, .. }));
        ends_in_codes || !thresholds
    }
}

/// The sums of a product before any scaling, as the training graph's kernel forms them.
fn sums_of(step: &Step<'_>) -> Option<Vec<f32>> {
    let (Op::Conv2d { product, .. } | Op::Dense { product, .. }) = &step.op else { return None };
    let (x, w) = (step.inputs[0].value(), &product.kernel);
    let mut sums = vec![0.0; step.output.value().len()];
    match (&step.op, x.shape(), w.shape()) {
        (
            Op::Conv2d { options, .. },
            &[batch, height, width, channels],
            &[rows, columns, _, out_channels],
        ) => {
            let shape = Conv2dShape {
                batch,
                height,
                width,
                channels,
                out_channels,
                kernel: [rows, columns],
                stride: options.stride,
                padding: options.padding,
                groups: options.groups,
            };
            let (pad_value, algorithm) = (options.pad_value as f32, options.algorithm);
            let product =
                Convolution { pad_value, algorithm, ..Convolution::new(x.as_slice(), w.as_slice()) };
            qnn_kernels::convolve(&shape, &product, &mut sums);
        }
        (_, _, &[inner, columns]) => {
            let shape = MatmulShape { rows: x.len() / inner, inner, columns };
            let exact = matches!(step.op, Op::Dense { exact: true, .. });
            let product = if exact { qnn_kernels::matmul_exact } else { qnn_kernels::matmul };
            product(shape, x.as_slice(), w.as_slice(), ChannelAffine::IDENTITY, &mut sums);
        }
        _ => return None,
    }
    Some(sums)
}

/// The sums of a product of integers, as the training graph forms them.
fn integer_sums_of(step: &Step<'_>) -> Option<Vec<i32>> {
    let x = step.inputs[0].value();
    match &step.op {
        Op::Integer(IntegerOp::Conv2d { product, options }) => Some(product.accumulators(&x, Some(options))),
        Op::Integer(IntegerOp::Dense { product }) => Some(product.accumulators(&x, None)),
        _ => None,
    }
}

fn equal_predictions(a: &[f32], b: &[f32], outputs: usize) -> usize {
    let pairs = a.chunks_exact(outputs).zip(b.chunks_exact(outputs));
    pairs.filter(|(a, b)| predicted(a) == predicted(b)).count()
}

/// The first of the largest logits.
fn predicted(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, stages, sums, values, equal_predictions, difference } = self;
        write!(
            f,
            "{images} images, {stages} stages: {sums} integer sums and {values} values compared, \
             {equal_predictions} equal predictions; "
        )?;
        match difference {
            None => write!(f, "no bit differs"),
            Some(difference) => write!(f, "{difference}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, what, image, element, .. } = self;
        let [model, program] = [self.model, self.program].map(digits);
        write!(
            f,
            "the {what} of {layer} differ first in image {image}, element {element}: \
             the model has {model}, the program {program}"
        )
    }
}

/// The shortest digits that tell a number of f32 from all others; integers may have more bits.
fn digits(number: f64) -> String {
    let single = number as f32;
    if f64::from(single) == number { single.to_string() } else { number.to_string() }
}
