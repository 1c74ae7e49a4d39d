//! Integer convolutions as sums over taps: frames, panels of weights, bands of output rows.

use alloc::vec::Vec;
use core::ops::Range;

use super::ConvGeometry;
use super::dot_tile::{DotRow, Packing};
use super::unit_frame::{UnitForm, UnitFrame};
use crate::arch::DotTiles;
use crate::arch::bits::Bits;
use crate::line::{LANES, Line, blocks};
use crate::threads::{self, idle};
use crate::tile::Tap;

/// Pixels in a row of a flattened convolution: two full tiles of the widest kernels.
const FLAT_WIDTH: usize = 28;
/// Sums of a band that stay in a core's cache, at least and at most.
const BAND_SUMS: Range<usize> = 1 << 14..1 << 17;
/// Lines of weights that a core's own caches hold beside everything else.
const RESIDENT_LINES: usize = 1 << 14;
/// Multiply-accumulates below which a second thread costs more than it brings.
const PARALLEL_MACS: u64 = 1 << 20;

/// A convolution prepared for one packing: everything but the weights and what the sums start with.
#[derive(Debug)]
pub(crate) struct DotPlan {
    geometry: ConvGeometry,
    frame: UnitFrame,
    taps: Vec<Tap>,
    /// Whether all pixels form rows of [`FLAT_WIDTH`], whatever the images.
    flat: bool,
    depthwise: bool,
    /// Frame rows that one output row reads.
    extent: usize,
    /// Lines of weights of a block of output channels.
    depth: usize,
}

/// Where a plan's weights come from.
#[derive(Clone, Copy)]
pub(crate) enum Weights<'a> {
    /// The lines of every block of output channels, one block after the other.
    Lines(&'a [Line<u32>]),
    /// Writes the lines of these blocks.
    Unpacked(&'a WriteBlocks<'a>),
}

/// Writes the lines of some blocks of output channels.
pub(crate) type WriteBlocks<'a> = dyn Fn(Range<usize>, &mut [Line<u32>]) + Sync + 'a;

/// The operands of one run.
#[derive(Clone, Copy)]
pub(crate) struct DotJob<'a> {
    pub(crate) tiles: &'a DotTiles,
    /// For thresholds.
    pub(crate) bits: &'a Bits,
    pub(crate) weights: Weights<'a>,
    /// A line for each block of output channels.
    pub(crate) start: &'a [Line<i32>],
    pub(crate) x: &'a [u8],
}

/// Output rows of one image, and where their frame begins.
struct Piece {
    image: usize,
    rows: Range<usize>,
    /// Their number in the band.
    first: usize,
    line: usize,
}

/// As many blocks of output channels as a tile takes.
struct Panel {
    group: usize,
    blocks: Range<usize>,
    first_channel: usize,
    live: usize,
}

impl DotPlan {
    pub(crate) fn new(geometry: &ConvGeometry, packing: Packing, signed: bool, pad: u8) -> Self {
        let depthwise = geometry.is_depthwise();
        let units = UnitForm { packing, single: depthwise, signed };
        let flat = geometry.is_pointwise();
        let framed =
            if flat { ConvGeometry { height: 1, width: FLAT_WIDTH, ..*geometry } } else { *geometry };
        let reach = [0, 1].map(|axis| (geometry.kernel[axis] - 1) * geometry.dilation[axis]);
        let (groups, each) =
            if depthwise { (1, geometry.channels) } else { (geometry.groups, geometry.group_channels()) };
        let frame = UnitFrame {
            height: framed.height,
            width: framed.width,
            channels: geometry.channels,
            top: framed.padding.top,
            left: framed.padding.left,
            columns: framed.padding.left + framed.width + framed.padding.right,
            phases: geometry.stride[1],
            rows: (geometry.stride[0], reach[0] + 1),
            blocks: blocks(groups, each, units.channels() * LANES),
            units,
            pad,
        };
        let taps = taps(geometry, &frame, if depthwise { 1 } else { each });
        let depth = taps.iter().map(|tap| tap.channels).sum();
        Self { geometry: *geometry, frame, taps, flat, depthwise, extent: reach[0] + 1, depth }
    }

    pub(crate) fn form(&self) -> UnitForm {
        self.frame.units
    }

    /// Lines of weights of a block of output channels.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// The weights of channels `.. depth` as units: the block's lines, from the weight `w(tap, channel of the group, output channel)`.
    pub(crate) fn write_block(
        &self,
        block: &OutputBlock,
        w: impl Fn(usize, usize, usize) -> i8,
        lines: &mut [Line<u32>],
    ) {
        let each = if self.depthwise { 1 } else { self.geometry.group_channels() };
        let form = self.form();
        let units = each.div_ceil(form.channels());
        for (index, line) in lines[..self.depth].iter_mut().enumerate() {
            let (tap, first) = (index / units, index % units * form.channels());
            line.0 = [0; LANES];
            for (lane, unit) in line.0[..block.live].iter_mut().enumerate() {
                let channels = first..(first + form.channels()).min(each);
                for (at, channel) in channels.enumerate() {
                    let weight = w(tap, channel, block.first_channel + lane);
                    *unit |= match form.packing {
                        Packing::Quads => u32::from(weight.cast_unsigned()) << (8 * at),
                        Packing::Pairs => u32::from(i16::from(weight).cast_unsigned()) << (16 * at),
                    };
                }
            }
        }
    }

