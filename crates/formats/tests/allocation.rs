//! A hostile header cannot make the reader allocate by what it claims. One test, so that nothing
//! else in the process allocates meanwhile.

#[path = "common/counting.rs"]
mod counting;

use counting::peak_of;
use formats::gguf::parse_gguf;
use formats::safetensors::parse_header;

fn file(header: &str) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out
}

fn gguf(tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(tensors.to_le_bytes());
    out.extend(keys.to_le_bytes());
    out.extend(rest);
    out
}

/// A key called `name` with an array of `count` values of type `kind`.
fn array(name: &str, kind: u32, count: u64, values: &[u8]) -> Vec<u8> {
    let mut out = (name.len() as u64).to_le_bytes().to_vec();
    out.extend(name.as_bytes());
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(values);
    out
}

/// A tensor of `count` bytes.
fn tensor(name: &str, count: u64) -> Vec<u8> {
    let mut out = (name.len() as u64).to_le_bytes().to_vec();
    out.extend(name.as_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(24u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out
}

fn gguf_files() -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for claim in [1u64 << 20, 1 << 32, 1 << 40, 1 << 63, u64::MAX] {
        files.push(gguf(claim, 0, &[0; 136]));
        files.push(gguf(0, claim, &[0; 136]));
        files.push(gguf(0, 1, &claim.to_le_bytes()));
        files.push(gguf(1, 0, &tensor("w", claim)));
        for kind in [0, 6, 8, 9, 10] {
            files.push(gguf(0, 1, &array("k", kind, claim, &[0; 100])));
        }
    }
    // Counts that are true: thousands of keys, of empty arrays in an array, of tensors.
    let keys: Vec<u8> = (0..4000)
        .flat_map(|i| array(&format!("{i}"), 0, 0, &[]))
        .collect();
    files.push(gguf(0, 4000, &keys));
    files.push(gguf(0, 1, &array("k", 9, 8000, &[0; 12 * 8000])));
    files.push(gguf(0, 1, &array("k", 8, 8000, &[0; 8 * 8000])));
    let tensors: Vec<u8> = (0..4000).flat_map(|i| tensor(&format!("{i}"), 9)).collect();
    files.push(gguf(4000, 0, &tensors));
    files
}

#[test]
fn memory_follows_the_bytes_that_exist() {
    let mut huge = (1u64 << 63).to_le_bytes().to_vec();
    huge.extend_from_slice(b"{}");
    let claims =
        r#"{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#;
    let ones = format!(
        r#"{{"w":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#,
        "1,".repeat(50_000)
    );
    let many: String = (0..2000)
        .map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[9],"data_offsets":[0,9]}},"#))
        .collect();
    let name = format!(r#"{{"{}":0}}"#, "x".repeat(100_000));
    for bytes in [
        huge,
        file(claims),
        file(&ones),
        file(&format!("{{{many}")),
        file(&name),
    ] {
        let peak = peak_of(|| assert!(parse_header(&bytes).is_err()));
        let bound = 16 * bytes.len() + (64 << 10);
        assert!(peak <= bound, "{peak} bytes for a file of {}", bytes.len());
    }
    for bytes in gguf_files() {
        let peak = peak_of(|| drop(parse_gguf(&bytes)));
        let bound = 16 * bytes.len() + (64 << 10);
        assert!(
            peak <= bound,
            "{peak} bytes for a GGUF file of {}",
            bytes.len()
        );
    }
}
