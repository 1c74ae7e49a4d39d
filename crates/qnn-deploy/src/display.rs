use std::fmt;

use qnn_quant::Alphabet;

use crate::program::{
    Action, Arithmetic, Chain, Elements, Finish, Link, Product, Program, Remark, Stage, Value, Weights,
};

impl fmt::Display for Program {
    /// A line for each stage, with its kernel, its output and the bytes of its tensors; then what is
    /// not as fast as it could be, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [h, w, c] = self.input_shape();
        writeln!(f, "images {h} × {w} × {c}")?;
        let rows: Vec<[String; 5]> = (0..self.stages.len()).map(|i| self.row(i)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3, 4].map(width);
        for [number, layers, kernel, output, bytes] in &rows {
            let [a, b, c, d, e] = widths;
            writeln!(f, "{number:>a$}  {layers:<b$}  {kernel:<c$}  {output:<d$}  {bytes:>e$}")?;
        }
        let (tensors, values) = (self.tensor_bytes(), self.activation_bytes());
        writeln!(
            f,
            "{} of tensors; activations of one image take at most {} at a time",
            size(tensors),
            size(values)
        )?;
        for (stages, remark) in self.remarks() {
            writeln!(f, "{}: {}; {}", stages.join(", "), remark.reason, remark.remedy)?;
        }
        Ok(())
    }
}

impl Program {
    /// Each remark once, with the numbers of its stages, in the order of the first ones.
    fn remarks(&self) -> Vec<(Vec<String>, &Remark)> {
        let mut found: Vec<(Vec<String>, &Remark)> = Vec::new();
        for (i, stage) in self.stages.iter().enumerate() {
            for remark in &stage.remarks {
                match found.iter_mut().find(|(_, known)| *known == remark) {
                    Some((stages, _)) => stages.push(i.to_string()),
                    None => found.push((vec![i.to_string()], remark)),
                }
            }
        }
        found
    }

    fn row(&self, i: usize) -> [String; 5] {
        let stage = &self.stages[i];
        let [input, output] = [stage.input, stage.output].map(|value| self.values[value]);
        let bytes: usize = stage.action.tensors().iter().map(|name| self.bytes_of(name)).sum();
        [i.to_string(), stage.title(), stage.action.kernel(&input), output.text(), size(bytes)]
    }
}

impl Stage {
    /// The layers' names, those that merely follow another one by their kind.
    pub fn title(&self) -> String {
        let short = |name: &str| name.split(" after ").next().unwrap_or(name).to_owned();
        let mut names: Vec<String> = self.layers.iter().map(|layer| layer.name.clone()).collect();
        names.iter_mut().skip(1).for_each(|name| *name = short(name));
        if names.is_empty() { "unpack".to_owned() } else { names.join(" + ") }
    }
}

impl Action {
    fn kernel(&self, input: &Value) -> String {
        match self {
            Self::Product(product) => product.text(input),
            Self::Chain(_) => "functions".to_owned(),
            Self::MaxPool { .. } if input.elements == Elements::Float => "max pool".to_owned(),
            Self::MaxPool { .. } if matches!(input.elements, Elements::Bytes(_)) => {
                "max pool of int8".to_owned()
            }
            Self::MaxPool { .. } => "max pool of bits".to_owned(),
            Self::AveragePool(_) | Self::GlobalAveragePool => "mean".to_owned(),
            Self::MeanMagnitude => "mean of magnitudes".to_owned(),
            Self::PadZero { .. } => "copy".to_owned(),
            Self::Integer(stage) => stage.text().to_owned(),
        }
    }
}

impl Product {
    fn text(&self, input: &Value) -> String {
        let x = match input.elements {
            Elements::Float => "f32".to_owned(),
            Elements::Packed(codes) | Elements::Bytes(codes) => short(codes),
        };
        let w = match &self.weights {
            Weights::Float { .. } => "f32".to_owned(),
            Weights::Packed { alphabet, .. } => short(*alphabet),
        };
        let end = match &self.finish {
            Finish::Thresholds { .. } => "thresholds",
            Finish::Selected { .. } => "selected thresholds",
            Finish::Chain(chain) if chain.is_affine() => "scaled",
            Finish::Chain(chain) => chain.text(),
        };
        let sums = match self.arithmetic {
            Arithmetic::Integer => "integer sums",
            Arithmetic::Float | Arithmetic::WeightOnly => "f32 sums",
            Arithmetic::Winograd => "f32 tiles",
            Arithmetic::Exact => "exact sums",
        };
        format!("{x} × {w}, {sums}, {end}")
    }
}

impl Chain {
    fn text(&self) -> &'static str {
        match self.links.last() {
            Some(Link::Quantize { .. }) => "functions to codes",
            _ => "functions",
        }
    }
}

impl Value {
    fn text(&self) -> String {
        let [h, w, c] = self.shape;
        let elements = match self.elements {
            Elements::Float => "f32".to_owned(),
            Elements::Packed(codes) | Elements::Bytes(codes) => short(codes),
        };
        format!("{h} × {w} × {c} {elements}")
    }
}

/// `±1`, `0..3`, `−1..1`.
fn short(codes: Alphabet) -> String {
    match codes {
        Alphabet::BINARY => "±1".to_owned(),
        Alphabet { step: 2, .. } => format!("odd {}..{}", codes.first, codes.last()),
        _ => format!("{}..{}", codes.first, codes.last()),
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0 => "–".to_owned(),
        1..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
