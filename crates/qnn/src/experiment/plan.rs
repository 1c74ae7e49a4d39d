use std::path::{Path, PathBuf};

use qnn_data::{Augment, Dataset, Normalize};
use qnn_layers::StateDict;
use qnn_models::{Activation, Scheme};
use qnn_quant::registry::{self, Parameters};
use qnn_tensor::Tensor;
use qnn_train::{Recipe, Schedule, load_weights, weights_digest};

use super::images::Set;
use super::nearest::suggestion;
use super::provenance::preset_of;
use super::{Design, Error, Experiment, Options, Variant};

/// What the options mean for an experiment: everything settled before training starts.
pub(super) struct Plan {
    /// The variant, and the preset that took the place of its scheme; of the first variant, the preset alone.
    pub(super) name: String,
    pub(super) design: Box<dyn Design>,
    /// The preset whose networks compute what this one does.
    pub(super) preset: Option<&'static str>,
    pub(super) dataset: Dataset,
    pub(super) normalize: Normalize,
    pub(super) notice: Option<String>,
    pub(super) recipe: Recipe,
    pub(super) augment: Augment,
    pub(super) published: Option<f64>,
    pub(super) out: PathBuf,
    /// Which network on which data: a checkpoint with another label belongs to another run.
    pub(super) label: String,
    /// The weights to start from.
    pub(super) init: Option<StateDict>,
    /// Doubtful settings that are not wrong.
    pub(super) warnings: Vec<String>,
}

impl Plan {
    pub(super) fn new(experiment: &Experiment, options: &Options) -> Result<Self, Error> {
        let variant = choose_variant(experiment, options)?;
        let mut design = variant.design.boxed();
        change_design(design.as_mut(), options)?;
        let (set, is_published) = Set::choose(experiment, variant, options)?;
        let loaded = set.load(options)?;
        let embedded = loaded.is_embedded;
        let dataset = match options.limit {
            Some(limit) => loaded.dataset.take(limit),
            None => loaded.dataset,
        };
        let dataset = dataset.fit_to(design.input())?;
        let normalize = Normalize::fit(&dataset.train);
        let (recipe, augment) = make_recipe(experiment, options, embedded)?;
        // A figure published for other data, or a part of them, or for another network is no measure of this run.
        let comparable = !embedded && options.limit.is_none() && is_published && !changes_network(options);
        let published = variant.published_for(design.depth()).filter(|_| comparable);
        let run = name(experiment, variant, options);
        let default_out = || PathBuf::from("runs").join(experiment.name).join(folder_name(&run, options));
        let out = options.out.clone().unwrap_or_else(default_out);
        let init = options.init_from.as_deref().map(first_weights).transpose()?;
        let label = label(experiment, variant, design.as_ref(), &dataset, options, init.as_ref());
        let doubts = design.scheme_mut().diagnostics();
        let warnings = doubts.iter().map(ToString::to_string).chain(unused_milestones(&recipe)).collect();
        let (notice, preset) = (loaded.notice, preset_of(design.scheme_mut()));
        Ok(Self {
            name: run,
            design,
            preset,
            dataset,
            normalize,
            notice,
            recipe,
            augment,
            published,
            out,
            label,
            init,
            warnings,
        })
    }
}

fn name(experiment: &Experiment, variant: &Variant, options: &Options) -> String {
    let is_first = experiment.variants.first().is_some_and(|first| first.name == variant.name);
    match &options.preset {
        None => variant.name.to_owned(),
        Some(preset) if is_first => preset.clone(),
        Some(preset) => format!("{}+{preset}", variant.name),
    }
}

/// What the command line adds to a network stands in its folder's name.
fn folder_name(run: &str, options: &Options) -> String {
    let mut name = run.to_owned();
    if let Some(layers) = options.depth {
        name += &format!("-depth-{layers}");
    }
    if let Some(quantizer) = &options.quantizer {
        name += &format!("+{quantizer}");
    }
    if let Some(bits) = options.bits {
        name += &format!("-{bits}");
    }
    if let Some(estimator) = &options.estimator {
        name += &format!("+{estimator}");
    }
    name
}

