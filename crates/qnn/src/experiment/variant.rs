use qnn_data::DatasetName;

use super::Design;

/// One row of a published table: a network, and what was reported for it.
#[derive(Debug)]
pub struct Variant {
    /// The value of `--variant`.
    pub name: &'static str,
    /// One line for `--list`.
    pub about: &'static str,
    /// The network.
    pub design: Box<dyn Design>,
    published: Vec<(Option<usize>, f64)>,
    dataset: Option<DatasetName>,
}

impl Variant {
    /// A variant without published figures.
    pub fn new(name: &'static str, about: &'static str, design: impl Design + 'static) -> Self {
        Self { name, about, design: Box::new(design), published: Vec::new(), dataset: None }
    }

    /// The published test accuracy in percent.
    #[must_use]
    pub fn published(mut self, accuracy: f64) -> Self {
        self.published.push((None, accuracy));
        self
    }

    /// The published test accuracy in percent of the network with `depth` weight layers.
    #[must_use]
    pub fn published_at(mut self, depth: usize, accuracy: f64) -> Self {
        self.published.push((Some(depth), accuracy));
        self
    }

    /// The data set of this row, if it is not the experiment's first.
    #[must_use]
    pub fn on(self, dataset: DatasetName) -> Self {
        Self { dataset: Some(dataset), ..self }
    }

    pub(super) fn dataset(&self) -> Option<DatasetName> {
        self.dataset
    }

    /// What was published for this depth, in percent.
    pub fn published_for(&self, depth: Option<usize>) -> Option<f64> {
        let fits = |at: &Option<usize>| at.is_none() || *at == depth;
        self.published.iter().find(|(at, _)| fits(at)).map(|&(_, accuracy)| accuracy)
    }

    /// The published figures as `--list` shows them.
    pub(super) fn published_text(&self) -> String {
        let one = |&(depth, accuracy): &(Option<usize>, f64)| match depth {
            Some(depth) => format!("{accuracy:.2} % at depth {depth}"),
            None => format!("{accuracy:.2} %"),
        };
        self.published.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}
