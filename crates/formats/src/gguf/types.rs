//! ggml's type numbers.

use crate::dtype::StoredType;

const READ: &[(u32, StoredType)] = &[
    (0, StoredType::F32),
    (1, StoredType::F16),
    (2, StoredType::Q4_0),
    (3, StoredType::Q4_1),
    (6, StoredType::Q5_0),
    (7, StoredType::Q5_1),
    (8, StoredType::Q8_0),
    (10, StoredType::Q2_K),
    (11, StoredType::Q3_K),
    (12, StoredType::Q4_K),
    (13, StoredType::Q5_K),
    (14, StoredType::Q6_K),
    (20, StoredType::IQ4_NL),
    (23, StoredType::IQ4_XS),
    (24, StoredType::I8),
    (25, StoredType::I16),
    (26, StoredType::I32),
    (27, StoredType::I64),
    (28, StoredType::F64),
    (30, StoredType::BF16),
    (39, StoredType::MXFP4),
];

/// Types that exist and are not read, so that an error can name them.
const OTHERS: &[(u32, &str)] = &[
    (4, "q4_2"),
    (5, "q4_3"),
    (9, "q8_1"),
    (15, "q8_k"),
    (16, "iq2_xxs"),
    (17, "iq2_xs"),
    (18, "iq3_xxs"),
    (19, "iq1_s"),
    (21, "iq3_s"),
    (22, "iq2_s"),
    (29, "iq1_m"),
    (31, "q4_0_4_4"),
    (32, "q4_0_4_8"),
    (33, "q4_0_8_8"),
    (34, "tq1_0"),
    (35, "tq2_0"),
    (40, "nvfp4"),
    (41, "q1_0"),
];

pub(super) fn from_number(number: u32) -> Option<StoredType> {
    let found = READ.iter().find(|(n, _)| *n == number)?;
    Some(found.1)
}

/// The number of a type; `None` for those that GGUF does not have.
pub(super) fn number_of(stored: StoredType) -> Option<u32> {
    let found = READ.iter().find(|(_, s)| *s == stored)?;
    Some(found.0)
}

/// ` (name)` of a type that is not read, or nothing.
pub(super) fn unread_name(number: u32) -> String {
    let found = OTHERS.iter().find(|(n, _)| *n == number);
    found.map_or(String::new(), |(_, name)| format!(" ({name})"))
}

pub(super) fn known() -> String {
    let names: Vec<_> = READ.iter().map(|(_, s)| s.scheme()).collect();
    names.join(", ")
}
