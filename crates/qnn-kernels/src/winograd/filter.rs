//! Convolutions in tiles: of images with weights, and of the output's gradient with flipped weights, which gives that of the input.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::tile::{Corner, Products, Window};
use super::tiling::{Images, Tiling};
use super::weights::{pack_flipped, pack_plain};
use super::{FEWEST_TILES, PRODUCTS};
use crate::ahead::Ahead;
use crate::arch::{Tiles, numbers_mut, prefetch};
use crate::line::{LANES, Line};
use crate::matrix::Job;
use crate::product::{VISITED, Visit};
use crate::scratch::with_lines;
use crate::threads::current_num_threads;
use crate::threads::prelude::*;
use crate::tile::cuts;
use crate::visitor::{Visitor, visit_all};
use crate::{ChannelAffine, Conv2dShape, Kernels, Real, vectorized};

/// Lines of windows and products that stay in a core's second cache.
const RESIDENT_LINES: usize = 1 << 13;
/// Blocks of terms that pass through a register tile before the next one takes its turn: their weights stay in the first cache.
const DEPTH: usize = 8;

/// A convolution of images with weights that are transformed once.
///
/// The weights of a panel of the channels made are lines `[product, channel read, vector of the panel]`; behind all panels come the factors and
/// the summands of the affine map.
#[derive(Clone, Debug)]
pub(crate) struct Filter<'a, T> {
    tiles: &'a Tiles<T>,
    /// Height, width and channels of the images read.
    read: [usize; 3],
    /// Those of the images made.
    made: [usize; 3],
    /// Rows and columns of a window before its tile; below zero they wrap around.
    before: [usize; 2],
    pad_value: T,
    flipped: bool,
    tiling: Tiling,
    /// Vectors of the channels made that pass through a register tile together.
    panels: Vec<Range<usize>>,
    /// Rows of a register tile.
    most: usize,
}

/// Tiles whose windows are transformed together.
struct Group {
    tiles: Range<usize>,
    /// Rows of a register tile; the last one may have fewer.
    rows: usize,
    /// Blocks of the channels read.
    blocks: usize,
}

/// What is made at a time: several images, or some rows of one.
struct Part {
    images: Range<usize>,
    /// The tiles, counted from the first of the images.
    tiles: Range<usize>,
    /// The first row of the first image.
    row: usize,
}

/// The weights of a panel, with its part of the affine map.
struct Panel<'l, T> {
    vectors: &'l Range<usize>,
    weights: &'l [Line<T>],
    affine: [&'l [Line<T>]; 2],
}

impl<'a, T: Real> Filter<'a, T> {
    /// The convolution of a shape [taken](super::takes), whatever its batch.
    pub(crate) fn forward(kernels: &'a Kernels, shape: &Conv2dShape, pad_value: T) -> Self {
        let Conv2dShape { height, width, channels, out_channels, padding, .. } = *shape;
        let made = [shape.out_height(), shape.out_width(), out_channels];
        let filter = Self::new(kernels, [height, width, channels], made, [padding.top, padding.left]);
        Self { pad_value, ..filter }
    }

    /// That of an output's gradient which gives the input's.
    pub(crate) fn input_gradient(kernels: &'a Kernels, shape: &Conv2dShape) -> Self {
        let Conv2dShape { height, width, channels, out_channels, padding, .. } = *shape;
        let read = [shape.out_height(), shape.out_width(), out_channels];
        let before = [padding.top, padding.left].map(|pad| 2_usize.wrapping_sub(pad));
        Self { flipped: true, ..Self::new(kernels, read, [height, width, channels], before) }
    }

    fn new(kernels: &'a Kernels, read: [usize; 3], made: [usize; 3], before: [usize; 2]) -> Self {
        let tiles = T::tiles(kernels);
        let panels: Vec<_> = cuts(made[2] / LANES, tiles.vectors()).collect();
        let most = tiles.matrix_rows(panels[0].len());
        let tiling = Tiling::new(made[0], made[1]);
        Self { tiles, read, made, before, pad_value: T::zero(), flipped: false, tiling, panels, most }
    }

    /// Images whose tiles are enough to fetch the weights for.
    pub(crate) fn images_together(&self) -> usize {
        FEWEST_TILES.div_ceil(self.tiling.len())
    }

    /// Lends the transformed weights, with an affine map.
    pub(crate) fn with_weights<R>(
        &self,
        w: &[T],
        out: ChannelAffine<'_, T>,
        visit: impl FnOnce(&[Line<T>]) -> R,
    ) -> R {
        with_lines(self.weight_lines(), |lines| {
            self.pack_into(w, out, lines);
            visit(lines)
        })
    }

