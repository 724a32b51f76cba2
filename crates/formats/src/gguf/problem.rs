//! What can be wrong with a GGUF file.

/// What is wrong with one GGUF file, or with the parts of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufProblem {
    #[error("it starts with {0}, wanted `GGUF`; check that it is the right file")]
    NotGguf(String),
    #[error(
        "it is in a format from before GGUF (`{0}`); convert the original model again, or download a GGUF file"
    )]
    OlderFormat(&'static str),
    #[error("it is big-endian; only little-endian files are read, convert it again")]
    BigEndian,
    #[error("it is GGUF version {0}; versions 2 and 3 are read, {hint}", hint = version_hint(*.0))]
    Version(u32),
    #[error(
        "it ends within {what}: {needed} bytes wanted at byte {at}, {available} left; it is truncated, download it again"
    )]
    Truncated {
        what: String,
        at: u64,
        needed: u64,
        available: u64,
    },
    #[error(
        "it claims {claimed} entries in {what}, but only {available} bytes follow; it is damaged, download it again"
    )]
    TooMany {
        what: String,
        claimed: u64,
        available: u64,
    },
    #[error("the name of {0} is not UTF-8; it is damaged, download it again")]
    NameNotText(String),
    #[error("key `{0}` is there twice")]
    DuplicateKey(String),
    #[error("key `{key}` has value type {number}; known are 0 to 12")]
    UnknownValueType { key: String, number: u32 },
    #[error("key `{key}` has arrays in arrays deeper than {limit}")]
    TooDeep { key: String, limit: usize },
    #[error("key `{key}` has a boolean of {byte}, wanted 0 or 1")]
    BadBool { key: String, byte: u8 },
    #[error("`general.alignment` is {0}, wanted a power of two")]
    BadAlignment(String),
    #[error("tensor `{0}` is there twice")]
    DuplicateTensor(String),
    #[error("tensor `{tensor}` has {found} dimensions, more than the {limit} of GGUF")]
    TooManyDimensions {
        tensor: String,
        found: u32,
        limit: usize,
    },
    #[error("tensor `{tensor}` has dimensions {shape}: {reason}")]
    BadShape {
        tensor: String,
        shape: String,
        reason: String,
    },
    #[error(
        "tensor `{tensor}` has ggml type {number}{name}, which is not read here; known: {known}"
    )]
    UnknownType {
        tensor: String,
        number: u32,
        /// ` (iq2_xxs)` where the type has a name.
        name: String,
        known: String,
    },
    #[error(
        "tensor `{tensor}` starts at byte {offset} of the data, not at a multiple of {alignment}"
    )]
    Misaligned {
        tensor: String,
        offset: u64,
        alignment: u64,
    },
    #[error(
        "tensor `{tensor}` ends at byte {end} of the data, but the file holds {available}; it is truncated, download it again"
    )]
    OutOfRange {
        tensor: String,
        end: u64,
        available: u64,
    },
    #[error("tensors `{first}` and `{second}` overlap at byte {at} of the data")]
    Overlap {
        first: String,
        second: String,
        at: u64,
    },
    #[error(
        "it is part {part} of {count}, so its name must end in `{wanted}`; give the parts their names back"
    )]
    PartName {
        part: usize,
        count: usize,
        wanted: String,
    },
    #[error("part {part} of {count} is missing: {name}; download it into the same folder")]
    MissingPart {
        part: usize,
        count: usize,
        name: String,
    },
    #[error(
        "it says that it is part {found}, wanted part {wanted}; the parts are mixed up, download them again"
    )]
    WrongPart { wanted: String, found: String },
    #[error(
        "its parts hold {found} tensors, `split.tensors.count` says {wanted}; download them again"
    )]
    PartTensors { wanted: usize, found: usize },
}

fn version_hint(version: u32) -> &'static str {
    if version < 2 {
        "convert it again"
    } else {
        "a newer version of this program may read it"
    }
}
