use std::sync::{Arc, Mutex, PoisonError};

use qnn_data::{Augment, Batch, Dataset, Loader, LoaderConfig, Normalize};
use qnn_files::Digest;
use qnn_tensor::Tensor;
use qnn_tensor::ndarray::ArrayView1;

use crate::{Error, Recipe};

/// The batches to learn from and those to test on.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// Shuffled, perhaps augmented.
    pub train: Loader,
    /// In order, not augmented. What is called test accuracy is measured here: hand in a validation
    /// split if the choice of the best epoch must not see the test set.
    pub test: Loader,
}

impl TrainingData {
    /// Loaders for a data set by the batch size, seed and augmentation switch of a recipe, with
    /// memory from the tensors' pool.
    ///
    /// `augment` applies to training images if the recipe wants augmentation at all.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] if the images cannot be made into such batches.
    pub fn new(
        dataset: Dataset,
        recipe: &Recipe,
        normalize: Normalize,
        augment: Augment,
    ) -> Result<Self, Error> {
        let test = LoaderConfig {
            batch: recipe.batch,
            seed: recipe.seed,
            normalize,
            buffer: pooled,
            ..LoaderConfig::default()
        };
        let augment = if recipe.augment { augment } else { Augment::None };
        let train = LoaderConfig { shuffle: true, augment, ..test.clone() };
        Ok(Self {
            train: Loader::new(Arc::new(dataset.train), train)?,
            test: Loader::new(Arc::new(dataset.test), test)?,
        })
    }

    pub(crate) fn check(&self, recipe: &Recipe) -> Result<(), Error> {
        let batch = self.train.config().batch;
        if batch != recipe.batch {
            let expected = format!("that of the recipe, {}", recipe.batch);
            return Err(Error::setting("the batch size of the training loader", batch, &expected));
        }
        for (set, loader) in [("training", &self.train), ("test", &self.test)] {
            if loader.batches_per_epoch() == 0 {
                let value = format!("the {set} set with no image");
                return Err(Error::setting("the data", value, "at least one batch"));
            }
        }
        Ok(())
    }

    /// All that decides what the batches are, by name.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (String, String)> + '_ {
        [("training data", &self.train), ("test data", &self.test)].into_iter().map(|(name, loader)| {
            let LoaderConfig { batch, seed, shuffle, augment, normalize, drop_last, .. } = loader.config();
            let (images, shape) = (loader.images().len(), loader.images().shape());
            // Other images may be as many, of the same shape.
            let mut digest = Digest::new();
            digest.bytes(loader.images().as_bytes());
            loader.images().labels().iter().for_each(|&label| digest.number(label.into()));
            let digest = digest.value();
            let text = format!(
                "{images} images of {shape:?} ({digest:016x}) by {batch}, seed {seed}, shuffle {shuffle}, {augment:?}, \
                 {normalize:?}, drop_last {drop_last}"
            );
            (name.to_owned(), text)
        })
    }
}

/// Vectors of earlier batches, to be filled again.
static SPARE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// More than any loader prepares ahead.
const MOST_SPARE: usize = 16;

/// A vector for [`LoaderConfig::buffer`]: one that [`into_tensor`] has emptied, if there is one.
pub fn pooled(values: usize) -> Vec<f32> {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let fit =
        spare.iter().position(|vector| (values..=values.saturating_mul(2)).contains(&vector.capacity()));
    fit.map_or_else(|| Vec::with_capacity(values), |fit| spare.swap_remove(fit))
}

/// The images of a batch as a tensor, and the labels. The vector is kept for a later batch.
///
/// # Errors
///
/// [`Error::Shape`] if the batch holds another number of values than its shape names.
pub fn into_tensor(batch: Batch) -> Result<(Tensor, Vec<usize>), Error> {
    let Batch { images, shape, labels, .. } = batch;
    let tensor = Tensor::from_array(&ArrayView1::from(&images)).reshape(&shape)?;
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.len() < MOST_SPARE {
        spare.push(images);
    }
    Ok((tensor, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_a_batch_is_filled_again() {
        let images = vec![2.0; 3001 * 7];
        let pointer = images.as_ptr();
        let batch = Batch { images, shape: [3001, 7, 1, 1], labels: vec![0; 3001], index: 0 };
        let (tensor, labels) = into_tensor(batch).unwrap();
        assert_eq!((tensor.shape(), labels.len()), (&[3001, 7, 1, 1][..], 3001));
        assert!(tensor.as_slice().iter().all(|&x| x == 2.0));
        let again = pooled(3001 * 7);
        assert_eq!(again.as_ptr(), pointer);
    }

    #[test]
    fn batches_of_another_size_than_their_shape_are_errors() {
        let batch = Batch { images: vec![0.0; 5], shape: [1, 2, 2, 1], labels: vec![0], index: 0 };
        assert!(matches!(into_tensor(batch), Err(Error::Shape(_))));
    }
}
