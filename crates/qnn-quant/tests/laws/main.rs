//! Laws that hold for every map and every estimator, on inputs chosen to break them.

mod cases;
mod composition;
mod determinism;
mod edges;
mod estimators;
mod inputs;
mod maps;
mod reference;
mod statistics;
mod vectors;
