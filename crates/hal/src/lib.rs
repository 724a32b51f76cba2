//! Devices, buffers and recordings; one module per driver API, each opened at run time.
