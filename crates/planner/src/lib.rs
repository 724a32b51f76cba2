//! Graph + registry to Plan: fusion, layouts, shape buckets, buffer arena.
