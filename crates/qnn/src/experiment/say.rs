use std::fmt::Display;
use std::io::Write;

/// Prints a line to the standard output. Unlike `println!` it goes on in silence when nobody reads the other end of a pipe
/// any more: work that is not done yet must not be lost for it.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
