//! The images that graph and program are compared on.

use qnn::experiment::say;
use qnn::prelude::*;

use crate::AnyError;
use crate::args::{Args, Network};
use crate::trained::Trained;

/// The data as the experiment runner prepares them.
pub(crate) fn dataset(
    args: &Args,
    trained: Option<&Trained<'_>>,
    shape: [usize; 3],
) -> Result<Dataset, AnyError> {
    let trained_on = trained.and_then(|trained| Some((trained.file, trained.provenance.dataset.as_deref()?)));
    let name = args.dataset.or_else(|| trained_on?.1.parse().ok()).unwrap_or(match args.network {
        Network::Lenet5 | Network::Mlp3 => DatasetName::Mnist,
        Network::Vgg7 | Network::Resnet | Network::BnnCnn => DatasetName::Cifar10,
    });
    let loaded = qnn::data::load(name, &args.data)?;
    let stands_in = loaded.is_embedded && name != DatasetName::Digits;
    match trained_on {
        Some((file, trained_on))
            if stands_in && args.data == Source::Auto && trained_on != loaded.dataset.name =>
        {
            let file = file.display();
            let reason = format!(
                "{file} was trained on {trained_on}, but {name} is not at hand: name its folder with --data, fetch it with the \
                 --download of an experiment, or verify on the embedded digits with --data embedded"
            );
            return Err(reason.into());
        }
        Some((file, trained_on)) if trained_on != loaded.dataset.name => {
            let (file, found) = (file.display(), &loaded.dataset.name);
            eprintln!("warning: {file} was trained on {trained_on}, and is verified on {found}");
        }
        _ => {}
    }
    loaded.notice.iter().for_each(say);
    let dataset = match args.limit {
        Some(limit) => loaded.dataset.take(limit),
        None => loaded.dataset,
    };
    Ok(dataset.fit_to(shape)?)
}
