//! From images to batches.

use std::sync::Arc;

use crate::augment::View;
use crate::random::{Purpose, shuffle, stream};
use crate::{Augment, Batches, Error, Images, Normalize, Result};

/// How batches are made.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Images in each batch (default 100).
    pub batch: usize,
    /// Decides order and augmentation, together with the epoch (default 0).
    pub seed: u64,
    /// Whether each epoch has an order of its own (default no: the order of the set).
    pub shuffle: bool,
    /// How images are varied (default not).
    pub augment: Augment,
    /// How bytes become numbers (default [`Normalize::unit`]).
    pub normalize: Normalize,
    /// Whether an incomplete batch at the end is left out (default no).
    pub drop_last: bool,
    /// How many batches another thread prepares ahead (default 2); with 0 each is prepared when it is asked
    /// for.
    pub prefetch: usize,
    /// Where batches take their memory from: given a number of values, a vector of any length and content,
    /// best with that capacity.
    pub buffer: fn(usize) -> Vec<f32>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch: 100,
            seed: 0,
            shuffle: false,
            augment: Augment::None,
            normalize: Normalize::unit(),
            drop_last: false,
            prefetch: 2,
            buffer: |values| vec![0.0; values],
        }
    }
}

/// Normalised images with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Values, `[n, height, width, channels]`.
    pub images: Vec<f32>,
    /// The four dimensions.
    pub shape: [usize; 4],
    /// One label per image.
    pub labels: Vec<usize>,
    /// Number of the batch in its epoch, from 0.
    pub index: usize,
}

impl Batch {
    /// Number of images.
    // A batch is never empty.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.labels.len()
    }
}

/// Gives the batches of each epoch, always the same for the same images and configuration.
///
/// Order and augmentation are functions of (seed, epoch, image), so neither the number of threads nor
/// starting in the middle of an epoch changes a bit.
///
/// ```
/// use std::sync::Arc;
/// use qnn_data::{embedded_digits, Loader, LoaderConfig};
///
/// let train = Arc::new(embedded_digits()?.train);
/// let loader = Loader::new(train, LoaderConfig { batch: 64, shuffle: true, ..LoaderConfig::default() })?;
/// let whole: Vec<_> = loader.epoch(3).collect();
/// let rest: Vec<_> = loader.epoch_from(3, 20).collect();
/// assert_eq!(whole[20..], rest);
/// # Ok::<(), qnn_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    plan: Arc<Plan>,
}

impl Loader {
    /// A loader over `images`.
    ///
    /// # Errors
    /// [`Error::Setting`] if the batch size is zero, no batch would come out, the normalisation is for
    /// another number of channels, or the augmentation's border is larger than the images.
    pub fn new(images: Arc<Images>, config: LoaderConfig) -> Result<Self> {
        let tables = config.normalize.tables(images.shape()[2])?;
        config.augment.check(images.shape())?;
        let expected = if config.drop_last {
            format!("from 1 to the {} images", images.len())
        } else {
            "at least 1".into()
        };
        if config.batch == 0 || (config.drop_last && config.batch > images.len()) {
            return Err(Error::setting("the batch size", config.batch, expected));
        }
        Ok(Self { plan: Arc::new(Plan { images, config, tables }) })
    }

    /// Number of batches in each epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.plan.batches()
    }

    /// The images behind the batches.
    pub fn images(&self) -> &Images {
        &self.plan.images
    }

    /// How batches are made.
    pub fn config(&self) -> &LoaderConfig {
        &self.plan.config
    }

    /// All batches of an epoch.
    pub fn epoch(&self, epoch: u64) -> Batches {
        self.epoch_from(epoch, 0)
    }

    /// The batches of an epoch from number `first_batch` on, the same as if the earlier ones had been
    /// skipped.
    pub fn epoch_from(&self, epoch: u64, first_batch: usize) -> Batches {
        Batches::start(Arc::clone(&self.plan), epoch, first_batch)
    }
}

