//! A packed convolution over a batch: which thread computes what, in which order.

use core::ops::Range;

use super::Output;
use super::depthwise::{self, Filters, LINES};
use super::plan::{Packed, Plan};
use super::scratch::{Scratch, grown, with_scratch};
use super::stage::Part;
use super::tile::Row;
use super::weights::Weights;
use crate::arch::bits::Bits;
use crate::line::{Block, Line};
use crate::threads;

/// Words that a tile takes below which one thread is faster than two: some microseconds.
const WORTH_SHARING: usize = 1 << 15;
/// Words of a frame that a core's first cache holds beside the weights.
const RESIDENT_WORDS: usize = 1 << 12;
/// Output pixels that weights of one panel are used for before the next takes their place.
const RUN_PIXELS: usize = 256;

/// The rows of all images, cut into bands.
struct Job<'a> {
    plan: &'a Plan,
    bits: &'a Bits,
    x: &'a [u8],
    /// Output pixels of all images.
    pixels: usize,
    /// Output rows and columns of an image.
    rows: usize,
    columns: usize,
    /// Rows in a band, bands in an image.
    band: usize,
    bands: usize,
    parallel: bool,
}

impl Plan {
    /// Computes `pixels` output pixels.
    pub(crate) fn run(&self, bits: &Bits, x: &[u8], pixels: usize, out: Output<'_>) {
        if pixels == 0 {
            return;
        }
        let columns = self.geometry.out_width();
        let rows = if self.flat { pixels.div_ceil(columns) } else { self.geometry.out_height() };
        let images = pixels.div_ceil(rows * columns);
        let threads = threads::current_num_threads();
        let band = self.band_rows(rows, columns, images, threads);
        let bands = rows.div_ceil(band);
        let job = Job { plan: self, bits, x, pixels, rows, columns, band, bands, parallel: threads > 1 };
        job.share(0..images * bands, Part { out, pixels, channels: self.geometry.out_channels });
    }

    /// Rows in a band: all of the image, unless it is too large for the cache or threads would idle.
    fn band_rows(&self, rows: usize, columns: usize, images: usize, threads: usize) -> usize {
        let row_work = columns * self.taps.len() * self.panels.len();
        let parts = if threads > 1 { (4 * threads).div_ceil(images) } else { 1 };
        let shared = rows.div_ceil(parts).max(WORTH_SHARING.div_ceil(row_work.max(1)));
        let resident = RESIDENT_WORDS / (self.frame.row_words() * self.geometry.stride[0]).max(1);
        let reach = (self.geometry.kernel[0] - 1) * self.geometry.dilation[0];
        shared.min(resident.max(2 * reach).max(RUN_PIXELS.div_ceil(columns))).clamp(1, rows)
    }
}

