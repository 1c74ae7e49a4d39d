use std::fmt;
use std::sync::Arc;

use ndarray::{ArrayBase, ArrayD, ArrayViewD, ArrayViewMutD, Data, Dimension, IxDyn};

use crate::error::element_count;
use crate::parallel::for_each_chunk;
use crate::storage::Storage;
use crate::{Scalar, ShapeError};

/// A contiguous, row-major array whose buffer is shared by its clones and recycled when the last
/// one is dropped.
///
/// Values change only through [`as_mut_slice`](Tensor::as_mut_slice), which copies the buffer
/// first if another tensor shares it.
#[derive(Clone)]
pub struct Tensor<T: Scalar = f32> {
    block: Arc<Block<T>>,
    shape: IxDyn,
}

/// The owner of a pooled buffer, which may be longer than the tensor.
struct Block<T: Scalar> {
    storage: Storage<T>,
}

impl<T: Scalar> Drop for Block<T> {
    fn drop(&mut self) {
        T::pool().give(std::mem::replace(&mut self.storage, Storage::Heap(Vec::new())));
    }
}

impl<T: Scalar> Tensor<T> {
    /// A tensor whose elements `fill` writes; before, they hold unspecified values.
    ///
    /// ```
    /// use qnn_tensor::Tensor;
    /// let squares = Tensor::<f32>::build(&[2, 2], |out| {
    ///     for (i, y) in out.iter_mut().enumerate() {
    ///         *y = (i * i) as f32;
    ///     }
    /// });
    /// assert_eq!(squares.as_slice(), [0.0, 1.0, 4.0, 9.0]);
    /// ```
    ///
    /// # Panics
    ///
    /// If the shape has more elements than this machine can address.
    #[track_caller]
    pub fn build(shape: &[usize], fill: impl FnOnce(&mut [T])) -> Self {
        let len = element_count(shape).unwrap_or_else(|error| panic!("{error}"));
        let mut storage = T::pool().take(len);
        fill(&mut storage.as_mut_slice()[..len]);
        Self { block: Arc::new(Block { storage }), shape: IxDyn(shape) }
    }

    /// All elements `value`.
    ///
    /// # Panics
    ///
    /// If the shape has more elements than this machine can address.
    #[track_caller]
    pub fn full(shape: &[usize], value: T) -> Self {
        Self::build(shape, |out| out.fill(value))
    }

    /// All elements zero.
    ///
    /// # Panics
    ///
    /// If the shape has more elements than this machine can address.
    #[track_caller]
    pub fn zeros(shape: &[usize]) -> Self {
        Self::full(shape, T::zero())
    }

    /// A tensor of rank 0.
    pub fn scalar(value: T) -> Self {
        Self::full(&[], value)
    }

    /// Element `i`, in row-major order, is `f(i)`.
    ///
    /// # Panics
    ///
    /// If the shape has more elements than this machine can address.
    #[track_caller]
    pub fn from_fn(shape: &[usize], mut f: impl FnMut(usize) -> T) -> Self {
        Self::build(shape, |out| out.iter_mut().enumerate().for_each(|(i, y)| *y = f(i)))
    }

    /// Takes over the vector's buffer.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if `shape` names another number of elements than `data` holds.
    pub fn from_vec(shape: &[usize], data: Vec<T>) -> Result<Self, ShapeError> {
        check_len(shape, data.len())?;
        T::pool().adopt(data.len());
        let storage = Storage::Heap(data);
        Ok(Self { block: Arc::new(Block { storage }), shape: IxDyn(shape) })
    }