/// What the thread that makes batches has to know.
#[derive(Debug)]
pub(crate) struct Plan {
    images: Arc<Images>,
    config: LoaderConfig,
    tables: Vec<[f32; 256]>,
}

impl Plan {
    pub(crate) fn batches(&self) -> usize {
        let (n, batch) = (self.images.len(), self.config.batch);
        if self.config.drop_last { n / batch } else { n.div_ceil(batch) }
    }

    pub(crate) fn prefetch(&self) -> usize {
        self.config.prefetch.min(self.batches())
    }

    /// The indices of all images in the order of an epoch.
    pub(crate) fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        if self.config.shuffle {
            shuffle(&mut order, &mut stream(self.config.seed, epoch, Purpose::Shuffle, 0));
        }
        order
    }

    /// Batch `index` of an epoch whose order is `order`.
    pub(crate) fn prepare(&self, epoch: u64, order: &[usize], index: usize) -> Batch {
        let start = index * self.config.batch;
        let chosen = &order[start..order.len().min(start.saturating_add(self.config.batch))];
        let [height, width, channels] = self.images.shape();
        let size = height * width * channels;
        let mut images = (self.config.buffer)(chosen.len() * size);
        images.resize(chosen.len() * size, 0.0);
        let mut row = vec![0; width * channels];
        for (&image, target) in chosen.iter().zip(images.chunks_exact_mut(size)) {
            self.write(image, self.config.augment.draw(self.config.seed, epoch, image), &mut row, target);
        }
        let labels = chosen.iter().map(|&i| usize::from(self.images.labels()[i])).collect();
        Batch { images, shape: [chosen.len(), height, width, channels], labels, index }
    }

    /// One image through its view and the tables; `row` is scratch memory.
    fn write(&self, image: usize, view: View, row: &mut [u8], target: &mut [f32]) {
        let (pixels, channels) = (self.images.pixels(image), self.images.shape()[2]);
        if view == View::default() {
            return self.look_up(pixels, target, false);
        }
        for (y, target) in target.chunks_exact_mut(row.len()).enumerate() {
            view.copy_row(pixels, y, channels, row);
            self.look_up(row, target, view.mirrored);
        }
    }

    fn look_up(&self, bytes: &[u8], target: &mut [f32], mirrored: bool) {
        match *self.tables.as_slice() {
            [ref table] => look_up([table], bytes, target, mirrored),
            [ref r, ref g, ref b] => look_up([r, g, b], bytes, target, mirrored),
            ref tables => look_up_any(tables, bytes, target, mirrored),
        }
    }
}

/// Each byte through the table of its channel, pixels in reverse if `mirrored`; the number of channels is
/// known to the compiler.
fn look_up<const C: usize>(tables: [&[f32; 256]; C], bytes: &[u8], target: &mut [f32], mirrored: bool) {
    let (pixels, values) = (bytes.as_chunks::<C>().0.iter(), target.as_chunks_mut::<C>().0.iter_mut());
    let translate = |(value, pixel): (&mut [f32; C], &[u8; C])| {
        *value = std::array::from_fn(|channel| tables[channel][usize::from(pixel[channel])]);
    };
    if mirrored {
        values.zip(pixels.rev()).for_each(translate)
    } else {
        values.zip(pixels).for_each(translate)
    }
}

/// The same for any number of channels.
fn look_up_any(tables: &[[f32; 256]], bytes: &[u8], target: &mut [f32], mirrored: bool) {
    let (pixels, values) = (bytes.chunks_exact(tables.len()), target.chunks_exact_mut(tables.len()));
    let translate = |(values, pixel): (&mut [f32], &[u8])| {
        for ((value, &v), table) in values.iter_mut().zip(pixel).zip(tables) {
            *value = table[usize::from(v)];
        }
    };
    if mirrored {
        values.zip(pixels.rev()).for_each(translate)
    } else {
        values.zip(pixels).for_each(translate)
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
