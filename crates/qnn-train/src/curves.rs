use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::{EpochMetrics, Error};

/// Draws loss and accuracy of a training, side by side, as an SVG.
///
/// `published` is the accuracy of a publication in percent, drawn as a dashed line. Epochs whose
/// value is infinite or NaN leave a gap.
///
/// # Errors
///
/// [`Error::Curves`] if the drawing library fails.
pub fn curves_svg(history: &[EpochMetrics], title: &str, published: Option<f64>) -> Result<String, Error> {
    let mut svg = String::new();
    draw(&mut svg, history, title, published).map_err(|error| Error::Curves { reason: error.to_string() })?;
    Ok(svg)
}

/// Writes [`curves_svg`] into a file, atomically.
///
/// # Errors
///
/// Those of [`curves_svg`], and [`Error::File`] if the file cannot be written.
pub fn write_curves(
    path: &Path,
    history: &[EpochMetrics],
    title: &str,
    published: Option<f64>,
) -> Result<(), Error> {
    Ok(qnn_files::write_atomically(path, curves_svg(history, title, published)?.as_bytes())?)
}

/// Blue and vermilion of a palette that colour-blind readers can tell apart (Okabe & Ito 2008).
const TRAIN: RGBColor = RGBColor(0, 114, 178);
const TEST: RGBColor = RGBColor(213, 94, 0);
const PUBLISHED: RGBColor = RGBColor(90, 90, 90);
const INK: RGBColor = RGBColor(51, 51, 51);
const GRID: RGBColor = RGBColor(228, 228, 228);
const SIZE: (u32, u32) = (1120, 460);
const FONT: &str = "sans-serif";

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plane = Cartesian2d<RangedCoordf64, RangedCoordf64>;
type Chart<'a, 'svg> = ChartContext<'a, SVGBackend<'svg>, Plane>;

/// One diagram.
struct Panel {
    label: &'static str,
    range: Range<f64>,
    curves: Vec<Curve>,
    level: Option<f64>,
    legend: SeriesLabelPosition,
}

/// One line; its points are finite, its gaps are cuts.
struct Curve {
    name: &'static str,
    colour: RGBColor,
    pieces: Vec<Vec<(f64, f64)>>,
}

fn draw(svg: &mut String, history: &[EpochMetrics], title: &str, published: Option<f64>) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let below = root.margin(10, 0, 0, 0).titled(title, (FONT, 22).into_font().color(&INK))?;
    let (left, right) = below.split_horizontally(SIZE.0 / 2);
    let epochs = epoch_range(history.len());
    Panel::loss(history).draw(&left, epochs.clone())?;
    Panel::accuracy(history, published.filter(|level| level.is_finite())).draw(&right, epochs)?;
    root.present()?;
    Ok(())
}

/// From the first to the last epoch, with room on both sides of a single one.
fn epoch_range(epochs: usize) -> Range<f64> {
    if epochs > 1 { 1.0..epochs as f64 } else { 0.0..2.0 }
}

impl Panel {
    fn loss(history: &[EpochMetrics]) -> Self {
        let train = Curve::new("training", TRAIN, history, |epoch| epoch.train_loss);
        let test = Curve::new("test", TEST, history, |epoch| epoch.test_loss);
        let curves = vec![train, test];
        let highest = values(&curves).fold(0.0, f64::max);
        let range = 0.0..if highest > 0.0 { 1.08 * highest } else { 1.0 };
        Self { label: "loss", range, curves, level: None, legend: SeriesLabelPosition::UpperRight }
    }

    fn accuracy(history: &[EpochMetrics], level: Option<f64>) -> Self {
        let train = Curve::new("training", TRAIN, history, |epoch| 100.0 * epoch.train_accuracy);
        let test = Curve::new("test", TEST, history, |epoch| 100.0 * epoch.test_accuracy);
        let curves = vec![train, test];
        let (low, high) = values(&curves)
            .chain(level)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        let range = if low <= high { accuracy_range(low, high) } else { 0.0..100.0 };
        Self { label: "accuracy (%)", range, curves, level, legend: SeriesLabelPosition::LowerRight }
    }

