//! Draws every map and every estimator from the code itself, and fails where a plot in `plots/` is another.
//!
//! After a change that is meant: `QNN_BLESS=1 cargo test -p qnn-quant --test plots`.

use std::fmt::Write;
use std::path::PathBuf;

use ndarray::{Array1, ArrayD, ArrayViewD, Axis};
use qnn_quant::registry::{self, Parameters};
use qnn_quant::*;

/// What is shown of the real line.
const END: f32 = 2.0;
const SAMPLES: usize = 641;
/// Pixels of one panel.
const SIDE: (f64, f64) = (190.0, 130.0);

#[test]
fn plots_show_what_the_code_computes() {
    let maps = registry::quantizers().map(|listing| listing.name).filter(|&name| name != "identity");
    let mut stale = Vec::new();
    for name in maps {
        stale.extend(compare(name, &of_map(name)));
    }
    for listing in registry::estimators() {
        stale.extend(compare(&format!("estimator-{}", listing.name), &of_estimator(listing.name)));
    }
    assert!(
        stale.is_empty(),
        "{stale:?} differ from the code: QNN_BLESS=1 cargo test -p qnn-quant --test plots"
    );
}

#[test]
fn no_plot_is_left_of_something_that_is_gone() {
    let of_maps = registry::quantizers().map(|listing| format!("{}.svg", listing.name));
    let of_estimators = registry::estimators().map(|listing| format!("estimator-{}.svg", listing.name));
    let known: Vec<String> = of_maps.chain(of_estimators).collect();
    for file in std::fs::read_dir(folder()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "{name} belongs to nothing in the registry");
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("plots")
}

/// The name of the plot if it is another than the file's; writes the file where asked to.
fn compare(name: &str, plot: &str) -> Option<String> {
    let file = folder().join(format!("{name}.svg"));
    if std::env::var_os("QNN_BLESS").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(&file, plot).unwrap();
    }
    let same = std::fs::read_to_string(&file).is_ok_and(|stored| stored == plot);
    (!same).then(|| name.to_owned())
}

fn parameters(name: &str) -> Parameters {
    let listed = registry::quantizers().find(|listing| listing.name == name).unwrap().parameters;
    let takes = |parameter| listed.contains(&parameter);
    let bits = match name {
        "uniform" | "fixed-point" | "quantized-hardtanh" | "affine" | "lsq" => 3,
        "inq" => 4,
        _ => 2,
    };
    Parameters {
        bits: takes("bits").then_some(bits),
        scale: takes("scale").then_some(0.5),
        wp: takes("wp").then_some(1.25),
        wn: takes("wn").then_some(0.75),
        threshold: (name == "trained-ternary").then_some(0.25),
        lowest: takes("lowest").then_some(-2),
        highest: takes("highest").then_some(0),
        clip: (name == "pact").then_some(1.5),
        ..Parameters::default()
    }
}

/// One example with all samples.
fn samples() -> ArrayD<f32> {
    let x = Array1::from_shape_fn(SAMPLES, |i| END * (2.0 * i as f32 / (SAMPLES - 1) as f32 - 1.0));
    x.insert_axis(Axis(0)).into_dyn()
}

fn of_map(name: &str) -> String {
    let pair = registry::pair(name, None, &parameters(name)).unwrap();
    // Where the last axis has statistics of its own, the samples belong to one channel.
    let x = if name == "magnitude-aware-sign" { samples().reversed_axes() } else { samples() };
    let grid = pair.map.fit(x.view()).unwrap();
    let curves = match pair.map.dependence() {
        Dependence::Nothing => vec![values_at(&pair, &grid, &x, &Moment::default())],
        Dependence::Chance => vec![mean_of_draws(&pair, &grid, &x)],
        Dependence::Memory => [1.0, -1.0]
            .map(|before| values_at(&pair, &grid, &x, &Moment::after(x.mapv(|_| before).view())))
            .to_vec(),
    };
    let label = if pair.map.dependence() == Dependence::Chance { "E q(x)" } else { "q(x)" };
    let mut plot = Plot::new(2, &format!("{name}: values, and the published gradient"));
    plot.panel(0, label, END.into(), &curves);
    plot.slope(1, &pair, &grid, &x);
    plot.finish()
}

fn of_estimator(name: &str) -> String {
    let map = match name {
        "modified-tanh" | "within-levels" | "lsq" => "alphabet",
        "pact" | "dorefa-tanh" | "magnitude-aware-sign" | "trained-ternary" | "scaled-sign" => match name {
            "dorefa-tanh" => "dorefa-weights",
            "magnitude-aware-sign" => "scaled-sign",
            name => name,
        },
        _ => "sign",
    };
    let pair = registry::pair(map, Some(name), &parameters(map)).unwrap();
    let x = samples();
    let grid = pair.map.fit(x.view()).unwrap();
    let mut plot = Plot::new(1, &format!("{name}: dx for dy = 1, with the map {map}"));
    plot.slope(0, &pair, &grid, &x);
    plot.finish()
}