    /// The transformed weights, with an affine map.
    pub(crate) fn pack(&self, w: &[T], out: ChannelAffine<'_, T>) -> Vec<Line<T>> {
        let mut lines = vec![Line([T::zero(); LANES]); self.weight_lines()];
        self.pack_into(w, out, &mut lines);
        lines
    }

    fn weight_lines(&self) -> usize {
        (PRODUCTS * self.read[2] + 2) * (self.made[2] / LANES)
    }

    fn pack_into(&self, w: &[T], out: ChannelAffine<'_, T>, lines: &mut [Line<T>]) {
        let vector_lines = PRODUCTS * self.read[2];
        let vectors = self.made[2] / LANES;
        let (mut rest, affine) = lines.split_at_mut(vector_lines * vectors);
        out.write(0..self.made[2], affine);
        let mut parts = Vec::with_capacity(self.panels.len());
        for panel in &self.panels {
            let (lines, after) = rest.split_at_mut(vector_lines * panel.len());
            parts.push((panel, lines));
            rest = after;
        }
        let channels = [self.read[2], self.made[2]];
        parts.into_par_iter().for_each(|(panel, lines)| {
            if self.flipped {
                vectorized(
                    #[inline(always)]
                    || pack_flipped(w, channels, panel, lines),
                );
            } else {
                vectorized(
                    #[inline(always)]
                    || pack_plain(w, channels, panel, lines),
                );
            }
        });
    }

    /// The weights of a panel, with its part of the affine map.
    fn panel<'l>(&self, vectors: &'l Range<usize>, lines: &'l [Line<T>]) -> Panel<'l, T> {
        let (each, all) = (PRODUCTS * self.read[2], self.made[2] / LANES);
        let (weights, affine) = lines.split_at(each * all);
        let affine = [0, all].map(|first| &affine[first + vectors.start..first + vectors.end]);
        Panel { vectors, weights: &weights[each * vectors.start..each * vectors.end], affine }
    }

    /// Makes all images.
    pub(crate) fn run(&self, x: &[T], weights: &[Line<T>], y: &mut [T]) {
        let images = y.len() / self.made.iter().product::<usize>();
        let parts = current_num_threads().div_ceil(images.max(1));
        let rows = self.tiling.rows().div_ceil(parts);
        self.for_each_part(images, rows, self.made[2], y, &|part, y| self.part(x, &part, weights, y));
    }

    /// Makes all images, and shows them to a visitor while they are in the cache.
    pub(crate) fn run_visited(&self, x: &[T], weights: &[Line<T>], y: &mut [T], visitor: Visitor<'_, T>) {
        let Visitor { together, visit, beside } = visitor;
        let [read, made] = [self.read, self.made].map(|extents| extents.iter().product::<usize>());
        if y.len() / made < current_num_threads() {
            self.run(x, weights, y);
            return visit_all(y, made, visitor);
        }
        let share = (y.len() / made).div_ceil(current_num_threads());
        let each = self.images_together().min(share).div_ceil(together) * together;
        let parts = y.par_chunks_mut(each * made).enumerate();
        parts.with_max_len(1).for_each(|(index, y)| {
            let images = x.chunks(each * read).nth(index).expect("as many images");
            let next = x.chunks(each * read).nth(index + 1).unwrap_or(&[]);
            let beside = beside.chunks(each * made).nth(index).unwrap_or(&[]);
            self.images(images, weights, y, false, Ahead::of([next, beside]));
            for (number, y) in y.chunks_mut(together * made).enumerate() {
                visit(index * each + number * together, y);
            }
        });
    }

    /// Makes all images piece by piece in a buffer, as [`Product::run_tiles`](crate::product::Product::run_tiles) does.
    pub(crate) fn run_tiles(
        &self,
        x: &[T],
        weights: &[Line<T>],
        pixels: usize,
        bytes: &mut [u8],
        visit: &Visit<'_, T>,
    ) {
        if pixels == 0 {
            return;
        }
        let [height, width, channels] = self.made;
        let (each, run) = (bytes.len() / pixels, (VISITED / channels).max(1));
        let rows = FEWEST_TILES.div_ceil(self.tiling.columns());
        self.for_each_part(pixels / (height * width), rows, each, bytes, &|part, bytes| {
            let first = (part.images.start * height + part.row) * width;
            let len = bytes.len() / each * channels;
            with_lines(len.div_ceil(LANES), |lines| {
                let numbers = &mut numbers_mut(lines)[..len];
                self.part(x, &part, weights, numbers);
                let runs = numbers.chunks_mut(run * channels).zip(bytes.chunks_mut(run * each));
                for (index, (numbers, bytes)) in runs.enumerate() {
                    visit(first + index * run, numbers, bytes);
                }
            });
        });
    }

