//! The batches of one epoch, made ahead on another thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::{fmt, panic};

use crate::Batch;
use crate::loader::Plan;

/// Iterator over the batches of an epoch; see [`Loader::epoch`](crate::Loader::epoch).
///
/// Dropping it early ends the thread that prepares batches.
///
/// # Panics
/// [`next`](Iterator::next) carries on a panic of the preparing thread, which only a
/// [`buffer`](crate::LoaderConfig::buffer) that panics can cause.
pub struct Batches {
    maker: Maker,
    remaining: usize,
}

/// Who makes the batches.
enum Maker {
    /// The caller's thread, one by one.
    Here { plan: Arc<Plan>, epoch: u64, order: Vec<usize> },
    /// A thread that fills a bounded queue. The receiver goes first when dropped: that is the sign for the
    /// thread to end.
    Worker { queue: Option<Receiver<Batch>>, thread: Option<JoinHandle<()>> },
}

impl Batches {
    pub(crate) fn start(plan: Arc<Plan>, epoch: u64, first: usize) -> Self {
        let remaining = plan.batches().saturating_sub(first);
        let worker = (plan.prefetch() > 0 && remaining > 0)
            .then(|| Maker::spawn(Arc::clone(&plan), epoch, first))
            .flatten();
        let maker = worker.unwrap_or_else(|| Maker::Here { order: plan.order(epoch), plan, epoch });
        Self { maker, remaining }
    }
}

impl Maker {
    /// A worker, or nothing if the system has no thread to spare.
    fn spawn(plan: Arc<Plan>, epoch: u64, first: usize) -> Option<Self> {
        let (sender, queue) = sync_channel(plan.prefetch());
        let work = move || fill(&plan, epoch, first, &sender);
        let thread = thread::Builder::new().name("qnn-data".into()).spawn(work).ok()?;
        Some(Self::Worker { queue: Some(queue), thread: Some(thread) })
    }

    /// Ends the worker and returns its panic, if it had one.
    fn join(&mut self) -> thread::Result<()> {
        match self {
            Self::Worker { queue, thread } => {
                drop(queue.take());
                thread.take().map_or(Ok(()), JoinHandle::join)
            }
            Self::Here { .. } => Ok(()),
        }
    }
}

fn fill(plan: &Plan, epoch: u64, first: usize, queue: &SyncSender<Batch>) {
    let order = plan.order(epoch);
    for index in first..plan.batches() {
        if queue.send(plan.prepare(epoch, &order, index)).is_err() {
            return; // nobody waits any more
        }
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.remaining == 0 {
            return None;
        }
        let batch = match &mut self.maker {
            Maker::Here { plan, epoch, order } => {
                Some(plan.prepare(*epoch, order, plan.batches() - self.remaining))
            }
            Maker::Worker { queue, .. } => queue.as_ref().and_then(|queue| queue.recv().ok()),
        };
        self.remaining = if batch.is_some() { self.remaining - 1 } else { 0 };
        if self.remaining == 0
            && let Err(payload) = self.maker.join()
        {
            panic::resume_unwind(payload);
        }
        batch
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Batches {}

impl std::iter::FusedIterator for Batches {}

impl Drop for Batches {
    fn drop(&mut self) {
        // A panic of a worker whose batches nobody wants has reached standard error already.
        let _ = self.maker.join();
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}