/// The weights of a file, which training can start from.
fn first_weights(path: &Path) -> Result<StateDict, Error> {
    let weights = load_weights(path)?;
    let is_finite = |value: &Tensor| value.as_slice().iter().all(|x| x.is_finite());
    match weights.iter().find(|(_, value)| !is_finite(value)) {
        None => Ok(weights),
        Some((tensor, _)) => {
            let reason =
                format!("{}: the tensor {tensor:?} holds numbers that are not finite", path.display());
            Err(Error::flag("--init-from", reason))
        }
    }
}

/// A schedule of steps whose first comes after the end leaves the rate as it is.
fn unused_milestones(recipe: &Recipe) -> Option<String> {
    let Schedule::Step { milestones, .. } = &recipe.schedule else { return None };
    let (first, epochs) = (*milestones.iter().min()?, recipe.epochs);
    (first >= epochs).then(|| {
        format!(
            "the rate never falls: its first step is at epoch {first}, and the training has {epochs}; \
             --schedule step puts the steps at 40, 60 and 80 % of it"
        )
    })
}

/// Whether the network is another one than the variant's.
fn changes_network(options: &Options) -> bool {
    let Options { preset, quantizer, estimator, first_fp, last_fp, .. } = options;
    preset.is_some() || quantizer.is_some() || estimator.is_some() || first_fp.is_some() || last_fp.is_some()
}

fn label(
    experiment: &Experiment,
    variant: &Variant,
    design: &dyn Design,
    dataset: &Dataset,
    options: &Options,
    init: Option<&StateDict>,
) -> String {
    let mut label = format!("{} {} on {}", experiment.name, variant.name, dataset.name);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            label += &format!(", {name} {value}");
        }
    };
    add("depth", design.depth().map(|depth| depth.to_string()));
    add("preset", options.preset.clone());
    add("quantizer", options.quantizer.clone());
    add("bits", options.bits.map(|bits| bits.to_string()));
    add("scale", options.scale.map(|scale| scale.to_string()));
    add("axis", options.axis.map(|axis| axis.to_string()));
    add("threshold", options.threshold.map(|threshold| threshold.to_string()));
    add("levels", options.unscaled.then(|| "unscaled".to_owned()));
    add("estimator", options.estimator.clone());
    add("clip", options.clip.map(|clip| clip.to_string()));
    add("k", options.k.map(|k| k.to_string()));
    add("beta", options.beta.map(|beta| beta.to_string()));
    add("quantizer-rate", options.quantizer_rate.map(|factor| factor.to_string()));
    add("first-fp", options.first_fp.map(|first| first.to_string()));
    add("last-fp", options.last_fp.map(|last| last.to_string()));
    // The same file has many paths, and may hold other weights tomorrow.
    add("from weights", init.map(|init| format!("{:016x}", weights_digest(init))));
    label
}

fn choose_variant<'e>(experiment: &'e Experiment, options: &Options) -> Result<&'e Variant, Error> {
    let first = experiment.variants.first();
    let found = match &options.variant {
        None => first,
        Some(name) => experiment.variants.iter().find(|variant| variant.name == name),
    };
    found.ok_or_else(|| {
        let known: Vec<_> = experiment.variants.iter().map(|variant| variant.name).collect();
        let name = options.variant.as_deref().unwrap_or_default();
        let suggestion = suggestion(name, known.iter().copied());
        Error::flag("--variant", format!("{name:?} is none of {}{suggestion}", known.join(", ")))
    })
}

fn change_design(design: &mut dyn Design, options: &Options) -> Result<(), Error> {
    if let Some(layers) = options.depth
        && !design.set_depth(layers)?
    {
        return Err(Error::flag("--depth", "this network has but one depth"));
    }
    let scheme = design.scheme_mut();
    if let Some(name) = &options.preset {
        let suggestion = || suggestion(name, Scheme::presets().map(|preset| preset.name));
        *scheme = Scheme::preset(name)
            .map_err(|error| Error::flag("--preset", format!("{error}{}", suggestion())))?;
    }
    scheme.first_full_precision = options.first_fp.or(scheme.first_full_precision);
    scheme.last_full_precision = options.last_fp.or(scheme.last_full_precision);
    change_quantizer(scheme, options)?;
    change_quantizer_rate(scheme, options)
}

