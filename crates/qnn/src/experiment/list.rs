use qnn_models::Scheme;
use qnn_quant::registry;

use super::Experiment;
use super::images::Set;

/// The variants with their published figures, as `--list` and `--help` show them.
pub(super) fn list(experiment: &Experiment) -> String {
    let width = experiment.variants.iter().map(|variant| variant.name.len()).max().unwrap_or(0);
    let mut text = String::from("Variants (the first is the default) and published test accuracy:\n");
    for variant in &experiment.variants {
        let published = variant.published_text();
        text += &format!("  {:<width$}  {}", variant.name, variant.about);
        if !published.is_empty() {
            text += &format!(": {published}");
        }
        text.push('\n');
    }
    let datasets: Vec<_> = experiment.datasets.iter().map(Set::name).collect();
    text + &format!("Data sets: {}\n", datasets.join(", "))
}

/// What `--preset` takes, as `--list` and `--help` show it.
pub(super) fn presets() -> String {
    let presets: Vec<_> = Scheme::presets().collect();
    let width = presets.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
    let line = |preset: &qnn_models::Preset| format!("  {:<width$}  {}\n", preset.name, preset.about);
    "Presets:\n".to_owned() + &presets.iter().map(line).collect::<String>()
}

/// What `--quantizer` and `--estimator` take, as `--help` shows it.
pub(super) fn quantizers() -> String {
    let names = |listings: Vec<registry::Listing>| {
        listings.iter().map(|listing| listing.name).collect::<Vec<_>>().join(", ")
    };
    let maps = names(registry::quantizers().collect());
    let estimators = names(registry::estimators().collect());
    format!("Quantizers: {maps}\nEstimators: {estimators}\n")
}
