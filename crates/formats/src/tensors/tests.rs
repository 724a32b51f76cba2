//! Made tensors against the same thing done plainly to the elements.

use std::io::Write;

use half::f16;

use super::*;
use crate::codec::decode_row;

/// A file under construction.
#[derive(Default)]
struct Builder {
    bytes: Vec<u8>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Builder {
    fn add(mut self, name: &str, stored: StoredType, shape: &[usize], bytes: &[u8]) -> Self {
        // Nothing is aligned.
        self.bytes.push(0xa5);
        assert_eq!(stored.bytes_for(shape), Some(bytes.len() as u64), "{name}");
        let info = TensorInfo {
            name: name.into(),
            shape: shape.to_vec(),
            stored,
            bytes: bytes.len() as u64,
            place: Some(Place {
                file: 0,
                offset: self.bytes.len() as u64,
            }),
        };
        self.tensors.insert(name.into(), info);
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A tensor of small whole numbers, different ones for each name.
    fn numbers(self, name: &str, stored: StoredType, shape: &[usize]) -> Self {
        let count = shape.iter().product();
        let seed = name.bytes().map(u32::from).sum::<u32>();
        let value = |i: usize| {
            let mixed = (i as u32).wrapping_add(seed).wrapping_mul(0x9e37_79b9) >> 21;
            mixed as f32 - 1024.0
        };
        let values: Vec<f32> = (0..count).map(value).collect();
        let bytes: Vec<u8> = match stored {
            StoredType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            StoredType::F16 => values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
            StoredType::I16 => values
                .iter()
                .flat_map(|v| (*v as i16).to_le_bytes())
                .collect(),
            StoredType::I32 => (0..count as u32)
                .flat_map(|i| (i ^ seed).wrapping_mul(0x85eb_ca6b).to_le_bytes())
                .collect(),
            _ => {
                let mut bytes = vec![0; stored.bytes_for(shape).unwrap() as usize];
                match stored {
                    StoredType::U8 => (bytes.iter_mut().enumerate())
                        .for_each(|(i, b)| *b = ((i as u32 * 2_654_435) >> 7) as u8),
                    _ => crate::encode_row(stored, &values, &mut bytes).unwrap(),
                }
                bytes
            }
        };
        self.add(name, stored, shape, &bytes)
    }

    fn store(self) -> TensorStore {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&self.bytes).unwrap();
        let mapped = MappedFile::open(file.path()).unwrap();
        TensorStore::new(vec![Arc::new(mapped)], self.tensors)
    }
}

fn tensor(name: &str) -> Recipe {
    Recipe::tensor(name)
}

fn values(store: &TensorStore, name: &str) -> Vec<f32> {
    store.get(name).unwrap().to_f32().unwrap()
}

/// Defines `recipe` and checks every range of rows against the whole, and the whole for its size.
fn made(store: &mut TensorStore, recipe: Recipe) -> (Vec<usize>, Vec<f32>) {
    store.define("made", &recipe).unwrap();
    let made = store.get("made").unwrap();
    let all = made.bytes().into_owned();
    let info = made.info;
    assert_eq!(info.stored.bytes_for(&info.shape), Some(info.bytes));
    assert_eq!(all.len() as u64, info.bytes);
    let row = all.len() / info.shape[0];
    for first in 0..=info.shape[0] {
        for end in first..=info.shape[0].min(first + 5) {
            assert_eq!(*made.rows(first..end), all[first * row..end * row]);
        }
    }
    if let Some((file, range)) = store.region("made") {
        assert_eq!(file.bytes()[range], all);
    }
    store.release("made");
    assert_eq!(*made.bytes(), all);
    (info.shape.clone(), made.to_f32().unwrap_or_default())
}

fn pick(from: &[f32], width: usize, rows: impl IntoIterator<Item = usize>) -> Vec<f32> {
    let row = |r: usize| from[r * width..(r + 1) * width].iter().copied();
    rows.into_iter().flat_map(row).collect()
}

fn refused(store: &TensorStore, recipe: Recipe) -> String {
    let mut store = store.clone();
    let before = store.len();
    let error = store.define("made", &recipe).unwrap_err().to_string();
    assert_eq!(store.len(), before);
    assert!(error.starts_with("cannot make tensor `made`: "), "{error}");
    assert!(error.lines().count() == 1 && error.len() < 400, "{error}");
    error
}

#[test]
fn rows_of_a_matrix() {
    for stored in [StoredType::F16, StoredType::Q8_0] {
        let mut store = Builder::default().numbers("w", stored, &[24, 64]).store();
        let w = values(&store, "w");
        let mut check = |pattern: RowPattern, rows: &[usize]| {
            let (shape, found) = made(&mut store, tensor("w").rows(pattern.clone()));
            assert_eq!(shape, [rows.len(), 64], "{pattern:?}");
            assert_eq!(found, pick(&w, 64, rows.iter().copied()), "{pattern:?}");
        };
        check(RowPattern::range(5..9), &[5, 6, 7, 8]);
        check(
            RowPattern::blocks(8, 2..5),
            &[2, 3, 4, 10, 11, 12, 18, 19, 20],
        );
        check(RowPattern::strided(6, 1), &[1, 7, 13, 19]);
        let whole: Vec<usize> = (0..24).collect();
        check(RowPattern::range(0..24), &whole);
        let halves = [0, 2, 4, 6, 1, 3, 5, 7].map(|r| [r, r + 8, r + 16]);
        let halves: Vec<usize> = (0..3).flat_map(|h| halves.map(|r| r[h])).collect();
        check(RowPattern::halves(8), &halves);
        // Rows 4 to 7 of each eight, the second pair first.
        check(
            RowPattern::nested(6, &[(2, 1)]).every(8),
            &[6, 7, 14, 15, 22, 23],
        );
        let back = tensor("w").rows(RowPattern::halves(8));
        let (_, found) = made(&mut store, back.rows(RowPattern::pairs(8)));
        assert_eq!(found, w);
    }
}

#[test]
fn rows_of_a_vector_and_of_rows() {
    let mut store = Builder::default()
        .numbers("b", StoredType::F32, &[12])
        .numbers("conv", StoredType::F16, &[12, 1, 4])
        .store();
    let (b, conv) = (values(&store, "b"), values(&store, "conv"));
    let (shape, found) = made(&mut store, tensor("b").rows(RowPattern::blocks(6, 4..6)));
    assert_eq!((shape, found), (vec![4], pick(&b, 1, [4, 5, 10, 11])));
    let twice = tensor("b")
        .rows(RowPattern::blocks(6, 1..5))
        .rows(RowPattern::range(3..6));
    assert_eq!(made(&mut store, twice).1, pick(&b, 1, [4, 7, 8]));
    let flat = tensor("conv").reshape(&[48]);
    assert_eq!(made(&mut store, flat), (vec![48], conv.clone()));
    let part = tensor("conv").rows(RowPattern::range(2..4)).reshape(&[8]);
    assert_eq!(made(&mut store, part), (vec![8], pick(&conv, 4, [2, 3])));
}

#[test]
fn stretches_of_files_are_borrowed() {
    let names = ["e.0.w", "e.1.w", "e.2.w"];
    let mut builder = Builder::default().numbers("w", StoredType::F16, &[24, 64]);
    for name in names {
        builder = builder.numbers(name, StoredType::F16, &[4, 64]);
    }
    let mut store = builder.store();
    let slice = tensor("w").rows(RowPattern::range(5..9)).reshape(&[2, 128]);
    store.define("slice", &slice).unwrap();
    assert!(store.region("slice").is_some());
    let info = store.get("slice").unwrap().info;
    let whole = store.get("w").unwrap().info.place.unwrap();
    assert_eq!(info.place.unwrap().offset, whole.offset + 5 * 128);

    let gate = tensor("w").rows(RowPattern::blocks(8, 0..4));
    store.define("gate", &gate).unwrap();
    store.define("experts", &Recipe::stack(names)).unwrap();
    for name in ["gate", "experts"] {
        let t = store.get(name).unwrap();
        assert!(store.region(name).is_none() && t.info.place.is_none());
        for (rows, borrowed) in [(0..4, true), (4..8, true), (5..7, true), (3..5, false)] {
            let found = t.rows(rows.clone());
            assert_eq!(
                matches!(found, Cow::Borrowed(_)),
                borrowed,
                "{name} {rows:?}"
            );
        }
    }
}

#[test]
fn stacks() {
    let names: Vec<String> = (0..3).map(|e| format!("experts.{e}.w")).collect();
    let mut builder = Builder::default().numbers("b", StoredType::F32, &[5]);
    for name in &names {
        builder = builder.numbers(name, StoredType::Q4_0, &[4, 64]);
    }
    let mut store = builder.store();
    let all: Vec<f32> = names.iter().flat_map(|n| values(&store, n)).collect();
    assert_eq!(
        made(&mut store, Recipe::stack(&names)),
        (vec![12, 64], all.clone())
    );
    assert_eq!(store.sources("made").collect::<Vec<_>>(), names);
    // Down the middle of two experts.
    let part = Recipe::stack(&names).rows(RowPattern::blocks(6, 3..5));
    assert_eq!(made(&mut store, part).1, pick(&all, 64, [3, 4, 9, 10]));
    // Parts of one tensor in another order, of unequal lengths.
    let b = values(&store, "b");
    let turned = Recipe::Stack(vec![
        tensor("b").rows(RowPattern::range(3..5)),
        tensor("b").rows(RowPattern::range(0..3)),
    ]);
    assert_eq!(made(&mut store, turned).1, pick(&b, 1, [3, 4, 0, 1, 2]));
}

#[test]
fn transposes() {
    for stored in [StoredType::F16, StoredType::F32] {
        let mut store = Builder::default()
            .numbers("w", stored, &[3, 5, 7])
            .numbers("kv_b", stored, &[2 * (6 + 4), 9])
            .store();
        let w = values(&store, "w");
        let mut wanted = vec![0.0; w.len()];
        for e in 0..3 {
            for k in 0..5 {
                for n in 0..7 {
                    wanted[(e * 7 + n) * 5 + k] = w[(e * 5 + k) * 7 + n];
                }
            }
        }
        let experts = tensor("w").transpose().reshape(&[21, 5]);
        assert_eq!(made(&mut store, experts), (vec![21, 5], wanted.clone()));
        // Rows of a new shape begin and end within those of the old one.
        let odd = tensor("w").transpose().reshape(&[15, 7]);
        assert_eq!(made(&mut store, odd), (vec![15, 7], wanted));

        let kv = values(&store, "kv_b");
        let head = tensor("kv_b").rows(RowPattern::blocks(10, 0..6));
        let k = head.reshape(&[2, 6, 9]).transpose().reshape(&[18, 6]);
        let (shape, found) = made(&mut store, k);
        assert_eq!(shape, [18, 6]);
        for (h, l, d) in
            (0..2).flat_map(|h| (0..9).flat_map(move |l| (0..6).map(move |d| (h, l, d))))
        {
            assert_eq!(found[(h * 9 + l) * 6 + d], kv[(h * 10 + d) * 9 + l]);
        }
    }
}

#[test]
fn floats() {
    let mut store = Builder::default()
        .numbers("pairs", StoredType::I16, &[8, 256])
        .numbers("theta", StoredType::F16, &[8, 64])
        .numbers("q", StoredType::Q8_0, &[4, 96])
        .store();
    let i16s: Vec<f32> = store
        .get("pairs")
        .unwrap()
        .bytes()
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from(i16::from_le_bytes(*b)))
        .collect();
    assert!(i16s.iter().any(|v| *v < 0.0));
    let pairs = tensor("pairs").reshape(&[2048]).floats();
    assert_eq!(made(&mut store, pairs), (vec![2048], i16s));
    let theta = values(&store, "theta");
    assert_eq!(made(&mut store, tensor("theta").floats()).1, theta);
    let q = values(&store, "q");
    assert_eq!(made(&mut store, tensor("q").floats()).1, q);
    // Rows that are no whole blocks any more.
    let narrow = tensor("q")
        .floats()
        .reshape(&[12, 32])
        .rows(RowPattern::strided(3, 1));
    assert_eq!(made(&mut store, narrow).1, pick(&q, 32, [1, 4, 7, 10]));
    let odd = tensor("q").floats().reshape(&[32, 12]);
    assert_eq!(made(&mut store, odd).1, q);
}

