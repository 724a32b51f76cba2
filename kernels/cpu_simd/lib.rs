//! The fast CPU tree: AVX2, AVX-512 and AMX, chosen at run time.
