//! What holds of every experiment, seen from outside: the example programs are run as a user runs
//! them, and their files are compared.
//!
//! They must be built, which `cargo test` does if it runs all tests. For these alone:
//!
//! ```text
//! cargo build --examples && cargo test --test laws
//! ```

#[path = "laws/command_line.rs"]
mod command_line;
#[path = "laws/exactness.rs"]
mod exactness;
#[path = "laws/example.rs"]
mod example;
#[path = "laws/family.rs"]
mod family;
#[path = "laws/interruption.rs"]
mod interruption;
#[path = "laws/outputs.rs"]
mod outputs;
#[path = "laws/pytorch.rs"]
mod pytorch;
#[path = "laws/quantize.rs"]
mod quantize;
#[path = "laws/smoke.rs"]
mod smoke;
