//! A training that is killed or stopped goes on as if nothing had happened.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use qnn::train::Checkpoint;
use tempfile::TempDir;

use crate::example::{SMALL, Said, command, run, run_well};
use crate::outputs::{Outputs, epochs, rows};

const EXAMPLE: &str = "resnet20_bc";

fn flags() -> String {
    format!("{SMALL} --limit 200 --epochs 3 --batch 20")
}

/// The same run without an interruption.
fn uninterrupted() -> &'static Outputs {
    static OUTPUTS: OnceLock<Outputs> = OnceLock::new();
    OUTPUTS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        run_well(EXAMPLE, &flags(), folder.path());
        Outputs::of(folder.path())
    })
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let (folder, said) = stopped_in_the_second_epoch(|child| child.kill().unwrap());
    let out = folder.path();
    assert_eq!(said.out, "");
    assert_unfinished(out);
    let checkpoint = fs::read(out.join("checkpoint.safetensors")).unwrap();
    run(EXAMPLE, &flags(), out).assert_refused(2, "--resume");
    assert!(checkpoint == fs::read(out.join("checkpoint.safetensors")).unwrap(), "a refusal changes nothing");
    assert_resumes(out);
}

#[cfg(unix)]
#[test]
fn a_run_stopped_by_ctrl_c_saves_and_resumes_to_the_same_bits() {
    let (folder, said) = stopped_in_the_second_epoch(interrupt);
    assert_eq!((said.code, said.out.as_str()), (Some(130), ""), "{said:?}");
    assert!(said.err.contains("saving after this batch"), "{said:?}");
    assert_unfinished(folder.path());
    let progress = Checkpoint::load(folder.path().join("checkpoint.safetensors")).unwrap().progress;
    assert!(
        progress.epoch == 1 && progress.batch > 0,
        "{progress:?} is not in the middle of the second epoch"
    );
    assert_resumes(folder.path());
}

/// As a shell does at Ctrl-C.
#[cfg(unix)]
fn interrupt(child: &mut Child) {
    let kill = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
}

#[test]
fn what_resuming_finds_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let said = |flags: &str| {
        let said =
            run(EXAMPLE, &format!("--depth 8 --data embedded --limit 16 --batch 8 --epochs 1 {flags}"), out);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.err
    };
    let fresh = format!("no checkpoint in {}: starting from the beginning", out.display());
    let (first, again) = (said("--resume"), said("--resume"));
    assert!(first.contains(&fresh) && !first.contains("finished"), "{first}");
    assert!(again.contains("the run is already finished") && !again.contains(&fresh), "{again}");
    let plain = said("");
    assert!(plain.contains("the run is already finished") && !plain.contains(&fresh), "{plain}");
}

fn assert_unfinished(out: &Path) {
    for name in ["result.json", "model.safetensors"] {
        assert!(!out.join(name).exists(), "{name} belongs to finished runs");
    }
}

fn assert_resumes(out: &Path) {
    let said = run_well(EXAMPLE, &format!("{} --resume", flags()), out);
    assert!(said.out.contains("\"epochs\":3,"), "{said:?}");
    uninterrupted().assert_same(&Outputs::of(out), "interrupted and not");
}

/// Starts the run, and stops it when its first epoch is saved and its second one goes on.
fn stopped_in_the_second_epoch(stop: impl Fn(&mut Child)) -> (TempDir, Said) {
    // A machine busy with other things may wake this test too late.
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let mut child = started(folder.path());
        let first_epoch = rows(folder.path())[1][seconds_column(folder.path())].parse().unwrap();
        sleep(Duration::from_secs_f64(first_epoch).div_f64(3.0));
        stop(&mut child);
        let said = Said::from(child.wait_with_output().unwrap());
        if epochs(folder.path()) == 1 {
            return (folder, said);
        }
    }
    panic!("five times the second epoch was over before the signal came");
}

fn seconds_column(out: &Path) -> usize {
    rows(out)[0].iter().position(|name| name == "seconds").expect("a column of times")
}

/// A run that has just written its first checkpoint.
fn started(out: &Path) -> Child {
    let mut command = command(EXAMPLE);
    command.args(flags().split(' ')).arg("--out").arg(out);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !out.join("checkpoint.safetensors").exists() {
        let ended = child.try_wait().unwrap().is_some();
        if ended || start.elapsed() > Duration::from_secs(300) {
            child.kill().unwrap();
            panic!("no checkpoint came: {:?}", Said::from(child.wait_with_output().unwrap()));
        }
        sleep(Duration::from_millis(2));
    }
    child
}
