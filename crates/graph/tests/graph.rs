//! The builder and the validator: what is accepted, what is refused, the dump.

use graph::{AttentionSpec, CacheSpec, Graph, GraphBuilder, GraphError, Op, RopeSpec, ValueId};

fn cache_spec() -> CacheSpec {
    CacheSpec::key_value(0, None, 1, 8)
}

fn linear(out: &[usize]) -> Op {
    Op::Linear { out: out.into() }
}

/// One attention layer over a vocabulary of 10.
fn small() -> Result<Graph, GraphError> {
    let mut g = GraphBuilder::new("small");
    let table = g.matrix("embed.weight", 10, 16)?;
    let x = g.op("embed", Op::Embed, &[table])?;
    let inv_freq = g.constant("inv_freq", vec![1.0, 0.1, 0.01, 0.001]);
    let rope = g.op(
        "rope_table",
        Op::RopeTable {
            attention_factor: 1.0,
        },
        &[inv_freq],
    )?;
    let wq = g.matrix("q.weight", 16, 16)?;
    let wk = g.matrix("k.weight", 8, 16)?;
    let q = g.op("q", linear(&[2, 8]), &[x, wq])?;
    let k = g.op("k", linear(&[1, 8]), &[x, wk])?;
    let q = g.op("q_rope", Op::Rope(RopeSpec::half_split(8)), &[q, rope])?;
    let cache = g.cache(cache_spec());
    let cache = g.op("append", Op::KvAppend, &[k, k, cache])?;
    let spec = AttentionSpec {
        scale: 0.5,
        window: Some(4),
        softcap: None,
    };
    let o = g.op("attn", Op::Attention(spec), &[q, cache])?;
    let wo = g.matrix("o.weight", 16, 16)?;
    let o = g.op("o", linear(&[16]), &[o, wo])?;
    let h = g.op("add", Op::Add, &[x, o])?;
    let last = g.op("last", Op::GatherRows, &[h])?;
    let logits = g.op("head", linear(&[10]), &[last, table])?;
    let ids = g.op("ids", Op::ArgMax, &[logits])?;
    g.output("logits", logits);
    g.output("argmax", ids);
    g.finish()
}

#[test]
fn the_dump_reads_like_the_graph() {
    let text = small().unwrap().to_string();
    let expect = "\
graph small
  %1 [T, 16] = embed(embed.weight [10, 16])  # embed
  %3 [T, 8] = rope_table(inv_freq [4])  # rope_table
  %6 [T, 2, 8] = linear(%1, q.weight [16, 16])  # q
  %7 [T, 1, 8] = linear(%1, k.weight [8, 16])  # k
  %8 [T, 2, 8] = rope{rotary_dim=8}(%6, %3)  # q_rope
  %10 [] = kv_append(%7, %7, cache.0 [])  # append
  %11 [T, 2, 8] = attention{scale=0.5, window=4}(%8, %10)  # attn
  %13 [T, 16] = linear(%11, o.weight [16, 16])  # o
  %14 [T, 16] = add(%1, %13)  # add
  %15 [L, 16] = gather_rows(%14)  # last
  %16 [L, 10] = linear(%15, embed.weight [10, 16])  # head
  %17 [L] = argmax(%16)  # ids
  return %16 logits
  return %17 argmax
";
    assert_eq!(text, expect);
}

#[test]
fn a_tied_weight_is_one_value_and_a_second_shape_an_error() {
    let g = small().unwrap();
    assert_eq!(g.weights().count(), 4);
    assert_eq!(g.caches().count(), 1);
    let mut b = GraphBuilder::new("t");
    b.matrix("w", 4, 4).unwrap();
    assert!(matches!(
        b.matrix("w", 4, 8),
        Err(GraphError::WeightShape { .. })
    ));
}

#[test]
fn wrong_shapes_are_refused_at_the_op() {
    let refused = |build: &dyn Fn(&mut GraphBuilder, ValueId) -> Result<ValueId, GraphError>| {
        let mut b = GraphBuilder::new("t");
        let table = b.matrix("embed", 10, 16).unwrap();
        let x = b.op("x", Op::Embed, &[table]).unwrap();
        let e = build(&mut b, x).unwrap_err();
        assert!(matches!(e, GraphError::Shape { .. }), "{e}");
        assert!(e.to_string().contains("'bad'"), "{e}");
    };
    refused(&|b, x| {
        let w = b.matrix("w", 8, 15)?;
        b.op("bad", linear(&[8]), &[x, w])
    });
    refused(&|b, x| {
        let w = b.vector("w", 15)?;
        let op = Op::RmsNorm {
            eps: 1e-6,
            weight_offset: 0.0,
        };
        b.op("bad", op, &[x, w])
    });
    refused(&|b, x| {
        let w = b.vector("w", 16)?;
        let op = Op::RmsNorm {
            eps: f32::NAN,
            weight_offset: 0.0,
        };
        b.op("bad", op, &[x, w])
    });
    refused(&|b, x| b.op("bad", Op::Rope(RopeSpec::half_split(8)), &[x, x]));
    refused(&|b, x| {
        let c = b.cache(cache_spec());
        b.op("bad", Op::KvAppend, &[x, x, c])
    });
    refused(&|b, x| {
        let l = b.op("rows", Op::GatherRows, &[x])?;
        b.op("bad", Op::Add, &[x, l])
    });
    refused(&|b, x| b.op("bad", Op::Add, &[x]));
}

#[test]
fn dangling_values_unused_results_and_missing_outputs_are_refused() {
    let mut b = GraphBuilder::new("t");
    assert!(matches!(
        b.op("n", Op::Embed, &[ValueId(7)]),
        Err(GraphError::Dangling { .. })
    ));
    let table = b.matrix("embed", 10, 16).unwrap();
    let x = b.op("x", Op::Embed, &[table]).unwrap();
    let y = b.op("y", Op::Add, &[x, x]).unwrap();
    b.op("unused", Op::Add, &[x, y]).unwrap();
    b.output("y", y);
    assert!(matches!(b.finish(), Err(GraphError::Unused { node, .. }) if node == "unused"));
    assert!(matches!(
        GraphBuilder::new("t").finish(),
        Err(GraphError::NoOutputs)
    ));
}

#[test]
fn a_cache_is_not_read_after_it_was_overwritten() {
    let mut b = GraphBuilder::new("t");
    let table = b.matrix("embed", 10, 8).unwrap();
    let w = b.matrix("w", 8, 8).unwrap();
    let x = b.op("x", Op::Embed, &[table]).unwrap();
    let q = b.op("q", linear(&[1, 8]), &[x, w]).unwrap();
    let old = b.cache(cache_spec());
    b.op("append", Op::KvAppend, &[q, q, old]).unwrap();
    let spec = AttentionSpec {
        scale: 1.0,
        window: None,
        softcap: None,
    };
    let o = b.op("stale", Op::Attention(spec), &[q, old]).unwrap();
    b.output("o", o);
    assert!(matches!(
        b.finish(),
        Err(GraphError::StaleCache { node, .. }) if node == "stale"
    ));
}
