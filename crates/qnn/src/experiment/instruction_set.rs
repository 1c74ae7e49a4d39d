use qnn_kernels::{Isa, Kernels};

use super::Error;

/// Refuses a `QNN_ISA` that the kernels would panic on; for programs, before they compute anything.
///
/// # Errors
///
/// [`Error::Flag`] if the variable names no instruction set, or one that this machine lacks.
pub fn check_instruction_set() -> Result<(), Error> {
    let Some(name) = std::env::var_os("QNN_ISA") else { return Ok(()) };
    let isa: Isa =
        name.to_string_lossy().parse().map_err(|error| Error::flag("QNN_ISA", format!("{error}")))?;
    match Kernels::of(isa) {
        Some(_) => Ok(()),
        None => {
            let has: Vec<_> = Isa::available().map(Isa::name).collect();
            Err(Error::flag("QNN_ISA", format!("this machine lacks {isa}, it has {}", has.join(", "))))
        }
    }
}
