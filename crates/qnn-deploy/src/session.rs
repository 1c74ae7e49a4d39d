use std::time::{Duration, Instant};

use qnn_data::Normalize;
use rayon::prelude::*;

use crate::memory::Memory;
use crate::plan::Plan;
use crate::program::{Normalization, Program};
use crate::run::StageRun;
use crate::{Error, Result};

/// A program ready to run, with its weights in the kernels' forms and memory for the values between
/// stages.
///
/// Runs on rayon's current pool: images are divided among its threads, and a single image among the
/// threads inside of the kernels. The results are the same for any number of threads, and those of
/// the model in evaluation, bit for bit. A value that overflows f32 is the exception: what follows
/// an infinity is not compared.
///
/// After the first run with a number of images nothing is allocated, but by a thread of the pool that had no part in it.
#[derive(Debug)]
pub struct Session {
    stages: Vec<StageRun>,
    plan: Plan,
    image: usize,
    outputs: usize,
    output_slot: usize,
    /// For each channel, or once for all, the number of each byte.
    bytes: Option<Vec<[f32; 256]>>,
    /// How many images go through all stages together.
    group: usize,
    memories: Vec<Memory>,
}

/// Images `[n, height, width, channels]`, as numbers or as bytes.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a> {
    /// Numbers as in training, normalised.
    Numbers(&'a [f32]),
    /// Pixels from 0 to 255, which the session normalises as training did.
    Bytes(&'a [u8]),
}

/// Images that go through all stages together should find their values in the cache.
const CACHE: usize = 1 << 20;

/// More images than this at once gain nothing.
const MOST_IMAGES: usize = 64;

impl Session {
    /// Prepares a program.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] if its parts do not fit together, as in a forged file; [`Error::Data`] if its
    /// normalisation is none, or for another number of channels.
    ///
    /// # Panics
    ///
    /// As [`Kernels::current`](qnn_kernels::Kernels::current), if `QNN_ISA` is no instruction set of this machine.
    pub fn new(program: &Program) -> Result<Self> {
        program.check()?;
        let plan = Plan::new(program);
        let stages = (0..program.stages.len()).map(|stage| StageRun::new(program, &plan, stage));
        let stages = stages.collect::<Result<_>>()?;
        let channels = program.input_shape()[2];
        Ok(Self {
            stages,
            image: program.values[0].len(),
            outputs: program.outputs(),
            output_slot: plan.of[program.output],
            bytes: program.normalization.as_ref().map(|n| n.tables(channels)).transpose()?,
            group: (CACHE as u64 / plan.bytes().max(1)).clamp(1, MOST_IMAGES as u64) as usize,
            plan,
            memories: Vec::new(),
        })
    }

    /// Writes the logits `[n, outputs]` of the images.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if the images are no whole ones or the logits not as many,
    /// [`Error::Image`] for a NaN or an infinity, [`Error::NoNormalization`] for bytes where the
    /// program does not say how they become numbers. The logits are unspecified then.
    pub fn run_into<'i>(&mut self, images: impl Into<Images<'i>>, logits: &mut [f32]) -> Result<()> {
        let images = images.into();
        let count = self.check(&images, logits.len())?;
        if count > 0 {
            // Into the pool once, not once for each stage, where the caller is none of its threads.
            rayon::scope(|_| self.run_shares(images, count, logits));
        }
        Ok(())
    }

    /// Divides the images among the threads.
    fn run_shares(&mut self, images: Images<'_>, count: usize, logits: &mut [f32]) {
        // Each thread takes a run of whole groups; which one takes which changes no result.
        let threads = rayon::current_num_threads().min(count);
        let share = count.div_ceil(threads);
        if self.memories.len() < threads {
            self.memories.resize_with(threads, Memory::default);
        }
        let mut memories = std::mem::take(&mut self.memories);
        let serve = |(i, (logits, memory)): (usize, (&mut [f32], &mut Memory))| {
            let share_of = images.part(i * share * self.image..((i + 1) * share).min(count) * self.image);
            self.run_groups(share_of, memory, logits);
        };
        let outputs = self.outputs;
        if threads == 1 {
            serve((0, (logits, &mut memories[0])));
        } else {
            logits.par_chunks_mut(share * outputs).zip(memories.par_iter_mut()).enumerate().for_each(serve);
        }
        self.memories = memories;
    }

    /// The logits of the images, `[n, outputs]`.
    ///
    /// # Errors
    ///
    /// As [`run_into`](Session::run_into).
    pub fn run<'i>(&mut self, images: impl Into<Images<'i>>) -> Result<Vec<f32>> {
        let images = images.into();
        let mut logits = vec![0.0; images.len() / self.image * self.outputs];
        self.run_into(images, &mut logits)?;
        Ok(logits)
    }

    /// Outputs per image.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Runs all images through one stage after the other and shows each stage with its memory before
    /// and after it.
    pub(crate) fn observe(
        &mut self,
        images: Images<'_>,
        mut see: impl FnMut(usize, &StageRun, &Memory, Moment),
    ) -> Result<usize> {
        let count = self.check(&images, images.len() / self.image * self.outputs)?;
        let mut memory = Memory::default();
        memory.reserve(&self.plan.slots, count);
        self.fill(images, memory.floats_mut(0, count * self.image));
        for (i, stage) in self.stages.iter().enumerate() {
            see(i, stage, &memory, Moment::Before);
            stage.run(&mut memory, count);
            see(i, stage, &memory, Moment::After);
        }
        Ok(count)
    }

    /// How long each stage takes for these images, added over groups that run one after the other:
    /// for finding out where the time goes.
    ///
    /// # Errors
    ///
    /// As [`run_into`](Session::run_into).
    pub fn profile<'i>(&mut self, images: impl Into<Images<'i>>) -> Result<Vec<Duration>> {
        let images = images.into();
        let count = self.check(&images, images.len() / self.image * self.outputs)?;
        let mut memory = self.memories.pop().unwrap_or_default();
        memory.reserve(&self.plan.slots, self.group.min(count));
        let mut times = vec![Duration::ZERO; self.stages.len()];
        for first in (0..count).step_by(self.group) {
            let images = images.part(first * self.image..(first + self.group).min(count) * self.image);
            let count = images.len() / self.image;
            self.fill(images, memory.floats_mut(0, count * self.image));
            for (stage, time) in self.stages.iter().zip(&mut times) {
                let start = Instant::now();
                stage.run(&mut memory, count);
                *time += start.elapsed();
            }
        }
        self.memories.push(memory);
        Ok(times)
    }

    fn check(&self, images: &Images<'_>, logits: usize) -> Result<usize> {
        let (got, count) = (images.len(), images.len() / self.image);
        if got != count * self.image {
            let expected = format!("a multiple of {}, the elements of an image", self.image);
            return Err(Error::Length { what: "images", got, expected });
        }
        if logits != count * self.outputs {
            let expected = format!("{} for each of {count} images", self.outputs);
            return Err(Error::Length { what: "logits", got: logits, expected });
        }
        match images {
            Images::Bytes(_) if self.bytes.is_none() => Err(Error::NoNormalization),
            Images::Bytes(_) => Ok(count),
            Images::Numbers(numbers) => match numbers.iter().position(|x| !x.is_finite()) {
                None => Ok(count),
                Some(at) => {
                    let (image, element) = (at / self.image, at % self.image);
                    Err(Error::Image { image, element, value: numbers[at] })
                }
            },
        }
    }

    fn run_groups(&self, images: Images<'_>, memory: &mut Memory, logits: &mut [f32]) {
        memory.reserve(&self.plan.slots, self.group.min(logits.len() / self.outputs));
        for (i, logits) in logits.chunks_mut(self.group * self.outputs).enumerate() {
            let count = logits.len() / self.outputs;
            let first = i * self.group * self.image;
            self.fill(
                images.part(first..first + count * self.image),
                memory.floats_mut(0, count * self.image),
            );
            self.stages.iter().for_each(|stage| stage.run(memory, count));
            logits.copy_from_slice(memory.floats(self.output_slot, logits.len()));
        }
    }

    fn fill(&self, images: Images<'_>, numbers: &mut [f32]) {
        match (images, &self.bytes) {
            (Images::Numbers(images), _) => numbers.copy_from_slice(images),
            (Images::Bytes(images), Some(tables)) if tables.len() == 1 => {
                let pixels = numbers.iter_mut().zip(images);
                pixels.for_each(|(x, &byte)| *x = tables[0][usize::from(byte)]);
            }
            (Images::Bytes(images), Some(tables)) => {
                let pixels = numbers.chunks_exact_mut(tables.len()).zip(images.chunks_exact(tables.len()));
                for (numbers, bytes) in pixels {
                    let channels = numbers.iter_mut().zip(bytes).zip(tables);
                    channels.for_each(|((x, &byte), table)| *x = table[usize::from(byte)]);
                }
            }
            (Images::Bytes(_), None) => unreachable!("the images were checked"),
        }
    }
}

/// When an observer sees a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

impl<'a> Images<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(images) => images.len(),
            Self::Bytes(images) => images.len(),
        }
    }

    fn part(&self, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::Numbers(images) => Self::Numbers(&images[range]),
            Self::Bytes(images) => Self::Bytes(&images[range]),
        }
    }
}

impl<'a> From<&'a [f32]> for Images<'a> {
    fn from(images: &'a [f32]) -> Self {
        Self::Numbers(images)
    }
}

impl<'a> From<&'a [u8]> for Images<'a> {
    fn from(images: &'a [u8]) -> Self {
        Self::Bytes(images)
    }
}

impl Normalization {
    /// The number of each byte, for each of so many channels or once for all of them: channels may be many.
    pub(crate) fn tables(&self, channels: usize) -> Result<Vec<[f32; 256]>> {
        let normalize = Normalize::new(self.mean.clone(), self.std.clone())?;
        Ok(normalize.tables(if self.mean.len() == 1 { 1 } else { channels })?)
    }
}
