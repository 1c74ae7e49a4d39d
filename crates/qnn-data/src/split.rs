//! Holding images out, class by class.

use crate::random::{Purpose, shuffle, stream};
use crate::{Error, Images, Result};

/// Divides a set at random into a part to train on and a part to validate on, the latter with `fraction` of
/// *each class*.
///
/// Every class gives `round(fraction · count)` images, but keeps at least one; both parts keep the order of
/// the set. The same seed gives the same parts.
///
/// # Errors
/// [`Error::Setting`] unless `0 < fraction < 1` and both parts get an image.
///
/// ```
/// # use qnn_data::{load, train_validation_split, DatasetName, Source};
/// let digits = load(DatasetName::Digits, &Source::Embedded)?.dataset.train;
/// let (train, validation) = train_validation_split(&digits, 0.1, 1)?;
/// assert_eq!(train.len() + validation.len(), digits.len());
/// # Ok::<(), qnn_data::Error>(())
/// ```
pub fn train_validation_split(images: &Images, fraction: f64, seed: u64) -> Result<(Images, Images)> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::setting("the validation fraction", fraction, "more than 0 and less than 1"));
    }
    let held_out = held_out(images, fraction, seed);
    let (kept, held): (Vec<usize>, Vec<usize>) = (0..images.len()).partition(|&i| !held_out[i]);
    if held.is_empty() {
        let expected = format!("large enough to hold out one of {} images", images.len());
        return Err(Error::setting("the validation fraction", fraction, expected));
    }
    Ok((images.select(&kept)?, images.select(&held)?))
}

/// Which images are held out.
fn held_out(images: &Images, fraction: f64, seed: u64) -> Vec<bool> {
    let mut held_out = vec![false; images.len()];
    let mut members = vec![Vec::new(); images.classes()];
    images.labels().iter().enumerate().for_each(|(i, &label)| members[usize::from(label)].push(i));
    for (class, members) in members.iter_mut().enumerate() {
        shuffle(members, &mut stream(seed, 0, Purpose::Split, class as u64));
        let count = (members.len() as f64 * fraction).round() as usize;
        members.iter().take(count.min(members.len().saturating_sub(1))).for_each(|&i| held_out[i] = true);
    }
    held_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbered(labels: Vec<u16>) -> Images {
        let pixels = (0..labels.len()).flat_map(|i| (i as u16).to_le_bytes()).collect();
        Images::new("n", [1, 2, 1], pixels, labels, (0..4).map(|i| i.to_string()).collect()).unwrap()
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_complete_and_stratified(
            labels in prop::collection::vec(0_u16..4, 8..300), fraction in 0.01_f64..0.99, seed: u64,
        ) {
            let all = numbered(labels);
            let counts = all.class_counts();
            let wanted: Vec<usize> = counts.iter()
                .map(|&n| ((n as f64 * fraction).round() as usize).min(n.saturating_sub(1))).collect();
            match train_validation_split(&all, fraction, seed) {
                Ok((train, validation)) => {
                    prop_assert_eq!(validation.class_counts(), wanted);
                    let mut both: Vec<u16> = [&train, &validation].iter()
                        .flat_map(|part| part.as_bytes().as_chunks().0)
                        .map(|&bytes| u16::from_le_bytes(bytes)).collect();
                    both.sort_unstable();
                    prop_assert!(both.into_iter().eq(0..all.len() as u16));
                    let again = train_validation_split(&all, fraction, seed).unwrap();
                    prop_assert_eq!((train, validation), again);
                }
                Err(_) => prop_assert_eq!(wanted.iter().sum::<usize>(), 0),
            }
        }
    }

    #[test]
    fn another_seed_gives_other_parts() {
        let all = numbered((0..200).map(|i| i % 4).collect());
        let part = |seed| train_validation_split(&all, 0.2, seed).unwrap().1;
        assert_ne!(part(1), part(2));
    }

    #[test]
    fn senseless_fractions_are_refused() {
        let all = numbered(vec![0, 1, 2, 3]);
        for fraction in [0.0, 1.0, -0.1, f64::NAN, f64::INFINITY, 0.4] {
            assert!(
                matches!(train_validation_split(&all, fraction, 1), Err(Error::Setting { .. })),
                "{fraction}"
            );
        }
    }
}
