use std::collections::BTreeMap;

use crate::program::Data;
use crate::{Error, Result};

/// The tensors of a program, as one of its stages asks for them: by name, type and length.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) data: &'a BTreeMap<String, Data>,
    /// Who asks, for errors.
    pub(crate) stage: usize,
}

impl<'a> Tensors<'a> {
    pub(crate) fn floats(&self, name: &str, len: usize) -> Result<&'a [f32]> {
        match self.of(name)? {
            Data::Floats(values) if values.len() == len => Ok(values),
            other => Err(self.mismatch(name, other, "f32", len)),
        }
    }

    pub(crate) fn integers(&self, name: &str, len: usize) -> Result<&'a [i32]> {
        match self.of(name)? {
            Data::Integers(values) if values.len() == len => Ok(values),
            other => Err(self.mismatch(name, other, "i32", len)),
        }
    }

    pub(crate) fn bytes(&self, name: &str, len: usize) -> Result<&'a [u8]> {
        match self.of(name)? {
            Data::Bytes(values) if values.len() == len => Ok(values),
            other => Err(self.mismatch(name, other, "u8", len)),
        }
    }

    /// One flag per channel.
    pub(crate) fn flags(&self, name: &str, len: usize) -> Result<Vec<bool>> {
        Ok(self.bytes(name, len)?.iter().map(|&byte| byte != 0).collect())
    }

    /// An error of this stage.
    pub(crate) fn error(&self, reason: String) -> Error {
        Error::Program { stage: self.stage, reason }
    }

    fn of(&self, name: &str) -> Result<&'a Data> {
        self.data.get(name).ok_or_else(|| self.error(format!("there is no tensor {name:?}")))
    }

    fn mismatch(&self, name: &str, found: &Data, kind: &str, len: usize) -> Error {
        let (found_kind, found) = match found {
            Data::Floats(values) => ("f32", values.len()),
            Data::Integers(values) => ("i32", values.len()),
            Data::Bytes(values) => ("u8", values.len()),
        };
        self.error(format!(
            "the tensor {name:?} holds {found} elements of {found_kind}, expected {len} of {kind}"
        ))
    }
}