#[test]
fn mxfp4_from_two_tensors() {
    let mut store = Builder::default()
        .numbers("blocks", StoredType::U8, &[2, 6, 3, 16])
        .numbers("scales", StoredType::U8, &[2, 6, 3])
        .store();
    const LEVELS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let blocks = store.get("blocks").unwrap().bytes().into_owned();
    let scales = store.get("scales").unwrap().bytes().into_owned();
    let mut wanted = Vec::new();
    for (block, scale) in blocks.chunks(16).zip(&scales) {
        for element in 0..32 {
            let q = block[element / 2] >> (4 * (element % 2)) & 15;
            let sign = if q > 7 { -1.0 } else { 1.0 };
            let power = f64::exp2(f64::from(*scale) - 127.0) as f32;
            wanted.push(sign * LEVELS[usize::from(q & 7)] * power);
        }
    }
    let all = Recipe::microscaling("blocks", "scales");
    let (shape, found) = made(&mut store, all.clone());
    assert_eq!((shape, &found), (vec![2, 6, 96], &wanted));
    assert_eq!(store.get("made").unwrap().info.stored, StoredType::MXFP4);
    let up = all.reshape(&[12, 96]).rows(RowPattern::strided(2, 1));
    let (shape, found) = made(&mut store, up);
    assert_eq!(shape, [6, 96]);
    assert_eq!(found, pick(&wanted, 96, [1, 3, 5, 7, 9, 11]));
}

