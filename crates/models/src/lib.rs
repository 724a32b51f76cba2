//! Model families: configuration to graph and weight names.
