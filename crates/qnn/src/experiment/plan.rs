use std::path::PathBuf;

use qnn_data::{Augment, Dataset, Normalize};
use qnn_layers::StateDict;
use qnn_models::Scheme;
use qnn_quant::registry::{self, Parameters};
use qnn_train::{Recipe, Schedule, load_weights, weights_digest};

use super::images::Set;
use super::nearest::suggestion;
use super::provenance::preset_of;
use super::{Design, Error, Experiment, Options, Variant};

/// What the options mean for an experiment: everything settled before training starts.
pub(super) struct Plan {
    /// The variant, or the preset that took the place of its scheme.
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
        let run = options.preset.clone().unwrap_or_else(|| variant.name.to_owned());
        let default_out = || PathBuf::from("runs").join(experiment.name).join(&run);
        let out = options.out.clone().unwrap_or_else(default_out);
        let init = options.init_from.as_ref().map(load_weights).transpose()?;
        let label = label(experiment, variant, design.as_ref(), &dataset, options, init.as_ref());
        let warnings = design.scheme_mut().diagnostics().iter().map(ToString::to_string).collect();
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
    add("first-fp", options.first_fp.map(|first| first.to_string()));
    add("last-fp", options.last_fp.map(|last| last.to_string()));
    // A file of the same name may hold other weights tomorrow.
    let from = options.init_from.as_ref().zip(init);
    add("from", from.map(|(file, init)| format!("{} ({:016x})", file.display(), weights_digest(init))));
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
    change_quantizer(scheme, options)
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
            *kernel = Some(registry::pair(name, estimator, &all)?);
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