#[test]
fn w4_paro_from_three_tensors() {
    let (n, k) = (24, 256);
    let mut store = Builder::default()
        .numbers("l.qweight", StoredType::I32, &[k, n / 8])
        .numbers("l.qzeros", StoredType::I32, &[k / 128, n / 8])
        .numbers("l.scales", StoredType::F16, &[k / 128, n])
        .store();
    let words = |name: &str| -> Vec<u32> {
        let bytes = store.get(name).unwrap().bytes();
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect()
    };
    // Nibble p of a word is output channel ORDER[p] of its eight.
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let unpack = |words: &[u32]| -> Vec<f32> {
        let mut out = vec![0.0; words.len() * 8];
        for (word, out) in words.iter().zip(out.chunks_mut(8)) {
            for (p, channel) in ORDER.iter().enumerate() {
                out[*channel] = (word >> (4 * p) & 15) as f32;
            }
        }
        out
    };
    let (q, z) = (unpack(&words("l.qweight")), unpack(&words("l.qzeros")));
    let s = values(&store, "l.scales");
    let mut wanted = Vec::new();
    for row in 0..n {
        for column in 0..k {
            let group = column / 128 * n + row;
            wanted.push((q[column * n + row] - z[group]) * s[group]);
        }
    }
    let (shape, found) = made(&mut store, Recipe::paro("l"));
    assert_eq!((shape, &found), (vec![n, k], &wanted));
    let info = store.get("made").unwrap().info;
    assert_eq!((info.scheme(), info.bytes), ("w4_paro", 24 * 2 * 68));
    assert_eq!(store.sources("made").count(), 3);
    let twice = Recipe::Stack(vec![Recipe::paro("l"), Recipe::paro("l")]);
    let part = twice.rows(RowPattern::range(20..30));
    let rows = (20..24).chain(0..6);
    assert_eq!(made(&mut store, part).1, pick(&wanted, k, rows));
    // Half rows.
    let halves = Recipe::paro("l").reshape(&[48, 128]);
    assert_eq!(made(&mut store, halves).1, wanted);
}

