//! Writing the step buffer.

use crate::cache::{SeqId, Sequences};
use crate::error::RuntimeError;
use registry::{NO_BLOCK, NO_STATE, STEP_VERSION, StepLayout};

/// One sequence's share of a step, its tokens already appended to the cache.
#[derive(Clone, Copy, Debug)]
pub struct SpanPlan {
    pub seq: SeqId,
    /// Rows of this span: the last so many tokens of the sequence.
    pub rows: usize,
    /// How many of its last rows need logits.
    pub logits: usize,
}

/// What a logit is multiplied with where nobody said.
const PLAIN: f32 = 1.0;

/// Reuses one host copy of the step buffer.
#[derive(Debug, Default)]
pub struct StepWriter {
    words: Vec<u32>,
}

impl StepWriter {
    /// The words of a step. The caller has checked that it fits the layout.
    /// `inv_temps`: of the first output rows; 1 for the others.
    pub fn write(
        &mut self,
        layout: &StepLayout,
        spans: &[SpanPlan],
        inv_temps: &[f32],
        sequences: &Sequences,
    ) -> Result<&[u32], RuntimeError> {
        let w = &mut self.words;
        w.clear();
        w.resize(layout.words(), 0);
        w[0] = STEP_VERSION;
        let mut row = 0;
        let mut logit = 0;
        w[layout.state_in()..layout.table(0)].fill(NO_STATE);
        for (s, span) in spans.iter().enumerate() {
            let tokens = sequences.tokens(span.seq)?;
            let first = tokens.len() - span.rows;
            w[layout.span_start() + s] = row as u32;
            w[layout.span_len() + s] = tokens.len() as u32;
            for (i, token) in tokens[first..].iter().enumerate() {
                w[layout.token_ids() + row + i] = *token;
                w[layout.positions() + row + i] = (first + i) as u32;
                w[layout.row_span() + row + i] = s as u32;
            }
            for kept in sequences.states(span.seq)? {
                match kept.len.checked_sub(first) {
                    Some(0) => w[layout.state_in() + s] = kept.slot,
                    Some(n) if n <= span.rows => {
                        w[layout.state_out() + row + n - 1] = kept.slot;
                    }
                    _ => {}
                }
            }
            for i in span.rows - span.logits..span.rows {
                w[layout.logit_rows() + logit] = (row + i) as u32;
                logit += 1;
            }
            row += span.rows;
            for (g, group) in layout.groups.iter().enumerate() {
                let table = sequences.table(span.seq, g)?;
                let at = layout.table(g) + s * group.blocks;
                let out = &mut w[at..at + group.blocks];
                out[..table.len()].copy_from_slice(table);
                out[table.len()..].fill(NO_BLOCK);
            }
        }
        // Spans that are not real are empty.
        for s in spans.len()..=layout.max_spans {
            w[layout.span_start() + s] = row as u32;
        }
        w[layout.inv_temps()..].fill(PLAIN.to_bits());
        for (to, t) in w[layout.inv_temps()..].iter_mut().zip(inv_temps) {
            *to = t.to_bits();
        }
        w[StepLayout::ROWS] = row as u32;
        w[StepLayout::SPANS] = spans.len() as u32;
        w[StepLayout::LOGIT_ROWS] = logit as u32;
        Ok(w)
    }
}