fn values_at(pair: &Pair, grid: &Grid, x: &ArrayD<f32>, moment: &Moment<'_>) -> Vec<f64> {
    let mut values = ArrayD::zeros(x.raw_dim());
    pair.map.codes_at_into(x.view(), grid, moment, values.view_mut()).unwrap();
    grid.dequantize_mut(values.view_mut()).unwrap();
    values.iter().map(|&y| y.into()).collect()
}

fn mean_of_draws(pair: &Pair, grid: &Grid, x: &ArrayD<f32>) -> Vec<f64> {
    const DRAWS: u64 = 256;
    let mut mean = vec![0.0; x.len()];
    for draw in 0..DRAWS {
        let values = values_at(pair, grid, x, &Moment::draw(draw));
        mean.iter_mut().zip(values).for_each(|(mean, value)| *mean += value / DRAWS as f64);
    }
    // Every tenth is enough of a curve that trembles.
    let coarse = mean.iter().step_by(10).copied();
    coarse.flat_map(|value| std::iter::repeat_n(value, 10)).take(x.len()).collect()
}

/// A drawing of one or two panels, as SVG without blank lines, so that Markdown takes it for one block of HTML.
struct Plot {
    svg: String,
}

impl Plot {
    fn new(panels: usize, title: &str) -> Self {
        let (width, height) = (SIDE.0 * panels as f64, SIDE.1);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{}\" role=\"img\" font-family=\"sans-serif\" font-size=\"9\" fill=\"none\" stroke-width=\"1.5\">\n",
            1.6 * width
        );
        writeln!(svg, "<title>{title}</title>").unwrap();
        Plot { svg }
    }

    fn slope(&mut self, panel: usize, pair: &Pair, grid: &Grid, x: &ArrayD<f32>) {
        let dx = pair
            .pullback(x.view(), grid, ArrayViewD::from_shape(x.raw_dim(), &[1.0; SAMPLES]).unwrap())
            .unwrap();
        let slopes: Vec<f64> = dx.iter().map(|&slope| slope.into()).collect();
        let greatest = slopes.iter().fold(1.0_f64, |max, slope| max.max(slope.abs()));
        self.panel(panel, "dx / dy", (greatest * 10.0).ceil() / 10.0, &[slopes]);
    }

    /// Curves over the samples, from −end to end upwards.
    fn panel(&mut self, panel: usize, label: &str, end: f64, curves: &[Vec<f64>]) {
        let (left, top, right, bottom) =
            (SIDE.0 * panel as f64 + 8.0, 14.0, SIDE.0 * (panel + 1) as f64 - 8.0, SIDE.1 - 12.0);
        let (center, middle) = ((left + right) / 2.0, (top + bottom) / 2.0);
        let gray = "stroke=\"gray\" stroke-width=\"0.5\"";
        writeln!(self.svg, "<path {gray} d=\"M{left} {middle}H{right}M{center} {top}V{bottom}\"/>").unwrap();
        let text = |x: f64, y: f64, anchor: &str, text: &str| {
            format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"gray\">{text}</text>")
        };
        let ends = text(left, middle + 9.0, "start", &format!("−{END}"))
            + &text(right, middle + 9.0, "end", &END.to_string());
        let heights =
            text(center + 3.0, top + 3.0, "start", &end.to_string()) + &text(left, top - 4.0, "start", label);
        writeln!(self.svg, "{ends}{heights}").unwrap();
        for (curve, color) in curves.iter().zip(["#2980b9", "#d35400"]) {
            let color = if label == "dx / dy" { "#d35400" } else { color };
            let points: Vec<(String, String)> = curve
                .iter()
                .enumerate()
                .map(|(i, y)| {
                    let across = left + (right - left) * i as f64 / (SAMPLES - 1) as f64;
                    (pixel(across), pixel(middle - y / end * (bottom - top) / 2.0))
                })
                .collect();
            writeln!(self.svg, "<path stroke=\"{color}\" d=\"{}\"/>", path(&points)).unwrap();
        }
    }

    fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

fn pixel(position: f64) -> String {
    format!("{}", (position * 10.0).round() / 10.0 + 0.0)
}

/// Along level stretches only the ends are kept, and of slopes every eighth sample.
fn path(points: &[(String, String)]) -> String {
    let mut path = format!("M{} {}", points[0].0, points[0].1);
    for i in 1..points.len() {
        let (before, here) = (&points[i - 1], &points[i]);
        let turns = before.1 != here.1 || points.get(i + 1).is_none_or(|next| next.1 != here.1);
        let steep = i >= 2 && before.1 != here.1 && points[i - 2].1 != before.1;
        if turns && !(steep && i % 8 != 0 && i + 1 < points.len()) {
            write!(path, "L{} {}", here.0, here.1).unwrap();
        }
    }
    path
}
