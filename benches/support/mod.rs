//! What all benches share: two profiles on one command line.

use std::time::Duration;

use criterion::Criterion;

/// How long a figure may take.
#[derive(Clone, Copy)]
pub(crate) struct Profile {
    /// Samples in the quick profile; the full one takes a hundred.
    pub(crate) samples: usize,
    /// Seconds to spend on a figure, quick and full.
    pub(crate) seconds: [f64; 2],
}

/// Criterion set up by the command line: quick by default, the profile for figures to publish after
/// `--full`, and any other word is a part of the names to run.
pub(crate) fn criterion(profile: Profile) -> Criterion {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let full = is_full();
    let seconds = Duration::from_secs_f64(profile.seconds[usize::from(full)]);
    let criterion = Criterion::default()
        .sample_size(if full { 100 } else { profile.samples })
        .measurement_time(seconds)
        .warm_up_time(seconds / 4);
    match arguments.iter().find(|argument| !argument.starts_with("--")) {
        Some(filter) => criterion.with_filter(filter),
        None => criterion,
    }
}

/// Whether the command line asks for the full profile.
fn is_full() -> bool {
    std::env::args().any(|argument| argument == "--full")
}
