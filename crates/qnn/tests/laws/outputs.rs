//! The files that a run leaves.

use std::fs;
use std::path::Path;

use qnn::train::load_model;

/// Of each tensor its name, its shape, and its bits.
type Weights = Vec<(String, Vec<usize>, Vec<u32>)>;

/// What must not depend on anything but the settings of a run.
#[derive(PartialEq)]
pub(crate) struct Outputs {
    model: Weights,
    best: Weights,
    metrics: Vec<Vec<String>>,
}

impl Outputs {
    pub(crate) fn of(out: &Path) -> Self {
        let (model, best) = (weights(&out.join("model.safetensors")), weights(&out.join("best.safetensors")));
        Self { model, best, metrics: without_times(&rows(out)) }
    }

    /// Asserts equality; `assert_eq` would print the models.
    pub(crate) fn assert_same(&self, other: &Self, what: &str) {
        assert_eq!(self.metrics, other.metrics, "metrics differ: {what}");
        assert!(self.model == other.model, "the last models differ: {what}");
        assert!(self.best == other.best, "the best models differ: {what}");
    }
}

/// Without the metadata, which tell runs apart that compute the same.
fn weights(file: &Path) -> Weights {
    let state = load_model(file).unwrap_or_else(|error| panic!("{error}"));
    let bits = |tensor: &qnn::tensor::Tensor| tensor.as_slice().iter().map(|x| x.to_bits()).collect();
    state.into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec(), bits(&tensor))).collect()
}

/// The lines of `metrics.csv`, the names of the columns first; empty without the file.
pub(crate) fn rows(out: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(out.join("metrics.csv")).unwrap_or_default();
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

/// How many epochs `metrics.csv` tells of.
pub(crate) fn epochs(out: &Path) -> usize {
    rows(out).len().saturating_sub(1)
}

fn without_times(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let names = rows.first().expect("metrics.csv has a line of names");
    let is_time = |name: &String| name == "seconds" || name == "images_per_second";
    assert_eq!(names.iter().filter(|name| is_time(name)).count(), 2, "{names:?}");
    let keep = |row: &Vec<String>| {
        row.iter().zip(names).filter(|(_, name)| !is_time(name)).map(|(value, _)| value.clone()).collect()
    };
    rows.iter().map(keep).collect()
}