fn change_quantizer_rate(scheme: &mut Scheme, options: &Options) -> Result<(), Error> {
    let Some(factor) = options.quantizer_rate else { return Ok(()) };
    if !(factor > 0.0 && factor.is_finite()) {
        return Err(Error::flag("--quantizer-rate", format!("a factor above 0 is needed, got {factor}")));
    }
    let activation = match &scheme.activation {
        Activation::Quantized(pair) => Some(pair),
        _ => None,
    };
    if ![scheme.kernel.as_ref(), scheme.input.as_ref(), activation]
        .iter()
        .flatten()
        .any(|pair| pair.map.trained().is_some())
    {
        let reason = "no quantizer of this network learns anything; lsq, pact and trained-ternary do";
        return Err(Error::flag("--quantizer-rate", reason));
    }
    scheme.quantizer_rate = Some(factor);
    Ok(())
}

fn make_recipe(
    experiment: &Experiment,
    options: &Options,
    embedded: bool,
) -> Result<(Recipe, Augment), Error> {
    let mut recipe = experiment.recipe.clone();
    if embedded {
        recipe = Recipe { epochs: 15, batch: 50, schedule: Schedule::OneCycle, ..recipe };
    }
    if options.no_augment && !recipe.augment {
        return Err(Error::flag("--no-augment", "this experiment does not augment its images"));
    }
    recipe.augment &= !options.no_augment;
    override_recipe(&mut recipe, options)?;
    recipe.check()?;
    let augment = match (recipe.augment, embedded) {
        (false, _) => Augment::None,
        // A mirrored digit is another sign.
        (true, true) => Augment::PadCropFlip { pad: 4, flip: false },
        (true, false) => Augment::cifar(),
    };
    Ok((recipe, augment))
}

fn override_recipe(recipe: &mut Recipe, options: &Options) -> Result<(), Error> {
    recipe.epochs = options.epochs.unwrap_or(recipe.epochs);
    recipe.batch = options.batch.unwrap_or(recipe.batch);
    recipe.learning_rate = options.lr.unwrap_or(recipe.learning_rate);
    recipe.seed = options.seed.unwrap_or(recipe.seed);
    if let Some(schedule) = &options.schedule {
        recipe.schedule = schedule.clone();
    }
    recipe.weight_decay = options.weight_decay.unwrap_or(recipe.weight_decay);
    recipe.quantizer_decay = options.quantizer_decay.unwrap_or(recipe.quantizer_decay);
    recipe.clip_norm = options.clip_norm.or(recipe.clip_norm);
    recipe.early_stopping = options.early_stopping.or(recipe.early_stopping);
    recipe.loss = options.loss.unwrap_or(recipe.loss);
    recipe.glorot_rates |= options.glorot_rates;
    if let Some(name) = &options.optimizer {
        recipe.optimizer =
            name.parse().map_err(|error: qnn_train::Error| Error::flag("--optimizer", error.to_string()))?;
    }
    Ok(())
}

