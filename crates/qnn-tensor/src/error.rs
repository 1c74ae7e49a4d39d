/// A shape that does not fit the data or the operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The shape names another number of elements than there are.
    #[error("shape {shape:?} holds {} elements, but {len} were given", product(.shape))]
    Length {
        /// The requested shape.
        shape: Vec<usize>,
        /// The number of elements at hand.
        len: usize,
    },
    /// The shape's element count does not fit this machine's addresses.
    #[error("shape {shape:?} has more elements than this machine can address")]
    Overflow {
        /// The requested shape.
        shape: Vec<usize>,
    },
}

/// For messages only: anyone can build an error around a shape whose product overflows.
fn product(shape: &[usize]) -> u128 {
    shape.iter().fold(1, |n: u128, &size| n.saturating_mul(size as u128))
}

/// The number of elements of a shape.
///
/// As in ndarray, the sizes other than zero must multiply to an `isize`, so that no partial product
/// overflows, whatever the order.
pub(crate) fn element_count(shape: &[usize]) -> Result<usize, ShapeError> {
    let overflow = || ShapeError::Overflow { shape: shape.to_vec() };
    let product = shape
        .iter()
        .filter(|&&size| size != 0)
        .try_fold(1_usize, |n, &size| n.checked_mul(size))
        .filter(|&n| isize::try_from(n).is_ok())
        .ok_or_else(overflow)?;
    Ok(if shape.contains(&0) { 0 } else { product })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_the_values_even_if_their_product_overflows() {
        let message = |shape: &[usize]| ShapeError::Length { shape: shape.to_vec(), len: 3 }.to_string();
        assert_eq!(message(&[2, 2]), "shape [2, 2] holds 4 elements, but 3 were given");
        assert!(message(&[usize::MAX; 4]).contains(&u128::MAX.to_string()));
    }

    #[test]
    fn counts_refuse_what_cannot_be_addressed() {
        assert_eq!(element_count(&[]), Ok(1));
        assert_eq!(element_count(&[3, 0, 7]), Ok(0));
        for shape in [&[usize::MAX, 2][..], &[usize::MAX], &[1 << 40, 1 << 40, 0]] {
            assert!(matches!(element_count(shape), Err(ShapeError::Overflow { .. })), "{shape:?}");
        }
    }
}
