//! The example programs.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A network small enough for many trainings, on data that are always there.
pub(crate) const SMALL: &str = "--depth 8 --data embedded --quiet";

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Programs beside the experiments: they share no flags with them.
pub(crate) const TOOLS: [&str; 4] = ["conv_system", "deploy", "predict", "quantize"];

/// The names of all examples: the folder is read, so that a new one is tested from its first day.
pub(crate) fn names() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    let programs =
        paths.filter(|path| path.extension() == Some(OsStr::new("rs")) || path.join("main.rs").is_file());
    let mut names: Vec<_> =
        programs.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.retain(|name| !TOOLS.contains(&name.as_str()));
    names.sort();
    assert!(!names.is_empty(), "{} holds no examples", folder.display());
    names
}

/// A command that runs an example, undisturbed by the environment of the tests.
pub(crate) fn command(example: &str) -> Command {
    let mut command = Command::new(program(example));
    // Whoever tests scalar kernels with QNN_ISA has other tests for it: here they would take an hour.
    command.env_remove("QNN_DATA").env_remove("QNN_ISA").env_remove("RAYON_NUM_THREADS");
    command
}

/// The program of an example: cargo puts it into `examples`, beside the `deps` of this test.
fn program(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test.ancestors().nth(2).expect("cargo puts tests two folders deep");
    let program = profile.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    assert!(program.is_file(), "{} is missing; {BUILD}", program.display());
    if let Some(source) = newer_source(&program) {
        panic!("{} is older than {source}; {BUILD}", program.display());
    }
    program
}

/// An old program would be tested in place of the code at hand.
const BUILD: &str = "`cargo test` builds the examples if it runs all tests, but not with --test, --examples or \
                     --all-targets: run `cargo build --examples` first, with --release if the tests have it";

/// A source that has changed since the program was built; cargo lists them beside it.
fn newer_source(program: &Path) -> Option<String> {
    let built = fs::metadata(program).and_then(|program| program.modified()).ok()?;
    let sources = fs::read_to_string(program.with_extension("d")).ok()?;
    let is_newer = |source: &&str| {
        let changed = fs::metadata(source).and_then(|source| source.modified());
        changed.is_ok_and(|changed| changed > built)
    };
    sources.split_whitespace().skip(1).find(is_newer).map(str::to_owned)
}

/// Runs an example with flags, divided at spaces, and files in `out`.
pub(crate) fn run(example: &str, flags: &str, out: &Path) -> Said {
    said(command(example).args(flags.split_whitespace()).arg("--out").arg(out))
}

/// Runs an example that must succeed.
pub(crate) fn run_well(example: &str, flags: &str, out: &Path) -> Said {
    let said = run(example, flags, out);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{example} {flags}");
    said
}

/// Runs any command to its end.
pub(crate) fn said(command: &mut Command) -> Said {
    Said::from(command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("an example prints text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Said {
    /// Asserts that the program refused, in one line without a panic, and named what is wrong.
    pub(crate) fn assert_refused(&self, code: i32, word: &str) {
        assert_eq!(self.out, "", "{self:?}");
        self.assert_named(code, word);
    }

    /// The same of a program that had said something before.
    pub(crate) fn assert_named(&self, code: i32, word: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.err.starts_with("error: ") && !self.err.contains("panicked"), "{self:?}");
        assert!(self.err.contains(word), "{word:?} is not in {self:?}");
    }
}