#[test]
fn a_made_tensor_is_like_a_stored_one() {
    let mut store = Builder::default()
        .numbers("a", StoredType::F16, &[4, 8])
        .numbers("c", StoredType::F16, &[2, 8])
        .store();
    let (bytes, a) = (store.total_bytes(), values(&store, "a"));
    store
        .define("b", &tensor("a").rows(RowPattern::range(1..3)))
        .unwrap();
    assert!(store.contains("b") && store.len() == 3);
    assert_eq!(store.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    let shapes: Vec<_> = store.iter().map(|t| t.info.shape[0]).collect();
    assert_eq!(shapes, [4, 2, 2]);
    assert_eq!(store.get("b").unwrap().info.name, "b");
    assert_eq!((store.stored().len(), store.total_bytes()), (2, bytes));
    // In place of its own source; what was made before keeps what it saw.
    store
        .define("a", &tensor("a").rows(RowPattern::halves(4)))
        .unwrap();
    assert_eq!(values(&store, "a"), pick(&a, 8, [0, 2, 1, 3]));
    assert_eq!(values(&store, "b"), pick(&a, 8, [1, 2]));
    assert_eq!(store.sources("a").collect::<Vec<_>>(), ["a"]);
    assert_eq!(store.len(), 3);
    store
        .define("d", &tensor("a").rows(RowPattern::range(1..2)))
        .unwrap();
    assert_eq!(values(&store, "d"), pick(&a, 8, [2]));
    store.forget("a");
    assert_eq!(values(&store, "a"), a);
    assert_eq!(values(&store, "d"), pick(&a, 8, [2]));
    assert_eq!(store.sources("x").count(), 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let store = Builder::default()
        .numbers("w", StoredType::F16, &[24, 64])
        .numbers("q", StoredType::Q8_0, &[24, 64])
        .numbers("v", StoredType::Q8_0, &[64])
        .numbers("b", StoredType::F32, &[24])
        .numbers("i", StoredType::I32, &[128, 3])
        .numbers("z", StoredType::I32, &[1, 3])
        .numbers("s", StoredType::F16, &[1, 24])
        .numbers("u", StoredType::U8, &[4, 2, 16])
        .numbers("e", StoredType::U8, &[4, 2])
        .store();
    let huge = usize::MAX;
    let w = || tensor("w");
    let rows = |pattern| refused(&store, w().rows(pattern));
    assert!(refused(&store, tensor("x")).contains("`x`"));
    assert!(rows(RowPattern::range(20..25)).contains("row 24 is wanted where there are 24"));
    assert!(
        rows(RowPattern::blocks(8, 6..9)).contains("row 8 is wanted where there are 8 in each")
    );
    rows(RowPattern::range(huge - 1..huge));
    rows(RowPattern::range(0..huge));
    #[expect(clippy::reversed_empty_ranges, reason = "sizes that a file got wrong")]
    for range in [3..3, 5..3] {
        assert!(rows(RowPattern::range(range)).contains("no rows"));
    }
    for period in [0, 7, 48, huge] {
        rows(RowPattern::blocks(period, 0..1));
        rows(RowPattern::halves(period));
        rows(RowPattern::pairs(period));
    }
    assert!(rows(RowPattern::halves(3)).contains("cannot be taken once each"));
    rows(RowPattern::pairs(3));
    rows(RowPattern::strided(huge, huge));
    assert!(rows(RowPattern::nested(0, &[(huge, 0)])).contains("24"));
    assert!(rows(RowPattern::nested(0, &[(huge, 1), (huge, 1)])).contains("overflows"));
    rows(RowPattern::nested(0, &[(2, huge), (2, huge)]));
    refused(&store, tensor("v").rows(RowPattern::range(0..32)));

    for shape in [&[24, 63][..], &[0], &[], &[huge, huge], &[24, 0, 64]] {
        refused(&store, w().reshape(shape));
    }
    assert!(refused(&store, tensor("q").reshape(&[96, 16])).contains("blocks of q8_0"));

    assert!(refused(&store, Recipe::Stack(vec![])).contains("no tensors"));
    assert!(refused(&store, Recipe::stack(["w", "q"])).contains("part 1 is q8_0 [24, 64]"));
    refused(&store, Recipe::stack(["w", "b"]));
    refused(&store, Recipe::stack(["w", "w", "y"]));
    refused(&store, Recipe::stack(["v", "v"]));
    assert!(refused(&store, tensor("q").transpose()).contains("q8_0"));
    refused(&store, tensor("b").transpose());
    assert!(refused(&store, tensor("i").floats()).contains("i32"));

    refused(&store, Recipe::microscaling("e", "e"));
    refused(&store, Recipe::microscaling("w", "e"));
    refused(&store, Recipe::microscaling("u", "u"));
    let paro = |qweight: &str, qzeros: &str, scales: &str| {
        let part = |name: &str| Box::new(tensor(name));
        Recipe::Paro {
            qweight: part(qweight),
            qzeros: part(qzeros),
            scales: part(scales),
        }
    };
    assert!(store.clone().define("made", &paro("i", "z", "s")).is_ok());
    assert!(refused(&store, paro("z", "z", "s")).contains("K a multiple of 128"));
    assert!(refused(&store, paro("i", "i", "s")).contains("wanted i32 [1, 3]"));
    assert!(refused(&store, paro("i", "z", "w")).contains("wanted f16 [1, 24]"));
    refused(&store, paro("b", "z", "s"));
}

#[test]
fn random_tensors_have_the_spread_asked_for_and_any_part_is_the_same() {
    for stored in StoredType::ALL.iter().copied() {
        let mut probe = [0.0; 0];
        if decode_row(stored, &[], &mut probe).is_err() || stored == StoredType::W4_PARO {
            continue;
        }
        let mut store = TensorStore::default();
        let random = |mean: f32| Recipe::Random {
            stored,
            shape: vec![96, 512],
            mean,
            deviation: 0.05,
            seed: 7,
        };
        let mean = if stored.block_elements() == 1 {
            1.0
        } else {
            0.0
        };
        if let Err(e) = store.define("w", &random(mean)) {
            // Eight bits of a float have no encoder.
            assert_eq!(stored.block_bytes(), 1, "{stored}: {e}");
            continue;
        }
        assert_eq!(store.define("v", &random(1.0)).is_ok(), mean == 1.0);
        let w = store.get("w").unwrap();
        let all = w.bytes();
        assert_eq!(
            *w.rows(17..40),
            all[all.len() / 96 * 17..all.len() / 96 * 40]
        );
        let values = w.to_f32().unwrap();
        let n = values.len() as f64;
        let found = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let square = |v: &f32| (f64::from(*v) - found).powi(2);
        let spread = (values.iter().map(square).sum::<f64>() / n).sqrt();
        assert!(
            (found - f64::from(mean)).abs() < 0.01,
            "{stored}: mean {found}"
        );
        // Powers of two are all the scales of mxfp4.
        let off = if stored == StoredType::MXFP4 {
            0.45
        } else {
            0.1
        };
        assert!((spread / 0.05 - 1.0).abs() < off, "{stored}: {spread}");
    }
}

#[test]
fn random_tensors_of_impossible_shapes_are_refused() {
    let mut store = TensorStore::default();
    for shape in [vec![3, 0], vec![2, 300], vec![usize::MAX, 256]] {
        let recipe = Recipe::Random {
            stored: StoredType::Q4_K,
            shape: shape.clone(),
            mean: 0.0,
            deviation: 1.0,
            seed: 0,
        };
        assert!(store.define("w", &recipe).is_err(), "{shape:?}");
    }
}
