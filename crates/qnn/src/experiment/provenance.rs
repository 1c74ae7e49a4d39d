use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use qnn_data::Normalize;
use qnn_models::{Activation, Scheme};
use qnn_quant::Pair;

use super::Error;

/// What a model file says about the training that it comes from: what is needed to use the weights, and to tell whether they
/// are used rightly.
///
/// Whatever a file does not say is absent; files from elsewhere say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// The experiment.
    pub experiment: Option<String>,
    /// The row of its table, or the preset that took the place of its scheme.
    pub variant: Option<String>,
    /// The network in full: the variant, the data, and every flag that changed it.
    pub network: Option<String>,
    /// The preset whose networks compute what this one does, whatever the variant is called. Absent if there is none, as
    /// for networks with projections in full precision.
    pub preset: Option<String>,
    /// The data set; `digits` if they took another one's place.
    pub dataset: Option<String>,
    /// What the network takes in place of bytes.
    pub normalize: Option<Normalize>,
    /// What its outputs stand for.
    pub classes: Vec<String>,
    /// How many images it was tested on.
    pub test_images: Option<usize>,
    /// The share of them that these weights classified correctly.
    pub test_accuracy: Option<f64>,
}

impl Provenance {
    /// What the file says.
    ///
    /// # Errors
    ///
    /// [`Error::Train`] for files that are no model files, [`Error::Metadata`] for values that are none.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::read(&qnn_train::load_metadata(path)?)
    }

    /// What metadata say, as [`load_metadata`](qnn_train::load_metadata) reads them.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] for values that are none.
    pub fn read(metadata: &BTreeMap<String, String>) -> Result<Self, Error> {
        let text = |key: &str| metadata.get(key).cloned();
        let classes = metadata.get("classes").map(|text| {
            serde_json::from_str(text).map_err(|_| Error::metadata("classes", text, "a list of names"))
        });
        Ok(Self {
            experiment: text("experiment"),
            variant: text("variant"),
            network: text("network"),
            preset: text("preset"),
            dataset: text("dataset"),
            normalize: normalize(metadata)?,
            classes: classes.transpose()?.unwrap_or_default(),
            test_images: number(metadata, "test_images")?,
            test_accuracy: number(metadata, "test_accuracy")?,
        })
    }

    /// The metadata of a model file. The accuracy is left to whoever measures it.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        let statistics =
            |of: fn(&Normalize) -> &[f32]| self.normalize.as_ref().map(|found| numbers(of(found)));
        let classes = serde_json::to_string(&self.classes).expect("a list of names is plain data");
        let entries = [
            ("experiment", self.experiment.clone()),
            ("variant", self.variant.clone()),
            ("network", self.network.clone()),
            ("preset", self.preset.clone()),
            ("dataset", self.dataset.clone()),
            ("mean", statistics(Normalize::mean)),
            ("std", statistics(Normalize::std)),
            ("classes", Some(classes)),
            ("test_images", self.test_images.map(|images| images.to_string())),
        ];
        entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

fn normalize(metadata: &BTreeMap<String, String>) -> Result<Option<Normalize>, Error> {
    let parsed = |key| match metadata.get(key) {
        None => Ok(None),
        Some(text) => {
            let numbers: Result<Vec<f32>, _> = text.split(',').map(str::parse).collect();
            numbers.map(Some).map_err(|_| Error::metadata(key, text, "numbers between commas"))
        }
    };
    match (parsed("mean")?, parsed("std")?) {
        (Some(mean), Some(std)) => Ok(Some(Normalize::new(mean, std)?)),
        _ => Ok(None),
    }
}

fn number<T: FromStr>(metadata: &BTreeMap<String, String>, key: &'static str) -> Result<Option<T>, Error> {
    let parsed =
        metadata.get(key).map(|text| text.parse().map_err(|_| Error::metadata(key, text, "a number")));
    parsed.transpose()
}

/// In decimal digits that are read back to the same bits.
fn numbers(values: &[f32]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The first preset whose networks compute what those of a scheme do.
pub(super) fn preset_of(scheme: &Scheme) -> Option<&'static str> {
    let found = computed(scheme);
    let same = |name: &&str| Scheme::preset(name).is_ok_and(|preset| computed(&preset) == found);
    Scheme::presets().map(|preset| preset.name).find(same)
}

/// All of a scheme that evaluation knows: gradients, constraints and rates are gone.
fn computed(scheme: &Scheme) -> impl PartialEq + use<> {
    let map = |pair: &Option<Pair>| pair.as_ref().map(|pair| format!("{:?}", pair.map));
    let activation = match &scheme.activation {
        Activation::Quantized(pair) => format!("{:?}", pair.map),
        function => format!("{function:?}"),
    };
    let maps = (map(&scheme.kernel), map(&scheme.input), scheme.input_scaling, activation);
    let ends = (scheme.first_full_precision, scheme.last_full_precision);
    let spared = (ends, scheme.projections_full_precision, scheme.full_precision.clone());
    (maps, scheme.norm, scheme.integer_only, spared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    fn provenance() -> Provenance {
        Provenance {
            experiment: text("lenet5_mnist"),
            variant: text("bnn"),
            network: text("lenet5_mnist bnn on mnist"),
            preset: text("bnn"),
            dataset: text("mnist"),
            // Neither has a short decimal expansion.
            normalize: Some(Normalize::new([0.1 + 0.2, 1.0 / 3.0], [f32::EPSILON, 0.7]).unwrap()),
            classes: vec!["a, b".to_owned(), "\"c\"".to_owned()],
            test_images: Some(360),
            test_accuracy: None,
        }
    }

    #[test]
    fn what_is_written_is_read_back_to_the_bit() {
        let mut metadata = provenance().metadata();
        assert_eq!(Provenance::read(&metadata).unwrap(), provenance());
        metadata.insert("test_accuracy".to_owned(), "0.5".to_owned());
        assert_eq!(Provenance::read(&metadata).unwrap().test_accuracy, Some(0.5));
        assert_eq!(Provenance::read(&BTreeMap::new()).unwrap(), Provenance::default());
    }

    #[test]
    fn values_that_are_none_are_named() {
        for (key, value) in
            [("mean", "0.1,x"), ("classes", "a,b"), ("test_images", "-1"), ("test_accuracy", "")]
        {
            let mut metadata = provenance().metadata();
            metadata.insert(key.to_owned(), value.to_owned());
            let error = Provenance::read(&metadata).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn a_preset_is_known_by_what_it_computes_and_not_by_its_name() {
        for name in ["fp", "bc", "bnn", "dorefa-1-2", "int8", "lsq", "even-2"] {
            assert_eq!(preset_of(&Scheme::preset(name).unwrap()), Some(name));
        }
        // Another gradient, the same levels.
        assert_eq!(preset_of(&Scheme::even_levels(2, Some(4.0)).unwrap()), Some("even-2"));
        let bc = Scheme::preset("bc").unwrap();
        for scheme in [
            Scheme { projections_full_precision: true, ..bc.clone() },
            Scheme { first_full_precision: Some(true), ..bc.clone() },
            Scheme { full_precision: vec!["hidden".to_owned()], ..bc },
            // What mlp_bits calls `fp` is not the preset of that name.
            Scheme { activation: Activation::HardTanh, ..Scheme::default() },
        ] {
            assert_eq!(preset_of(&scheme), None, "{scheme:?}");
        }
    }
}