    /// Cuts an output of `each` elements for every pixel into parts: images together where they are small, else so many rows of tiles.
    fn for_each_part<U: Send>(
        &self,
        images: usize,
        rows: usize,
        each: usize,
        output: &mut [U],
        visit: &(dyn Fn(Part, &mut [U]) + Sync),
    ) {
        if images == 0 {
            return;
        }
        let row_len = self.made[1] * each;
        let image_len = self.made[0] * row_len;
        let whole = rows >= self.tiling.rows();
        let share = images.div_ceil(current_num_threads());
        let together = if whole { self.images_together().min(share) } else { 1 };
        let parts = output.par_chunks_mut(together * image_len).enumerate();
        parts.with_max_len(1).for_each(|(index, output)| {
            let first = index * together;
            let images = first..first + output.len() / image_len;
            if whole {
                let tiles = 0..images.len() * self.tiling.len();
                return visit(Part { images, tiles, row: 0 }, output);
            }
            let bands = output.par_chunks_mut(2 * rows * row_len).enumerate();
            bands.for_each(|(band, output)| {
                let (first, end) = (band * rows, (band + 1) * rows);
                let [first_tile, end_tile] =
                    [first, end.min(self.tiling.rows())].map(|row| row * self.tiling.columns());
                let part = Part { images: images.clone(), tiles: first_tile..end_tile, row: 2 * first };
                visit(part, output);
            });
        });
    }

    fn part(&self, x: &[T], part: &Part, weights: &[Line<T>], y: &mut [T]) {
        let len: usize = self.read.iter().product();
        let x = &x[part.images.start * len..part.images.end * len];
        self.tiles(x, part, weights, y, false, Ahead::NOTHING);
    }

    /// The rows of the images that the windows of a part lie in: all of several images, so many of one.
    fn rows_read(&self, part: &Part) -> Range<usize> {
        let height = self.read[0];
        if part.images.len() > 1 {
            return 0..part.images.len() * height;
        }
        let inside = |row: usize| row.wrapping_sub(self.before[0]).cast_signed().clamp(0, height as isize);
        let last = (part.tiles.end - 1) / self.tiling.columns() * 2;
        inside(part.row).cast_unsigned()..inside(last + 4).cast_unsigned()
    }

    /// Makes some images, or adds them to what is there, and asks for what is read next.
    pub(crate) fn images(&self, x: &[T], weights: &[Line<T>], y: &mut [T], add: bool, ahead: Ahead<'_, T>) {
        let images = 0..y.len() / self.made.iter().product::<usize>();
        let part = Part { tiles: 0..images.len() * self.tiling.len(), images, row: 0 };
        self.tiles(x, &part, weights, y, add, ahead);
    }

    fn tiles(&self, x: &[T], part: &Part, weights: &[Line<T>], y: &mut [T], add: bool, ahead: Ahead<'_, T>) {
        let blocks = self.read[2] / LANES;
        let width = self.panels[0].len();
        let most = (RESIDENT_LINES / (PRODUCTS * (blocks + width))).max(FEWEST_TILES);
        let (rows, row_len) = (self.rows_read(part), self.read[1] * self.read[2]);
        let x = &x[rows.start * row_len..rows.end * row_len];
        Images::lend(x, self.read, rows.start, self.pad_value, |x| {
            let groups = cuts(part.tiles.len(), most);
            let count = groups.len();
            for (index, tiles) in groups.enumerate() {
                let rows = tiles.len().div_ceil(tiles.len().div_ceil(self.most));
                let tiles = part.tiles.start + tiles.start..part.tiles.start + tiles.end;
                let group = Group { tiles, rows, blocks };
                let ahead = ahead.part(index, count);
                let lines = PRODUCTS * (group.plane(blocks) + group.plane(width));
                with_lines(lines, |lines| {
                    let (windows, products) = lines.split_at_mut(PRODUCTS * group.plane(blocks));
                    self.windows(&x, &group, windows);
                    for (index, panel) in self.panels.iter().enumerate() {
                        let panel = self.panel(panel, weights);
                        let ahead = ahead.part(index, self.panels.len());
                        let ask = |index: usize| {
                            ahead.part(index, PRODUCTS).ask();
                            self.ask_for(index, &panel, &group, part.row, y);
                        };
                        self.multiply(&panel, &group, windows, products, ask);
                        self.pixels(&panel, &group, products, part.row, y, add);
                    }
                });
            }
        });
    }

