//! Weight residency, paged caches, ragged batches, recorded steps.
