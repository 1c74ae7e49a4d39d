use qnn_quant::registry;

use super::Experiment;

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
    let datasets: Vec<String> = experiment.datasets.iter().map(ToString::to_string).collect();
    text + &format!("Data sets: {}\n", datasets.join(", "))
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