    /// Images in `x`.
    fn images(&self, x: &[u8]) -> usize {
        x.len() / (self.geometry.pixels() * self.geometry.channels)
    }

    /// Output pixels of all images, and how many make a row.
    fn extents(&self, x: &[u8]) -> (usize, usize) {
        if self.flat {
            (x.len() / self.geometry.channels, FLAT_WIDTH)
        } else {
            (self.images(x) * self.geometry.out_pixels(), self.geometry.out_width())
        }
    }

    /// The accumulators of all output pixels, in place.
    pub(crate) fn accumulate(&self, job: &DotJob<'_>, y: &mut [i32]) {
        self.for_bands(job, Rows { y, step: self.geometry.out_channels }, &|job, pixels, rows| {
            self.band(job, &pixels, rows.y);
        });
    }

    /// The accumulators of all output pixels, a band at a time, for `finish(pixels, accumulators, their part of the sink)`.
    pub(crate) fn run<S: Sink>(
        &self,
        job: &DotJob<'_>,
        sink: S,
        finish: impl Fn(Range<usize>, &[i32], S) + Sync,
    ) {
        self.for_bands(job, sink, &|job, pixels, part| {
            with_sums(pixels.len() * self.geometry.out_channels, |sums| {
                self.band(job, &pixels, sums);
                finish(pixels, sums, part);
            });
        });
    }

