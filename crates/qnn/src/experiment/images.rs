use std::path::PathBuf;
use std::sync::Arc;

use qnn_data::{Dataset, DatasetName, Loaded, Source};

use super::{Error, Experiment, Options, Variant};

/// A data set that an experiment may run on.
#[derive(Clone, Debug)]
pub(super) enum Set {
    /// One that is loaded by its name.
    Known(DatasetName),
    /// One that the program made.
    Own(Arc<Dataset>),
}

impl Set {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Known(name) => name.as_str(),
            Self::Own(dataset) => &dataset.name,
        }
    }

    /// The set that the options name, and whether it is the one that the variant's figures are for.
    pub(super) fn choose(
        experiment: &Experiment,
        variant: &Variant,
        options: &Options,
    ) -> Result<(Self, bool), Error> {
        let sets = &experiment.datasets;
        let published_on = variant.dataset().map_or_else(|| sets[0].clone(), Self::Known);
        let Some(name) = &options.dataset else { return Ok((published_on, true)) };
        let found = sets.iter().find(|set| set.name() == name).cloned().ok_or_else(|| {
            let known: Vec<_> = sets.iter().map(Self::name).collect();
            Error::flag("--dataset", format!("{name} is none of {}", known.join(", ")))
        })?;
        let is_published = found.name() == published_on.name();
        Ok((found, is_published))
    }

    /// The images, from where the options say that they are.
    pub(super) fn load(&self, options: &Options) -> Result<Loaded, Error> {
        match self {
            Self::Known(name) => {
                let source = options.data.clone().unwrap_or(Source::Auto);
                let found = qnn_data::load(*name, &source);
                if options.download && found.as_ref().map_or(true, |found| found.is_embedded) {
                    download(*name, &source, options.quiet)?;
                    return Ok(qnn_data::load(*name, &source)?);
                }
                Ok(found?)
            }
            Self::Own(dataset) => {
                let has_no_use = || format!("{} is part of the program", dataset.name);
                match (&options.data, options.download) {
                    (Some(_), _) => Err(Error::flag("--data", has_no_use())),
                    (None, true) => Err(Error::flag("--download", has_no_use())),
                    (None, false) => {
                        Ok(Loaded { dataset: (**dataset).clone(), is_embedded: false, notice: None })
                    }
                }
            }
        }
    }
}

fn download(name: DatasetName, source: &Source, quiet: bool) -> Result<(), Error> {
    let folder = match source {
        Source::Embedded => return Err(Error::flag("--download", "the embedded digits need none")),
        Source::Path(folder) => folder.clone(),
        _ => {
            let variable = std::env::var_os("QNN_DATA").filter(|value| !value.is_empty());
            variable.map_or_else(|| PathBuf::from("data"), PathBuf::from)
        }
    };
    let bar = super::progress::download_bar(quiet);
    let mut show = |done, total: Option<u64>| {
        bar.set_position(done);
        total.into_iter().for_each(|total| bar.set_length(total));
    };
    qnn_data::download(name, &folder, &mut show)?;
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_at_hand_is_not_downloaded() {
        let folder = tempfile::tempdir().unwrap();
        let idx = |dimensions: &[u32], byte: u8| {
            let header = [0x0800 + dimensions.len() as u32].into_iter().chain(dimensions.iter().copied());
            let content = vec![byte; dimensions.iter().product::<u32>() as usize];
            header.flat_map(u32::to_be_bytes).chain(content).collect::<Vec<u8>>()
        };
        for part in ["train", "t10k"] {
            fs::write(folder.path().join(format!("{part}-images-idx3-ubyte")), idx(&[2, 28, 28], 5)).unwrap();
            fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte")), idx(&[2], 7)).unwrap();
        }
        let before = fs::read_dir(folder.path()).unwrap().count();
        let data = Some(Source::Path(folder.path().to_owned()));
        let options = Options { data, download: true, quiet: true, ..Options::default() };
        // Other files under the published names would be fetched again.
        let loaded = Set::Known(DatasetName::Mnist).load(&options).unwrap();
        assert_eq!((loaded.dataset.train.len(), loaded.is_embedded), (2, false));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
    }
}
