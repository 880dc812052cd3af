//! Embeddings of words, from text: skip-gram and GloVe, and what both are judged by.

mod cooccurrence;
pub(crate) mod glove;
mod neighbours;
mod ngrams;
mod probe;
mod sampler;
pub(crate) mod skip_gram;
pub(crate) mod text;
pub(crate) mod vocab;