    fn for_bands<S: Sink>(
        &self,
        job: &DotJob<'_>,
        sink: S,
        band: &(impl Fn(&DotJob<'_>, Range<usize>, S) + Sync),
    ) {
        let (pixels, width) = self.extents(job.x);
        let rows = self.band_rows(pixels.div_ceil(width), width);
        let macs = self.images(job.x) as u64 * self.geometry.macs();
        let alone = threads::current_num_threads() == 1 || macs < PARALLEL_MACS;
        self.unpacked(job, pixels.div_ceil(rows * width), |job| {
            each_band(0..pixels, rows * width, alone, sink, &|pixels, part| band(job, pixels, part));
        });
    }

    /// The job with its weights unpacked, if several bands will read them and they stay in the cache that long.
    fn unpacked(&self, job: &DotJob<'_>, bands: usize, visit: impl FnOnce(&DotJob<'_>)) {
        let lines = job.start.len() * self.depth;
        match job.weights {
            Weights::Unpacked(write) if bands > 1 && lines <= RESIDENT_LINES => with_units(lines, |lines| {
                write(0..job.start.len(), lines);
                visit(&DotJob { weights: Weights::Lines(lines), ..*job });
            }),
            _ => visit(job),
        }
    }

    /// Rows in a band: so few that their sums stay in the cache, so many that the weights are worth their way through it, all bands alike.
    fn band_rows(&self, rows: usize, width: usize) -> usize {
        let sums = (self.geometry.weight_len() / 4).clamp(BAND_SUMS.start, BAND_SUMS.end);
        let most = (sums / (width * self.geometry.out_channels)).max(1);
        let threads = threads::current_num_threads();
        let bands = rows.div_ceil(most);
        // Bands for every thread, as many for each.
        let bands = if threads > 1 { bands.next_multiple_of(threads) } else { bands };
        rows.div_ceil(bands.max(1)).max(1)
    }

    /// One band: output rows from the beginning of one on, the last of them perhaps cut short.
    fn band(&self, job: &DotJob<'_>, pixels: &Range<usize>, sums: &mut [i32]) {
        let width = self.extents(job.x).1;
        let rows = pixels.start / width..pixels.end.div_ceil(width);
        let lines = self.pieces(rows.clone()).map(|piece| self.piece_lines(&piece)).sum();
        with_units(lines, |frame| {
            for piece in self.pieces(rows.clone()) {
                let image = match self.flat {
                    true => job.x,
                    false => &job.x[piece.image * self.frame.image_len()..][..self.frame.image_len()],
                };
                self.fill(&piece, image, &mut frame[piece.line..][..self.piece_lines(&piece)]);
            }
            let frame = &*frame;
            let unpacked = match job.weights {
                Weights::Lines(_) => 0,
                Weights::Unpacked(_) => self.depth * job.tiles.blocks(),
            };
            with_units(unpacked, |scratch| {
                self.for_panels(job.tiles, width, |panel| {
                    let weights = match job.weights {
                        Weights::Lines(lines) => {
                            &lines[panel.blocks.start * self.depth..panel.blocks.end * self.depth]
                        }
                        Weights::Unpacked(write) => {
                            let lines = &mut scratch[..panel.blocks.len() * self.depth];
                            write(panel.blocks.clone(), lines);
                            &*lines
                        }
                    };
                    for piece in self.pieces(rows.clone()) {
                        self.sweep(job, panel, weights, &piece, frame, width, sums);
                    }
                });
            });
        });
    }

    fn fill(&self, piece: &Piece, image: &[u8], lines: &mut [Line<u32>]) {
        if self.flat {
            // Rows of a flat frame are rows of one tall image.
            let row_len = FLAT_WIDTH * self.geometry.channels;
            for (row, lines) in piece.rows.clone().zip(lines.chunks_exact_mut(self.frame.row_lines())) {
                let start = (row * row_len).min(image.len());
                self.frame.fill(0..1, &image[start..(start + row_len).min(image.len())], lines);
            }
        } else {
            let first = piece.rows.start * self.geometry.stride[0];
            self.frame.fill(first..first + lines.len() / self.frame.row_lines(), image, lines);
        }
    }

    /// The pieces of a band, image by image.
    fn pieces(&self, rows: Range<usize>) -> impl Iterator<Item = Piece> {
        let height = if self.flat { usize::MAX } else { self.geometry.out_height() };
        let (mut next, mut line) = (rows.start, 0);
        core::iter::from_fn(move || {
            (next < rows.end).then(|| {
                let (image, row) = (next / height, next % height);
                let count = (rows.end - next).min(height - row);
                let piece = Piece { image, rows: row..row + count, first: next - rows.start, line };
                next += count;
                line += self.piece_lines(&piece);
                piece
            })
        })
    }

    fn piece_lines(&self, piece: &Piece) -> usize {
        ((piece.rows.len() - 1) * self.geometry.stride[0] + self.extent) * self.frame.row_lines()
    }

    /// Cuts the output channels into panels, as wide as the tiles take them.
    fn for_panels(&self, tiles: &DotTiles, width: usize, mut visit: impl FnMut(&Panel)) {
        let geometry = &self.geometry;
        let (groups, each) = if self.depthwise {
            (1, geometry.out_channels)
        } else {
            (geometry.groups, geometry.group_outputs())
        };
        // Narrow images fill the registers with output channels instead of pixels.
        let most = match self.depthwise {
            true => 1,
            false => tiles.blocks().min(if width <= 9 { 3 } else { 2 }),
        };
        let count = each.div_ceil(LANES);
        for group in 0..groups {
            let mut first = 0;
            while first < count {
                let taken = (count - first).min(most);
                visit(&Panel {
                    group: if self.depthwise { first } else { group },
                    blocks: group * count + first..group * count + first + taken,
                    first_channel: group * each + first * LANES,
                    live: (each - first * LANES).min(taken * LANES),
                });
                first += taken;
            }
        }
    }

    /// One panel of output channels over the rows of one piece.
    #[allow(clippy::too_many_arguments)] // Everything that a panel and a piece come from.
    fn sweep(
        &self,
        job: &DotJob<'_>,
        panel: &Panel,
        weights: &[Line<u32>],
        piece: &Piece,
        frame: &[Line<u32>],
        width: usize,
        sums: &mut [i32],
    ) {
        let channels = self.geometry.out_channels;
        let groups = if self.depthwise { self.frame.blocks.len() } else { self.geometry.groups };
        let group_lines = self.frame.row_lines() / groups * panel.group;
        // While weights come from beyond the core's own caches, rows ask for those of the panel after this one.
        let next = match job.weights {
            Weights::Lines(lines) if lines.len() > RESIDENT_LINES => {
                let after = &lines[panel.blocks.end * self.depth..];
                &after[..after.len().min(weights.len())]
            }
            _ => &[],
        };
        let share = next.len().div_ceil(piece.rows.len());
        for (index, row) in piece.rows.clone().enumerate() {
            let frame_row = (row - piece.rows.start) * self.geometry.stride[0];
            let y = &mut sums[(piece.first + index) * width * channels..];
            let row = DotRow {
                image: &frame[piece.line + frame_row * self.frame.row_lines() + group_lines..],
                taps: &self.taps,
                weights,
                depth: self.depth,
                start: &job.start[panel.blocks.clone()],
                // The last row of a flat image may be short.
                pixels: width.min(y.len() / channels),
                next: next.get(index * share..).map_or(&[], |next| &next[..share.min(next.len())]),
                next_step: share.div_ceil(self.taps.len()).max(1),
                pixel_step: channels,
                live: panel.live,
            };
            let y = &mut y[panel.first_channel..];
            if self.depthwise {
                job.tiles.elementwise(&row, y);
            } else {
                job.tiles.row(panel.blocks.len(), &row, y);
            }
        }
    }
}

/// Cuts pixels into bands of at most `most`, on as many threads as there are unless `alone`.
fn each_band<S: Sink>(
    pixels: Range<usize>,
    most: usize,
    alone: bool,
    sink: S,
    band: &(impl Fn(Range<usize>, S) + Sync),
) {
    let bands = pixels.len().div_ceil(most);
    if alone {
        let (mut sink, mut start) = (sink, pixels.start);
        while start < pixels.end {
            let end = pixels.end.min(start + most);
            let (part, rest) = sink.split_at(end - start);
            band(start..end, part);
            (sink, start) = (rest, end);
        }
    } else if bands == 1 {
        band(pixels, sink);
    } else if bands > 1 {
        let first = bands / 2 * most;
        let (before, after) = sink.split_at(first);
        let (left, right) = (pixels.start..pixels.start + first, pixels.start + first..pixels.end);
        threads::join(
            || each_band(left, most, alone, before, band),
            || each_band(right, most, alone, after, band),
        );
    }
}

/// What the results of output pixels are written to, in parts.
pub(crate) trait Sink: Send + Sized {
    /// The part of the first pixels, and the rest.
    fn split_at(self, pixels: usize) -> (Self, Self);
}

/// `step` elements for each pixel.
pub(crate) struct Rows<'a, Y> {
    pub(crate) y: &'a mut [Y],
    pub(crate) step: usize,
}