    fn draw(&self, area: &Area<'_>, epochs: Range<f64>) -> Drawn {
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .margin_right(26)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(epochs.clone(), self.range.clone())?;
        self.draw_mesh(&mut chart, labels(&epochs))?;
        let markers = if epochs.end <= 40.0 { 3 } else { 0 };
        self.curves.iter().try_for_each(|curve| curve.draw(&mut chart, markers))?;
        if let Some(level) = self.level {
            draw_level(&mut chart, level, &epochs)?;
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .margin(12)
            .legend_area_size(34)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font((FONT, 16).into_font().color(&INK))
            .draw()?;
        Ok(())
    }

    fn draw_mesh(&self, chart: &mut Chart<'_, '_>, x_labels: usize) -> Drawn {
        let text = (FONT, 16).into_font().color(&INK);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_desc("epoch")
            .y_desc(self.label)
            .x_labels(x_labels)
            .y_labels(8)
            .x_label_formatter(&|x| whole_number(*x))
            .y_label_formatter(&|y| short_number(*y))
            .draw()?;
        Ok(())
    }
}

impl Curve {
    fn new(
        name: &'static str,
        colour: RGBColor,
        history: &[EpochMetrics],
        value: impl Fn(&EpochMetrics) -> f64,
    ) -> Self {
        let points: Vec<_> = history.iter().map(|epoch| ((epoch.epoch + 1) as f64, value(epoch))).collect();
        let pieces = points.split(|(_, y)| !y.is_finite()).filter(|piece| !piece.is_empty());
        Self { name, colour, pieces: pieces.map(<[_]>::to_vec).collect() }
    }

    fn draw<'a>(&self, chart: &mut Chart<'a, '_>, markers: u32) -> Drawn {
        let colour = self.colour;
        for piece in &self.pieces {
            let style = colour.stroke_width(2).filled();
            chart.draw_series(LineSeries::new(piece.iter().copied(), style).point_size(markers))?;
        }
        // The legend's entry is there even if no value is finite.
        chart
            .draw_series(LineSeries::new(std::iter::empty(), colour))?
            .label(self.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 26, y)], colour.stroke_width(3)));
        Ok(())
    }
}

fn draw_level(chart: &mut Chart<'_, '_>, level: f64, epochs: &Range<f64>) -> Drawn {
    let style = PUBLISHED.stroke_width(2);
    let ends = [(epochs.start, level), (epochs.end, level)];
    chart
        .draw_series(DashedLineSeries::new(ends, 8, 5, style))?
        .label(format!("published, {level} %"))
        .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 26, y)], 6, 4, style));
    Ok(())
}

fn values(curves: &[Curve]) -> impl Iterator<Item = f64> + '_ {
    curves.iter().flat_map(|curve| curve.pieces.iter().flatten().map(|&(_, y)| y))
}

/// Tens around the values, so that the grid has round numbers, within 0..100.
fn accuracy_range(low: f64, high: f64) -> Range<f64> {
    let low = (10.0 * ((low - 1.0) / 10.0).floor()).max(0.0);
    let high = (10.0 * ((high + 1.0) / 10.0).ceil()).min(100.0);
    low..high.max(low + 10.0)
}

/// At most one label per epoch.
fn labels(epochs: &Range<f64>) -> usize {
    (epochs.end - epochs.start).clamp(2.0, 10.0) as usize + 1
}

fn whole_number(x: f64) -> String {
    if x.fract() == 0.0 { x.to_string() } else { String::new() }
}

/// Without the digits that the steps of a grid leave behind.
fn short_number(y: f64) -> String {
    let text = format!("{y:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::epoch;

    #[test]
    fn the_picture_names_what_it_shows() {
        let history: Vec<_> = (0..12).map(|i| epoch(i, 0.5 + 0.03 * i as f64)).collect();
        let svg = curves_svg(&history, "resnet20 <bc> & co", Some(89.71)).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        for text in [
            "epoch",
            "loss",
            "accuracy (%)",
            "training",
            "test",
            "published, 89.71 %",
            "resnet20 &lt;bc&gt; &amp; co",
        ] {
            assert!(svg.contains(text), "{text:?} is missing");
        }
        assert!(svg.matches("<polyline").count() >= 4);
        assert_eq!(svg, curves_svg(&history, "resnet20 <bc> & co", Some(89.71)).unwrap());
    }

    #[test]
    fn any_history_can_be_drawn() {
        let mut odd: Vec<_> = (0..5).map(|i| epoch(i, 0.5)).collect();
        (odd[1].train_loss, odd[3].test_loss) = (f64::NAN, f64::INFINITY);
        let mut lost = vec![epoch(0, f64::NAN)];
        (lost[0].train_loss, lost[0].test_loss, lost[0].train_accuracy) = (f64::NAN, f64::NAN, f64::NAN);
        let zero = vec![EpochMetrics { train_loss: 0.0, test_loss: 0.0, ..epoch(0, 0.0) }];
        for history in [vec![], vec![epoch(0, 1.0)], odd, lost, zero] {
            let svg = curves_svg(&history, "", Some(f64::NAN)).unwrap();
            assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"));
        }
    }

    #[test]
    fn ranges_are_round_and_not_empty() {
        assert_eq!(accuracy_range(87.0, 93.3), 80.0..100.0);
        assert_eq!(accuracy_range(0.0, 0.0), 0.0..10.0);
        assert_eq!(accuracy_range(100.0, 100.0), 90.0..100.0);
        assert_eq!((short_number(0.30000000000000004), short_number(2.0)), ("0.3".into(), "2".into()));
    }
}
