//! The same settings give the same bits.

use std::path::Path;

use qnn::kernels::Isa;

use crate::example::{SMALL, command, run_well, said};
use crate::outputs::Outputs;

/// Runs the small network with more flags.
fn trained(flags: &str) -> Outputs {
    let folder = tempfile::tempdir().unwrap();
    run_well("resnet20_bc", &format!("{SMALL} {flags}"), folder.path());
    Outputs::of(folder.path())
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // The last batch is a part, and no number of threads divides it.
    let flags = "--limit 61 --batch 24 --epochs 2";
    let one = trained(&format!("{flags} --threads 1"));
    for threads in [2, 3] {
        let several = trained(&format!("{flags} --threads {threads}"));
        one.assert_same(&several, &format!("1 thread and {threads}"));
    }
    assert!(one != trained(&format!("{flags} --threads 1 --seed 1")), "the seed must change something");
}

#[test]
fn quantizing_by_the_identity_is_full_precision() {
    let flags = "--limit 64 --batch 20 --epochs 2 --variant fp";
    let plain = trained(flags);
    plain.assert_same(&trained(&format!("{flags} --quantizer identity")), "no quantizer and the identity");
    let ends = "--first-fp false --last-fp false";
    plain
        .assert_same(&trained(&format!("{flags} --quantizer identity {ends}")), "the identity in all layers");
    assert!(plain != trained(&format!("{flags} --quantizer sign")), "the sign must change something");
}

#[test]
fn the_instruction_set_changes_no_bit() {
    let runs: Vec<(Isa, Outputs)> = Isa::available().map(|isa| (isa, trained_on(isa))).collect();
    let (best, expected) = &runs[0];
    for (isa, outputs) in &runs[1..] {
        expected.assert_same(outputs, &format!("{best} and {isa}"));
    }
    let folder = tempfile::tempdir().unwrap();
    run_well("resnet20_bc", TINY, folder.path());
    expected.assert_same(&Outputs::of(folder.path()), &format!("{best} and no QNN_ISA"));
}

/// Two steps: scalar kernels are slow.
const TINY: &str = "--depth 8 --data embedded --quiet --limit 10 --batch 5 --epochs 1";

fn trained_on(isa: Isa) -> Outputs {
    let folder = tempfile::tempdir().unwrap();
    let out: &Path = folder.path();
    let said =
        said(command("resnet20_bc").args(TINY.split(' ')).arg("--out").arg(out).env("QNN_ISA", isa.name()));
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{isa}");
    Outputs::of(out)
}