impl Job<'_> {
    /// The first output pixel of a band, counted over the batch.
    fn first_pixel(&self, band: usize) -> usize {
        let row = band / self.bands * self.rows + (band % self.bands * self.band).min(self.rows);
        (row * self.columns).min(self.pixels)
    }

    fn share(&self, bands: Range<usize>, part: Part<'_>) {
        if bands.len() == 1 {
            return with_scratch(|scratch| self.band(bands.start, part, scratch));
        }
        let middle = bands.start + bands.len() / 2;
        let (left, right) = part.split_at(self.first_pixel(middle) - self.first_pixel(bands.start));
        let (first, second) = (bands.start..middle, middle..bands.end);
        if self.parallel {
            threads::join(|| self.share(first, left), || self.share(second, right));
        } else {
            self.share(first, left);
            self.share(second, right);
        }
    }

    fn band(&self, band: usize, mut part: Part<'_>, scratch: &mut Scratch) {
        let (plan, geometry) = (self.plan, &self.plan.geometry);
        let first_row = band % self.bands * self.band;
        let rows = first_row..(first_row + self.band).min(self.rows);
        let reach = (geometry.kernel[0] - 1) * geometry.dilation[0];
        let framed = rows.start * geometry.stride[0]..(rows.end - 1) * geometry.stride[0] + reach + 1;
        let words = grown(&mut scratch.frame, framed.len() * plan.frame.row_words(), 0);
        let dealt = grown(&mut scratch.dealt, plan.frame.dealt_words(), 0);
        self.bits.fill(&plan.frame, framed, self.image(band / self.bands), [words, dealt]);
        let run = (part.run_pixels(RUN_PIXELS) / self.columns).max(1);
        for start in rows.clone().step_by(run) {
            let skipped = start - rows.start;
            let count = (run.min(rows.end - start) * self.columns).min(part.pixels - skipped * self.columns);
            let pixels = skipped * self.columns..skipped * self.columns + count;
            let mut visit = part.open(pixels, self.first_pixel(band), &mut scratch.rows);
            let words = &words[skipped * geometry.stride[0] * plan.frame.row_words()..];
            self.panels(start, words, grown(&mut scratch.acc, LINES * count, Line([0; 16])), |panel, acc| {
                visit.panel(self.bits, panel, acc, &mut scratch.masks);
            });
            visit.close();
        }
    }

    /// Visits the accumulators of every panel for the output rows from `first_row` on. `acc` has room for the panels of one word.
    fn panels(
        &self,
        first_row: usize,
        frame: &[u64],
        acc: &mut [Line<i32>],
        mut visit: impl FnMut(Block, &[Line<i32>]),
    ) {
        let (plan, count) = (self.plan, acc.len() / LINES);
        match &plan.weights {
            Packed::Dense(weights) => {
                let acc = &mut acc[..count];
                for (index, panel) in plan.panels.iter().enumerate() {
                    self.rows(weights, index, first_row, frame, acc);
                    visit(*panel, acc);
                }
            }
            Packed::Depthwise(filters) => {
                for (word, panels) in plan.panels.chunks(LINES).enumerate() {
                    self.depthwise_rows(filters, word, first_row, frame, acc);
                    panels.iter().zip(acc.chunks_exact(count)).for_each(|(panel, acc)| visit(*panel, acc));
                }
            }
        }
    }

    fn image(&self, index: usize) -> &[u8] {
        if self.plan.flat {
            return self.x;
        }
        let bytes = self.plan.layout.bytes_for(self.plan.geometry.pixels());
        &self.x[index * bytes..][..bytes]
    }

    /// The accumulators of one panel in the output rows from `first_row` on, as many as `acc` holds.
    fn rows(&self, weights: &Weights, panel: usize, first_row: usize, frame: &[u64], acc: &mut [Line<i32>]) {
        let (plan, step) = (self.plan, self.plan.geometry.stride[0] * self.plan.frame.row_words());
        let group = plan.panels[panel].group * plan.frame.group_words();
        for (index, acc) in acc.chunks_mut(self.columns).enumerate() {
            let row = Row {
                words: &frame[index * step + group..],
                taps: &plan.taps,
                levels: &plan.levels,
                shift: plan.shift,
                panel: weights.panel(panel),
                offsets: plan.border.offsets(panel, first_row + index),
                classes: &plan.border.columns,
            };
            self.bits.row(weights.masked, &row, acc);
        }
    }

    /// The same for a word of channels that have a filter each: line after line of channels.
    fn depthwise_rows(
        &self,
        filters: &Filters,
        word: usize,
        first_row: usize,
        frame: &[u64],
        acc: &mut [Line<i32>],
    ) {
        let (plan, step) = (self.plan, self.plan.geometry.stride[0] * self.plan.frame.row_words());
        let pitch = acc.len() / LINES;
        for (index, first) in (0..pitch).step_by(self.columns).enumerate() {
            let offsets = |line| {
                let panel = LINES * word + line;
                if panel < plan.panels.len() { plan.border.offsets(panel, first_row + index) } else { &[] }
            };
            let row = depthwise::Row {
                words: &frame[index * step + word * plan.frame.word_step()..],
                taps: &plan.taps,
                levels: &plan.levels,
                weights: &filters.weights[word * filters.each..][..filters.each],
                digits: filters.digits,
                shift: plan.shift,
                offsets: core::array::from_fn(offsets),
                classes: &plan.border.columns[..self.columns.min(pitch - first)],
                pitch,
            };
            self.bits.depthwise(&row, first, acc);
        }
    }
}
