//! Handwritten digits that are part of the program.
//!
//! 1,797 real images of 8×8 grey pixels, written by people who did not contribute to the training half of the
//! original set: enough to see a quantized network learn in seconds, with nothing to download.
//!
//! E. Alpaydin, C. Kaynak: *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository,
//! 1998, [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), licensed CC BY 4.0.

use std::path::Path;

use crate::read::expand;
use crate::{Dataset, DatasetName, Error, Images, Result, train_validation_split};

const CSV: &[u8] = include_bytes!("digits.csv.gz");
const FILE: &str = "digits.csv.gz (embedded)";
const LIMIT: u64 = 1 << 20;
const SPLIT_SEED: u64 = 1998;

/// The embedded digits, every class divided 4 : 1 into training and test images, always in the same way.
///
/// Intensities 0..16 become bytes by `round(255 v / 16)`.
///
/// # Errors
/// [`Error::Format`] if the program itself is damaged.
///
/// ```
/// let digits = qnn_data::embedded_digits()?;
/// assert_eq!((digits.train.len(), digits.test.len()), (1438, 359));
/// assert_eq!(digits.train.shape(), [8, 8, 1]);
/// # Ok::<(), qnn_data::Error>(())
/// ```
pub fn embedded_digits() -> Result<Dataset> {
    let all = parse(&expand(CSV, Path::new(FILE), LIMIT)?)?;
    let (train, test) = train_validation_split(&all, 0.2, SPLIT_SEED)?;
    Ok(Dataset { name: DatasetName::Digits.to_string(), train, test })
}

fn parse(text: &[u8]) -> Result<Images> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text);
    for row in reader.deserialize::<Vec<u16>>() {
        match row.map_err(|error| damaged(error.position().map_or(0, csv::Position::byte), error))?.as_slice()
        {
            [values @ .., label] if values.len() == 64 && values.iter().all(|&v| v <= 16) => {
                pixels.extend(values.iter().map(|&v| ((255 * v + 8) / 16) as u8));
                labels.push(*label);
            }
            _ => return Err(damaged(0, format!("other numbers in row {}", labels.len() + 1))),
        }
    }
    Images::new(
        DatasetName::Digits.to_string(),
        DatasetName::Digits.shape(),
        pixels,
        labels,
        DatasetName::Digits.class_names(),
    )
}

fn damaged(offset: u64, found: impl ToString) -> Error {
    let expected = "64 numbers from 0 to 16 and a label".into();
    Error::Format { file: FILE.into(), offset, expected, found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_images_are_there_and_none_twice_over() {
        let digits = embedded_digits().unwrap();
        assert_eq!(digits.train.len() + digits.test.len(), 1797);
        let (train, test) = (digits.train.class_counts(), digits.test.class_counts());
        let both: Vec<usize> = train.iter().zip(&test).map(|(a, b)| a + b).collect();
        assert_eq!(both, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]); // as published
        assert!(test.iter().all(|count| (35..=37).contains(count)), "{test:?}");
    }

    #[test]
    fn intensities_span_the_bytes() {
        let pixels = embedded_digits().unwrap().train;
        assert_eq!(pixels.as_bytes().iter().min(), Some(&0));
        assert_eq!(pixels.as_bytes().iter().max(), Some(&255));
        assert!(
            pixels
                .as_bytes()
                .iter()
                .all(|&p| (0..=16).any(|v| (255.0 * f64::from(v) / 16.0).round() as u8 == p))
        );
    }

    #[test]
    fn the_split_stays_the_same() {
        let test = embedded_digits().unwrap().test;
        let checksum =
            test.as_bytes().iter().fold(0_u32, |sum, &p| sum.wrapping_mul(31).wrapping_add(u32::from(p)));
        assert_eq!(checksum, 3_297_927_673, "a changed split makes published accuracies incomparable");
    }

    #[test]
    fn damaged_tables_are_refused() {
        let good = "1,".repeat(64) + "3\n";
        assert_eq!(parse(good.as_bytes()).unwrap().labels(), [3]);
        for bad in [
            "",
            "1,2\n",
            &good.replace("3\n", "10\n"),
            &good.replacen('1', "17", 1),
            &good.replacen('1', "x", 1),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
