use crate::parallel::{for_each_chunk_of, whole_rows};
use crate::{Scalar, Tensor, Var};

/// The rows of a table, by number.
///
/// ```text
/// y[i, ..] = table[ids[i], ..]        dtable[r, ..] = Σ over i with ids[i] = r of dy[i, ..]
/// ```
///
/// Shapes: a table of `[entries, width]` and ids that fill `shape` give `[shape.., width]`. The
/// gradient of a row used several times is added in the order of the ids.
///
/// ```
/// use qnn_tensor::{Tape, Tensor, ops::embedding};
///
/// let tape = Tape::<f32>::new();
/// let table = tape.leaf(Tensor::from_fn(&[3, 2], |i| i as f32));
/// let y = embedding(table, &[2, 0, 2], &[3]);
/// assert_eq!(y.value().as_slice(), [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
/// assert_eq!(tape.backward(y.sum()).of(table).unwrap().as_slice(), [1.0, 1.0, 0.0, 0.0, 2.0, 2.0]);
/// ```
///
/// # Panics
///
/// If the table is not a matrix, the number of ids is not that of `shape`, or an id names no row.
#[track_caller]
pub fn embedding<'t, T: Scalar>(table: Var<'t, T>, ids: &[usize], shape: &[usize]) -> Var<'t, T> {
    let values = table.value();
    let &[entries, width] = values.shape() else {
        panic!("embedding: expected a table [entries, width], got {:?}", values.shape());
    };
    let len: usize = shape.iter().product();
    assert_eq!(ids.len(), len, "embedding: expected as many ids as shape {shape:?} has places");
    if let Some(at) = ids.iter().position(|&id| id >= entries) {
        panic!("embedding: id {} at position {at} in a table of {entries} entries", ids[at]);
    }
    let y = gather(&values, ids, &[shape, &[width]].concat());
    let ids = ids.to_vec();
    table.tape().record("embedding", [table], y, move |dy, _| [Some(scatter(dy, &ids, &[entries, width]))])
}

fn gather<T: Scalar>(table: &Tensor<T>, ids: &[usize], shape: &[usize]) -> Tensor<T> {
    let (rows, width) = (table.as_slice(), table.shape()[1]);
    Tensor::build(shape, |y| {
        for_each_chunk_of(whole_rows(width), y, |at, y| {
            for (y, &id) in y.chunks_exact_mut(width).zip(&ids[at / width..]) {
                y.copy_from_slice(&rows[id * width..(id + 1) * width]);
            }
        });
    })
}

fn scatter<T: Scalar>(dy: &Tensor<T>, ids: &[usize], shape: &[usize; 2]) -> Tensor<T> {
    let width = shape[1].max(1);
    Tensor::build(shape, |dtable| {
        dtable.fill(T::zero());
        for (dy, &id) in dy.as_slice().chunks_exact(width).zip(ids) {
            let row = &mut dtable[id * width..(id + 1) * width];
            row.iter_mut().zip(dy).for_each(|(sum, &dy)| *sum += dy);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tape, gradcheck};

    #[test]
    fn gradients_agree_with_differences() {
        let table = Tensor::from_fn(&[4, 3], |i| (i as f64 * 0.7).sin());
        gradcheck([table], |[table]| embedding(table, &[1, 3, 1, 0, 1, 3], &[2, 3])).unwrap();
    }

    #[test]
    fn long_lists_are_gathered_in_order() {
        let tape = Tape::<f32>::new();
        let table = tape.constant(Tensor::from_fn(&[7, 5], |i| i as f32));
        let ids: Vec<usize> = (0..9000).map(|i| (i * i) % 7).collect();
        let y = embedding(table, &ids, &[90, 100]).value();
        assert_eq!(y.shape(), [90, 100, 5]);
        for (y, id) in y.as_slice().chunks_exact(5).zip(ids) {
            assert_eq!(y, std::array::from_fn::<f32, 5, _>(|i| (id * 5 + i) as f32));
        }
    }

    #[test]
    fn no_ids_and_no_width_are_legal() {
        let tape = Tape::<f32>::new();
        let table = tape.leaf(Tensor::zeros(&[4, 3]));
        assert_eq!(embedding(table, &[], &[0]).shape(), [0, 3]);
        let narrow = tape.leaf(Tensor::zeros(&[4, 0]));
        let y = embedding(narrow, &[1, 2], &[2]);
        assert_eq!(y.shape(), [2, 0]);
        assert_eq!(tape.backward(y.sum()).of(narrow).unwrap().shape(), [4, 0]);
    }

    #[test]
    #[should_panic(expected = "embedding: id 4 at position 1 in a table of 4 entries")]
    fn an_unknown_id_panics() {
        let tape = Tape::<f32>::new();
        embedding(tape.leaf(Tensor::zeros(&[4, 3])), &[0, 4], &[2]);
    }
}
