//! The model IR: typed ops, values with symbolic shapes, validation, text dump.