    /// Asks for a sixteenth of the places that the pixels of a panel go to: a store waits for its line as a read does.
    fn ask_for(&self, part: usize, panel: &Panel<'_, T>, group: &Group, first_row: usize, y: &[T]) {
        let [height, width, channels] = self.made;
        let (first, len) = (panel.vectors.start * LANES, panel.vectors.len() * LANES);
        let each = group.tiles.len().div_ceil(PRODUCTS);
        let start = (group.tiles.start + part * each).min(group.tiles.end);
        let tiles = start..(start + each).min(group.tiles.end);
        for (image, [row, column]) in self.tiling.places(&tiles) {
            for i in 0..2.min(height - row) {
                for j in 0..2.min(width - column) {
                    let pixel = (image * height + row + i - first_row) * width + column + j;
                    prefetch(&y[pixel * channels + first..][..len]);
                }
            }
        }
    }

    /// Transforms the windows: for each product and each register tile, lines `[block, row]`.
    fn windows(&self, x: &Images<'_, T>, group: &Group, windows: &mut [Line<T>]) {
        for (at, (image, [row, column])) in self.tiling.places(&group.tiles).enumerate() {
            let first = [row.wrapping_sub(self.before[0]), column.wrapping_sub(self.before[1])];
            let (start, rows) = group.register_tile(at);
            let pixels = &x.window(image, first, &(0..group.blocks));
            let window = Window { pixels, product_step: group.plane(group.blocks), block_step: rows };
            self.tiles.image_windows(&window, &mut windows[start * group.blocks + at - start..]);
        }
    }

    /// The products of one panel: for each of sixteen, lines `[tile, vector]`. Before each, `ask` asks for what will be needed.
    fn multiply(
        &self,
        panel: &Panel<'_, T>,
        group: &Group,
        windows: &[Line<T>],
        products: &mut [Line<T>],
        ask: impl Fn(usize),
    ) {
        let width = panel.vectors.len();
        let planes = windows.chunks(group.plane(group.blocks)).zip(products.chunks_mut(group.plane(width)));
        let weights = panel.weights.chunks_exact(self.read[2] * width);
        for (index, (right, (windows, products))) in weights.zip(planes).enumerate() {
            ask(index);
            for first in (0..group.blocks).step_by(DEPTH) {
                let end = (first + DEPTH).min(group.blocks);
                let right = &right[first * LANES * width..end * LANES * width];
                for start in (0..group.tiles.len()).step_by(group.rows) {
                    let rows = group.rows.min(group.tiles.len() - start);
                    let left = &windows[start * group.blocks..][first * rows..end * rows];
                    let job = Job { rows, left, right, goes_on: first > 0 };
                    self.tiles.matrix(width, &job, &mut products[start * width..][..rows * width]);
                }
            }
        }
    }

    /// Makes pixels of the products of one panel, for images of which `y` begins with a row.
    fn pixels(
        &self,
        panel: &Panel<'_, T>,
        group: &Group,
        products: &[Line<T>],
        first_row: usize,
        y: &mut [T],
        add: bool,
    ) {
        let [height, width, channels] = self.made;
        let (first, vectors) = (panel.vectors.start * LANES, panel.vectors.len());
        let steps = [width * channels, channels];
        for (at, (image, [row, column])) in self.tiling.places(&group.tiles).enumerate() {
            let lines = &products[at * vectors..];
            let products = Products { lines, product_step: group.plane(vectors), affine: panel.affine };
            let pixel = (image * height + row - first_row) * width + column;
            let corner = Corner { steps, inside: [2.min(height - row), 2.min(width - column)], add };
            self.tiles.pixels(&products, &corner, &mut y[pixel * channels + first..]);
        }
    }
}

impl Group {
    /// The distance of two products' lines, of so many for each tile: an odd one, for those of one tile are written together and would else fall
    /// into few sets of the first cache.
    fn plane(&self, each: usize) -> usize {
        (self.tiles.len() * each) | 1
    }

    /// The first tile of the register tile of a tile, and its rows.
    #[inline(always)]
    fn register_tile(&self, at: usize) -> (usize, usize) {
        let start = at / self.rows * self.rows;
        (start, self.rows.min(self.tiles.len() - start))
    }
}
