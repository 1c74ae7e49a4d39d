//! NumPy's broadcasting: the shapes, the forward map and, in one place, its transpose.

use crate::parallel::{for_each_chunk, for_each_row};
use crate::{Scalar, Tensor, reduce};

/// The common shape of two operands: axes are matched from the last, and an axis of one is
/// repeated.
pub(crate) fn broadcast_shape(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    (0..rank)
        .map(|axis| match (size_at(a, rank, axis), size_at(b, rank, axis)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// The size of an axis once missing leading axes are filled with ones.
fn size_at(shape: &[usize], rank: usize, axis: usize) -> usize {
    let missing = rank - shape.len();
    if axis < missing { 1 } else { shape[axis - missing] }
}

/// `f(a, b)` under broadcasting; the fast paths are equal shapes, one value, and a row repeated
/// over all leading axes (a bias).
#[track_caller]
pub(crate) fn broadcast_map<T: Scalar>(
    op: &str,
    a: &Tensor<T>,
    b: &Tensor<T>,
    f: impl Fn(T, T) -> T + Sync,
) -> Tensor<T> {
    if a.shape() == b.shape() {
        return a.zip_map(b, f);
    }
    let Some(shape) = broadcast_shape(a.shape(), b.shape()) else {
        panic!("{op}: the shapes {:?} and {:?} do not broadcast", a.shape(), b.shape());
    };
    if a.shape() == shape && is_repeated_row(b.shape(), &shape) {
        return map_rows(a, b, &f);
    }
    if b.shape() == shape && is_repeated_row(a.shape(), &shape) {
        return map_rows(b, a, |b, a| f(a, b));
    }
    map_runs(&shape, a, b, f)
}

/// Whether the operand is the last axes of `shape`, repeated over the leading ones.
fn is_repeated_row(operand: &[usize], shape: &[usize]) -> bool {
    let ones = operand.iter().take_while(|&&size| size == 1).count();
    shape.ends_with(&operand[ones..])
}

fn map_rows<T: Scalar>(a: &Tensor<T>, row: &Tensor<T>, f: impl Fn(T, T) -> T + Sync) -> Tensor<T> {
    if let &[value] = row.as_slice() {
        return a.map(|x| f(x, value));
    }
    let (x, row) = (a.as_slice(), row.as_slice());
    Tensor::build(a.shape(), |out| {
        for_each_row(
            row.len(),
            out,
            #[inline(always)]
            |i, y| {
                let x = &x[i * row.len()..][..row.len()];
                y.iter_mut().zip(x.iter().zip(row)).for_each(|(y, (&x, &r))| *y = f(x, r));
            },
        );
    })
}

/// The general case: along the last axis an operand is either a run of values or one value.
fn map_runs<T: Scalar>(
    shape: &[usize],
    a: &Tensor<T>,
    b: &Tensor<T>,
    f: impl Fn(T, T) -> T + Sync,
) -> Tensor<T> {
    let run = shape.last().copied().unwrap_or(1);
    let (runs_a, runs_b) = (Runs::new(a.shape(), shape), Runs::new(b.shape(), shape));
    let (a, b) = (a.as_slice(), b.as_slice());
    Tensor::build(shape, |out| {
        for_each_row(
            run,
            out,
            #[inline(always)]
            |i, y| {
                let (a, b) = (&a[runs_a.start(i)..], &b[runs_b.start(i)..]);
                match (runs_a.repeats, runs_b.repeats) {
                    (false, false) => {
                        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b));
                    }
                    (false, true) => y.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b[0])),
                    (true, false) => y.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a[0], b)),
                    (true, true) => y.fill(f(a[0], b[0])),
                }
            },
        );
    })
}

/// Where the runs along the last axis of a broadcast shape start in an operand.
struct Runs {
    /// Size in the broadcast shape and stride in the operand of each axis but the last.
    outer: Vec<(usize, usize)>,
    /// Whether the operand holds one value for a whole run.
    repeats: bool,
}

impl Runs {
    fn new(operand: &[usize], shape: &[usize]) -> Self {
        let rank = shape.len();
        let last = rank.saturating_sub(1);
        let mut outer = vec![(1, 0); last];
        let mut stride = if rank == 0 { 1 } else { size_at(operand, rank, last) };
        for axis in (0..last).rev() {
            let size = size_at(operand, rank, axis);
            outer[axis] = (shape[axis], if size == 1 { 0 } else { stride });
            stride *= size;
        }
        Self { outer, repeats: rank == 0 || size_at(operand, rank, last) == 1 }
    }

    /// The first element of run number `i`, counted in row-major order of the broadcast shape.
    fn start(&self, mut i: usize) -> usize {
        let mut start = 0;
        for &(size, stride) in self.outer.iter().rev() {
            start += i % size * stride;
            i /= size;
        }
        start
    }
}

