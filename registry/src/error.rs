//! What can be wrong with what is registered or asked for.

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    #[error("two kernels are registered as {key}: {first} and {second}; rename one variant")]
    DuplicateKey {
        key: String,
        first: &'static str,
        second: &'static str,
    },
    #[error("two trees are registered as backend '{name}': {first} and {second}")]
    DuplicateBackend {
        name: &'static str,
        first: &'static str,
        second: &'static str,
    },
    #[error("two trees register a {what} called '{name}'; rename one")]
    DuplicateName {
        what: &'static str,
        name: &'static str,
    },
    #[error("kernel {key} ({file}): {reason}")]
    BadKernel {
        key: String,
        file: &'static str,
        reason: String,
    },
    #[error("no backend is called '{name}'; there are: {known}")]
    UnknownBackend { name: String, known: String },
    #[error(
        "no kernel for {layer} with {quant} on {backend}: tried {tried}; other backends have {elsewhere}"
    )]
    NoKernel {
        backend: String,
        layer: String,
        quant: String,
        tried: String,
        elsewhere: String,
    },
    #[error("tuned picks for '{device}': {reason}")]
    Tuned { device: String, reason: String },
}