/// Puts the map and the pseudo-gradient of the command line in place of the variant's.
fn change_quantizer(scheme: &mut Scheme, options: &Options) -> Result<(), Error> {
    let (of_map, of_estimator) = (options.of_map(), options.of_estimator());
    let has = |parameters| parameters != Parameters::default();
    let estimator = options.estimator.as_deref();
    match (&options.quantizer, &mut scheme.kernel) {
        (Some(name), kernel) => {
            let parameters = Parameters { clip: of_estimator.clip, ..of_map };
            let all = Parameters { k: of_estimator.k, beta: of_estimator.beta, ..parameters };
            let pair = registry::pair(name, estimator, &all)?;
            if options.scale.is_some() && pair.map.trained().is_some() {
                let reason =
                    format!("training starts the scale of {name} from the first kernels that it sees");
                return Err(Error::flag("--scale", reason));
            }
            *kernel = Some(pair);
        }
        (None, _) if has(of_map) => {
            let reason = "they belong to --quantizer, which is not given";
            return Err(Error::flag("--bits, --scale, --axis, --threshold and --unscaled", reason));
        }
        (None, Some(kernel)) if estimator.is_some() => {
            let name = estimator.unwrap_or_default();
            kernel.gradient = registry::estimator(name, &of_estimator)?;
        }
        (None, None) if estimator.is_some() => {
            return Err(Error::flag("--estimator", "this variant has no kernel quantizer; see --quantizer"));
        }
        (None, _) if has(of_estimator) => {
            let reason = "they belong to --quantizer or --estimator, which are not given";
            return Err(Error::flag("--clip, --k and --beta", reason));
        }
        (None, _) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use qnn_data::DatasetName;
    use qnn_layers::{Init, Role, for_each_param, for_each_param_mut};
    use qnn_models::ResNetConfig;
    use qnn_train::save_model;

    use super::*;

    fn plan(options: &Options) -> Plan {
        let variant = |name, about| Variant::new(name, about, ResNetConfig::new(1));
        let experiment =
            Experiment::new("t", "a test").dataset(DatasetName::Digits).recipe(Recipe::metu_cifar10());
        let experiment =
            experiment.variant(variant("fp", "the first")).variant(variant("other", "the second"));
        Plan::new(&experiment, &Options { limit: Some(20), ..options.clone() }).unwrap()
    }

    #[test]
    fn a_folder_is_named_after_all_that_makes_the_network() {
        let [none, preset] =
            [None, Some("bnn".to_owned())].map(|preset| Options { preset, ..Options::default() });
        let other = |options: &Options| Options { variant: Some("other".to_owned()), ..options.clone() };
        let ternary = Options { quantizer: Some("ternary".to_owned()), ..none.clone() };
        let levels = Options { quantizer: Some("alphabet".to_owned()), bits: Some(2), ..none.clone() };
        let bell = Options { estimator: Some("approx-sign".to_owned()), ..other(&preset) };
        for (options, folder) in [
            (&none, "fp"),
            (&preset, "bnn"),
            (&other(&none), "other"),
            (&other(&preset), "other+bnn"),
            (&Options { depth: Some(8), ..other(&none) }, "other-depth-8"),
            (&ternary, "fp+ternary"),
            (&levels, "fp+alphabet-2"),
            (&bell, "other+bnn+approx-sign"),
        ] {
            assert_eq!(plan(options).out, Path::new("runs/t").join(folder));
        }
    }

    #[test]
    fn a_rate_that_never_falls_is_told() {
        let warnings = |epochs, schedule: &str| {
            plan(&Options { epochs: Some(epochs), schedule: schedule.parse().ok(), ..Options::default() })
                .warnings
        };
        assert!(
            warnings(80, "step:80,120")[0].contains("first step is at epoch 80, and the training has 80")
        );
        for (epochs, schedule) in [(81, "step:80,120"), (9, "step"), (9, "constant"), (9, "cosine")] {
            assert_eq!(warnings(epochs, schedule), [""; 0], "{schedule}");
        }
    }

    #[test]
    fn what_quantizers_learn_has_a_rate_of_its_own() {
        let lsq = Options { preset: Some("lsq".to_owned()), ..Options::default() };
        for factor in [0.25, 4.0] {
            let plan = plan(&Options { quantizer_rate: Some(factor), ..lsq.clone() });
            let mut learned = 0;
            for_each_param(plan.design.build(&mut Init::new(0)).unwrap().as_ref(), &mut |_, param| {
                let learns = param.role() == Role::Quantizer;
                learned += usize::from(learns);
                assert_eq!(param.learning_rate_factor(), if learns { factor } else { 1.0 });
            });
            assert!(learned > 0 && plan.label.contains("quantizer-rate"), "{}", plan.label);
        }
    }

    #[test]
    fn weights_to_start_from_are_finite() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        let mut model = plan(&Options::default()).design.build(&mut Init::new(0)).unwrap();
        for (first, is_finite) in [(1.0, true), (f32::NAN, false), (f32::INFINITY, false)] {
            for_each_param_mut(model.as_mut(), &mut |_, param| param.value_mut().as_mut_slice()[0] = first);
            save_model(&file, model.as_ref(), &BTreeMap::new()).unwrap();
            let found = first_weights(&file).map_err(|error| error.to_string());
            assert_eq!(found.is_ok(), is_finite, "{first}");
            assert!(is_finite || found.unwrap_err().contains("not finite"));
        }
    }
}