impl<Y: Send> Sink for Rows<'_, Y> {
    fn split_at(self, pixels: usize) -> (Self, Self) {
        let (first, rest) = self.y.split_at_mut(pixels * self.step);
        (Self { y: first, ..self }, Self { y: rest, ..self })
    }
}

/// Elements of two kinds for each pixel.
pub(crate) struct Both<'a, A, B>(pub(crate) Rows<'a, A>, pub(crate) Rows<'a, B>);

impl<A: Send, B: Send> Sink for Both<'_, A, B> {
    fn split_at(self, pixels: usize) -> (Self, Self) {
        let ((first, rest), (second, remaining)) = (self.0.split_at(pixels), self.1.split_at(pixels));
        (Self(first, second), Self(rest, remaining))
    }
}

/// Sixteen output channels of one group.
pub(crate) struct OutputBlock {
    pub(crate) first_channel: usize,
    pub(crate) live: usize,
}

/// The blocks of output channels, in the order of a plan's weights.
pub(crate) fn output_blocks(geometry: &ConvGeometry) -> impl Iterator<Item = OutputBlock> {
    let (groups, each) = match geometry.is_depthwise() {
        true => (1, geometry.out_channels),
        false => (geometry.groups, geometry.group_outputs()),
    };
    (0..groups).flat_map(move |group| {
        (0..each).step_by(LANES).map(move |first| OutputBlock {
            first_channel: group * each + first,
            live: (each - first).min(LANES),
        })
    })
}

/// Every kernel position and block of `each` summed channels.
fn taps(geometry: &ConvGeometry, frame: &UnitFrame, each: usize) -> Vec<Tap> {
    let per_line = frame.units.channels() * LANES;
    let [height, width] = geometry.kernel;
    let [down, right] = geometry.dilation;
    let (mut taps, mut weights) = (Vec::new(), 0);
    for (kh, kw) in (0..height).flat_map(|kh| (0..width).map(move |kw| (kh, kw))) {
        for (block, first) in (0..each).step_by(per_line).enumerate() {
            let channels = (each - first).min(per_line).div_ceil(frame.units.channels());
            let line = kh * down * frame.row_lines() + frame.line(block, kw * right);
            taps.push(Tap { line, weights, channels });
            weights += channels;
        }
    }
    taps
}

// Buffers that outlive a call, as for the `f32` kernels.
idle!(units: Vec<Vec<Line<u32>>>);
idle!(sums: Vec<Vec<i32>>);

/// Lends `len` lines of units with unspecified contents.
fn with_units<R>(len: usize, visit: impl FnOnce(&mut [Line<u32>]) -> R) -> R {
    let mut lines = units(Vec::pop).unwrap_or_default();
    if lines.len() < len {
        lines.resize(len, Line([0; LANES]));
    }
    let result = visit(&mut lines[..len]);
    units(|idle| idle.push(lines));
    result
}

/// Lends `len` sums with unspecified contents.
fn with_sums<R>(len: usize, visit: impl FnOnce(&mut [i32]) -> R) -> R {
    let mut lent = sums(Vec::pop).unwrap_or_default();
    if lent.len() < len {
        lent.resize(len, 0);
    }
    let result = visit(&mut lent[..len]);
    sums(|idle| idle.push(lent));
    result
}
