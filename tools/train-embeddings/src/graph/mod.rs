//! Embeddings of knowledge graphs: where triples come from, how they are split, the models, and how they are judged.

mod eval;
pub(crate) mod model;
mod product;
pub(crate) mod split;
pub(crate) mod train;
pub(crate) mod triples;
pub(crate) mod wordnet;