    /// Copies an array of any layout.
    pub fn from_array<S: Data<Elem = T>, D: Dimension>(array: &ArrayBase<S, D>) -> Self {
        Self::build(array.shape(), |out| match array.as_slice() {
            Some(values) => out.copy_from_slice(values),
            None => out.iter_mut().zip(array).for_each(|(y, &x)| *y = x),
        })
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        self.shape.slice()
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in row-major order.
    pub fn as_slice(&self) -> &[T] {
        &self.block.storage.as_slice()[..self.len()]
    }

    /// The elements for writing. Copies the buffer if a clone shares it.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        if Arc::get_mut(&mut self.block).is_none() {
            *self = Self::build(self.shape(), |out| out.copy_from_slice(self.as_slice()));
        }
        let len = self.len();
        let block = Arc::get_mut(&mut self.block).expect("the buffer was just made unique");
        &mut block.storage.as_mut_slice()[..len]
    }

    /// Whether another tensor shares the buffer, so that writing would copy it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.block) > 1
    }

    /// An ndarray view.
    pub fn view(&self) -> ArrayViewD<'_, T> {
        ArrayViewD::from_shape(self.shape.clone(), self.as_slice())
            .expect("the buffer holds as many elements as the shape names")
    }

    /// An ndarray view for writing. Copies the buffer if a clone shares it.
    pub fn view_mut(&mut self) -> ArrayViewMutD<'_, T> {
        let shape = self.shape.clone();
        ArrayViewMutD::from_shape(shape, self.as_mut_slice())
            .expect("the buffer holds as many elements as the shape names")
    }

    /// A copy as an ndarray array.
    pub fn to_array(&self) -> ArrayD<T> {
        self.view().to_owned()
    }

    /// The only element.
    ///
    /// # Panics
    ///
    /// If there is not exactly one.
    #[track_caller]
    pub fn item(&self) -> T {
        match self.as_slice() {
            [value] => *value,
            _ => panic!("item() needs exactly one element, the shape is {:?}", self.shape()),
        }
    }

    /// The same elements under another shape; no data is copied.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if `shape` names another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, ShapeError> {
        check_len(shape, self.len())?;
        Ok(Self { block: Arc::clone(&self.block), shape: IxDyn(shape) })
    }

    /// `f` of each element; in parallel when there are many.
    pub fn map(&self, f: impl Fn(T) -> T + Sync) -> Self {
        let x = self.as_slice();
        Self::build(self.shape(), |out| {
            for_each_chunk(
                out,
                #[inline(always)]
                |at, out| {
                    out.iter_mut().zip(&x[at..]).for_each(|(y, &x)| *y = f(x));
                },
            );
        })
    }

    /// `f` of each pair of elements; in parallel when there are many.
    ///
    /// # Panics
    ///
    /// If the shapes differ.
    #[track_caller]
    pub fn zip_map(&self, other: &Self, f: impl Fn(T, T) -> T + Sync) -> Self {
        assert_eq!(self.shape(), other.shape(), "zip_map needs equal shapes");
        let (a, b) = (self.as_slice(), other.as_slice());
        Self::build(self.shape(), |out| {
            for_each_chunk(
                out,
                #[inline(always)]
                |at, out| {
                    let pairs = a[at..].iter().zip(&b[at..]);
                    out.iter_mut().zip(pairs).for_each(|(y, (&a, &b))| *y = f(a, b));
                },
            );
        })
    }

    /// The elements rounded to another type.
    pub fn cast<U: Scalar>(&self) -> Tensor<U> {
        let x = self.as_slice();
        Tensor::build(self.shape(), |out| {
            for_each_chunk(
                out,
                #[inline(always)]
                |at, out| {
                    out.iter_mut().zip(&x[at..]).for_each(|(y, x)| *y = U::of(x.as_f64()));
                },
            );
        })
    }
}

fn check_len(shape: &[usize], len: usize) -> Result<(), ShapeError> {
    if element_count(shape)? == len {
        return Ok(());
    }
    Err(ShapeError::Length { shape: shape.to_vec(), len })
}

impl<T: Scalar> PartialEq for Tensor<T> {
    fn eq(&self, other: &Self) -> bool {
        self.shape() == other.shape() && self.as_slice() == other.as_slice()
    }
}

impl<T: Scalar> fmt::Debug for Tensor<T> {
    /// The shape and the first elements: a layer's kernel need not fill the terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let head = &self.as_slice()[..self.len().min(SHOWN)];
        let more = if self.len() > SHOWN { ", …" } else { "" };
        write!(f, "Tensor{:?}(", self.shape())?;
        for (i, x) in head.iter().enumerate() {
            write!(f, "{}{x}", if i == 0 { "" } else { ", " })?;
        }
        write!(f, "{more})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_to_a_clone_leaves_the_original() {
        let a = Tensor::<f32>::zeros(&[2, 3]);
        let mut b = a.clone();
        b.as_mut_slice()[0] = 1.0;
        assert_eq!(a.as_slice()[0], 0.0);
        assert!(!b.is_shared());
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        assert!(matches!(
            Tensor::from_vec(&[2, 2], vec![0.0_f32; 3]),
            Err(ShapeError::Length { len: 3, .. })
        ));
        assert!(matches!(
            Tensor::<f32>::zeros(&[4]).reshape(&[usize::MAX, 2]),
            Err(ShapeError::Overflow { .. })
        ));
    }

    #[test]
    #[should_panic(expected = "more elements than this machine can address")]
    fn building_an_impossible_shape_panics_before_allocating() {
        Tensor::<f32>::zeros(&[usize::MAX, usize::MAX]);
    }

    #[test]
    fn casts_round_to_nearest() {
        let x = Tensor::<f64>::from_fn(&[3], |i| [0.1, f64::NAN, 1e300][i]);
        let y = x.cast::<f32>();
        assert_eq!((y.as_slice()[0], y.as_slice()[2]), (0.1_f32, f32::INFINITY));
        assert!(y.as_slice()[1].is_nan());
    }

    #[test]
    fn arrays_of_any_layout_are_copied_in_row_major_order() {
        let array = ndarray::arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]);
        let transposed = Tensor::from_array(&array.t());
        assert_eq!(transposed.as_slice(), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(Tensor::from_array(&array).to_array(), array.into_dyn());
    }

    #[test]
    fn empty_tensors_are_legal() {
        let empty = Tensor::<f32>::zeros(&[0, 5]);
        assert!(empty.is_empty());
        assert_eq!(empty.map(|x| x + 1.0).shape(), [0, 5]);
    }
}
