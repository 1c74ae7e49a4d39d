use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A wish to stop, shared between whoever may wish it (a Ctrl-C handler, another thread) and the
/// training loop, which looks at it before each batch, saves a checkpoint and returns.
///
/// ```
/// let stop = qnn_train::Stop::new();
/// let handle = stop.clone();
/// std::thread::spawn(move || handle.request()).join().unwrap();
/// assert!(stop.is_requested());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// No wish yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the training loop to stop. Returns whether it had been asked before: a second Ctrl-C
    /// may then end the process at once.
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Whether someone asked.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_is_told_from_the_first() {
        let stop = Stop::new();
        assert!(!stop.is_requested());
        assert!(!stop.request());
        assert!(stop.clone().request());
    }
}
