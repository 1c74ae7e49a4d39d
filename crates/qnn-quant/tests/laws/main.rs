//! Laws that hold for every map and every estimator, on inputs chosen to break them.

mod cases;
mod chance;
mod composition;
mod determinism;
mod edges;
mod estimators;
mod inputs;
mod long_arrays;
mod maps;
mod ranges;
mod reference;
mod statistics;
mod trained;
mod vectors;
