//! How types of other crates are written in a program's description.

use std::collections::BTreeMap;

use qnn_quant::Alphabet;
use qnn_tensor::Padding;
use qnn_tensor::ops::PoolOptions;
use serde::{Deserialize, Serialize};

use crate::program::{Data, Normalization, Program, Stage, Value};

/// A program without its tensors, and unchecked: only [`Program::load`] makes a whole one of it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Program", deny_unknown_fields)]
pub(crate) struct ProgramText {
    values: Vec<Value>,
    stages: Vec<Stage>,
    output: usize,
    normalization: Option<Normalization>,
    classes: Vec<String>,
    #[serde(skip)]
    tensors: BTreeMap<String, Data>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Alphabet", deny_unknown_fields)]
pub(crate) struct AlphabetText {
    first: i32,
    step: i32,
    count: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Padding", deny_unknown_fields)]
pub(crate) struct PaddingText {
    top: usize,
    bottom: usize,
    left: usize,
    right: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PoolOptions", deny_unknown_fields)]
pub(crate) struct PoolText {
    size: [usize; 2],
    stride: [usize; 2],
    #[serde(with = "PaddingText")]
    padding: Padding,
    ceil: bool,
}
