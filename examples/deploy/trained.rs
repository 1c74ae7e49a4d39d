//! The trained model, and what its file says about the training.

use std::path::Path;

use qnn::data::Normalize;
use qnn::experiment::{Provenance, say};
use qnn::layers::{StateDict, load_state_dict};
use qnn::prelude::*;
use qnn::train::{Checkpoint, load_metadata, load_weights};

use crate::AnyError;
use crate::args::Args;

/// Weights, and what their file says about them.
pub(crate) struct Trained<'a> {
    pub(crate) file: &'a Path,
    pub(crate) weights: StateDict,
    pub(crate) provenance: Provenance,
}

impl<'a> Trained<'a> {
    /// From a model file or a checkpoint.
    pub(crate) fn read(file: &'a Path) -> Result<Self, AnyError> {
        if let Ok(mut checkpoint) = Checkpoint::load(file) {
            let network = checkpoint.run.remove("experiment");
            let provenance = Provenance { network, ..Provenance::default() };
            return Ok(Self { file, weights: checkpoint.model, provenance });
        }
        let weights = load_weights(file)?;
        // Files from elsewhere have no metadata.
        let metadata = load_metadata(file).unwrap_or_default();
        Ok(Self { file, weights, provenance: Provenance::read(&metadata)? })
    }

    /// What was trained, as far as the file says it.
    fn name(&self) -> Option<&str> {
        let Provenance { network, variant, .. } = &self.provenance;
        network.as_deref().or(variant.as_deref())
    }

    /// The preset that the file speaks of.
    fn preset(&self) -> Option<&str> {
        let Provenance { preset, variant, network, .. } = &self.provenance;
        // Earlier files name the variant alone, and neither network nor preset.
        let variant = variant.as_deref().filter(|name| network.is_none() && Scheme::preset(name).is_ok());
        preset.as_deref().or(variant)
    }

    /// Whether there is a batch norm behind the last layer, as perceptrons and the BNN paper's ConvNet can have one.
    pub(crate) fn has_output_norm(&self) -> bool {
        self.weights.keys().any(|path| path.starts_with("classifier.norm."))
    }

    pub(crate) fn load_into(&self, model: &mut dyn Layer, args: &Args, preset: &str) -> Result<(), AnyError> {
        let file = self.file.display();
        let name = self.name().map_or(String::new(), |name| format!(", which holds {name},"));
        load_state_dict(model, &self.weights)
            .map_err(|error| format!("{file}{name} does not fit --network {}: {error}", args.network))?;
        if let Some(name) = self.name() {
            say(format_args!("{file}: {name}"));
        }
        if let Some(trained) = self.preset().filter(|&trained| trained != preset) {
            eprintln!("warning: {file} was trained as --preset {trained}, not as {preset}");
        }
        Ok(())
    }
}

/// How the network is quantized: as the flag says or, without it, as the model file does.
pub(crate) fn preset<'a>(args: &'a Args, trained: Option<&'a Trained<'_>>) -> Result<&'a str, String> {
    match (&args.preset, trained) {
        (Some(name), _) => Ok(name),
        (None, None) => Ok("bnn"),
        (None, Some(trained)) => trained.preset().ok_or_else(|| {
            let file = trained.file.display();
            match trained.name() {
                Some(name) => format!(
                    "{file} holds {name}, and does not name a preset for it: give --preset, and the flags that make this \
                     network of it, see --help"
                ),
                None => format!("{file} does not say how its network is quantized: give --preset"),
            }
        }),
    }
}

/// How images were normalised for the training, as the file says, or else how these images are.
pub(crate) fn normalize(trained: Option<&Trained<'_>>, dataset: &Dataset) -> Normalize {
    trained.and_then(|trained| trained.provenance.normalize.clone()).unwrap_or_else(|| {
        if let Some(trained) = trained {
            let (file, images, name) = (trained.file.display(), dataset.train.len(), &dataset.name);
            say(format_args!(
                "{file} does not say how images were normalised: measured on {images} training images of {name}"
            ));
        }
        Normalize::fit(&dataset.train)
    })
}

/// The accuracy of the packed model beside that of the training, and whether they contradict each other.
pub(crate) fn report_accuracy(args: &Args, trained: Option<&Trained<'_>>, dataset: &Dataset, correct: usize) {
    let images = dataset.test.len();
    let deployed = 100.0 * correct as f64 / images as f64;
    let Some((trained, reported)) = trained.and_then(|it| Some((it, it.provenance.test_accuracy?))) else {
        say(format_args!("test accuracy {deployed:.2} %"));
        return;
    };
    let Provenance { dataset: trained_on, test_images, .. } = &trained.provenance;
    let on = trained_on.as_ref().map_or(String::new(), |name| format!(" on {name}"));
    say(format_args!("test accuracy {deployed:.2} %; the training reported {:.2} %{on}", 100.0 * reported));
    let is_same_test = trained_on.as_ref() == Some(&dataset.name) && *test_images == Some(images);
    // A network is evaluated to the same bits here and there: one image more or less is a difference.
    let is_same = (reported * images as f64).round() == correct as f64;
    if is_same_test && !is_same && args.post_training.is_none() {
        let file = trained.file.display();
        eprintln!(
            "warning: these are the images that {file} was tested on, so that this is another network: compare --network, \
             --preset, --shortcut and the full-precision flags with those of the training"
        );
    }
}
