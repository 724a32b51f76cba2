//! A hostile header cannot make the reader allocate by what it claims. One test, so that nothing
//! else in the process allocates meanwhile.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use formats::safetensors::parse_header;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; the counters are only observed.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn file(header: &str) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out
}

fn peak_of(bytes: &[u8]) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    assert!(parse_header(bytes).is_err());
    PEAK.load(Ordering::Relaxed) - before
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
        let peak = peak_of(&bytes);
        let bound = 16 * bytes.len() + (64 << 10);
        assert!(peak <= bound, "{peak} bytes for a file of {}", bytes.len());
    }
}