/// Sums a gradient over the axes along which its input was repeated; the shape itself if it
/// cannot be reduced to `shape`.
pub(crate) fn sum_to<T: Scalar>(dy: Tensor<T>, shape: &[usize]) -> Result<Tensor<T>, Vec<usize>> {
    if dy.shape() == shape {
        return Ok(dy);
    }
    let fits = broadcast_shape(dy.shape(), shape).is_some_and(|common| common == dy.shape());
    if !fits {
        return Err(dy.shape().to_vec());
    }
    let sums = if dy.is_empty() {
        vec![0.0; shape.iter().product()]
    } else if is_repeated_row(shape, dy.shape()) {
        reduce::sum_rows(dy.as_slice(), shape.iter().product())
    } else {
        sum_runs(&dy, shape)
    };
    Ok(Tensor::build(shape, |out| {
        for_each_chunk(out, |at, out| {
            out.iter_mut().zip(&sums[at..]).for_each(|(y, &sum)| *y = T::of(sum));
        });
    }))
}

/// The general case: one pass in row-major order, summing in f64.
fn sum_runs<T: Scalar>(dy: &Tensor<T>, shape: &[usize]) -> Vec<f64> {
    let runs = Runs::new(shape, dy.shape());
    let mut sums = vec![0.0_f64; shape.iter().product()];
    let run = dy.shape().last().copied().unwrap_or(1);
    for (i, dy) in dy.as_slice().chunks_exact(run).enumerate() {
        let sums = &mut sums[runs.start(i)..];
        if runs.repeats {
            sums[0] += reduce::sum(dy);
        } else {
            sums.iter_mut().zip(dy).for_each(|(sum, d)| *sum += d.as_f64());
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_the_rule() {
        assert_eq!(broadcast_shape(&[2, 3], &[3]), Some(vec![2, 3]));
        assert_eq!(broadcast_shape(&[2, 1], &[4]), Some(vec![2, 4]));
        assert_eq!(broadcast_shape(&[], &[5, 0]), Some(vec![5, 0]));
        assert_eq!(broadcast_shape(&[2], &[3]), None);
    }

    #[test]
    fn gradients_are_summed_over_repeated_axes() {
        let dy = Tensor::<f32>::from_fn(&[2, 3], |i| i as f32);
        assert_eq!(sum_to(dy.clone(), &[3]).unwrap().as_slice(), [3.0, 5.0, 7.0]);
        assert_eq!(sum_to(dy.clone(), &[1, 3]).unwrap().shape(), [1, 3]);
        assert_eq!(sum_to(dy.clone(), &[2, 1]).unwrap().as_slice(), [3.0, 12.0]);
        assert_eq!(sum_to(dy.clone(), &[]).unwrap().item(), 15.0);
        assert_eq!(sum_to(dy, &[4]), Err(vec![2, 3]));
    }

    #[test]
    fn empty_gradients_reduce_to_zeros() {
        let reduced = |from: &[usize], to: &[usize]| sum_to(Tensor::<f32>::zeros(from), to).unwrap();
        assert_eq!(reduced(&[5, 0], &[0]), Tensor::zeros(&[0]));
        assert_eq!(reduced(&[0, 3], &[3]), Tensor::zeros(&[3]));
        assert_eq!(reduced(&[2, 0, 3], &[2, 1, 3]), Tensor::zeros(&[2, 1, 3]));
    }

    #[test]
    fn every_path_of_the_forward_map_agrees() {
        let a = Tensor::<f32>::from_fn(&[2, 3, 4], |i| i as f32);
        for shape in [&[4_usize][..], &[1, 4], &[], &[3, 1], &[2, 1, 4], &[2, 3, 4], &[1, 3, 4]] {
            let b = Tensor::<f32>::from_fn(shape, |i| 10.0 * i as f32);
            let wide = Tensor::from_array(&b.view().broadcast(&[2, 3, 4][..]).unwrap());
            let expected = a.zip_map(&wide, |a, b| a - b);
            assert_eq!(broadcast_map("sub", &a, &b, |a, b| a - b), expected);
            let negated = expected.map(|y| -y);
            assert_eq!(broadcast_map("sub", &b, &a, |a, b| a - b), negated);
        }
    }

    #[test]
    fn both_operands_may_be_repeated() {
        let a = Tensor::<f32>::from_fn(&[2, 1, 3], |i| i as f32);
        let b = Tensor::<f32>::from_fn(&[4, 1], |i| 10.0 * i as f32);
        let (wide_a, wide_b) = (a.view(), b.view());
        let wide = [2, 4, 3];
        let expected = Tensor::from_array(&wide_a.broadcast(&wide[..]).unwrap())
            .zip_map(&Tensor::from_array(&wide_b.broadcast(&wide[..]).unwrap()), |a, b| a - b);
        assert_eq!(broadcast_map("sub", &a, &b, |a, b| a - b), expected);
        assert_eq!(broadcast_map("sub", &a, &Tensor::zeros(&[0, 1]), |a, b| a - b).shape(), [2, 0, 3]);
        assert_eq!(sum_to(expected.clone(), &[4, 1]).unwrap().as_slice(), [15.0, -45.0, -105.0, -165.0]);
        assert_eq!(
            sum_to(expected, &[2, 1, 3]).unwrap().as_slice(),
            [-60.0, -56.0, -52.0, -48.0, -44.0, -40.0]
        );
    }
}
