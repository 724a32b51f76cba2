//! Ragged batches: spans, positions, block tables, and the step buffer they make.

use super::rng::Rng;
use registry::{NO_BLOCK, NO_STATE, RowsFrom, STEP_VERSION, StepLayout};
use std::ops::Range;

#[derive(Clone, Debug, Default)]
pub struct Span {
    /// Position of the first row.
    pub first: usize,
    /// One entry a row: its token id, and whether its logits are asked for.
    pub tokens: Vec<(u32, bool)>,
    /// Page of each block in the group that the case's caches use.
    pub table: Vec<u32>,
    /// Slot of the recurrent state before the first row; `None`: zeros.
    pub state_in: Option<u32>,
    /// The slot that receives the state behind each row, if it is kept. Rows past
    /// the end keep nothing.
    pub kept: Vec<Option<u32>>,
}

impl Span {
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens in the cache after the step.
    pub fn end(&self) -> usize {
        self.first + self.rows()
    }

    /// Some of its rows, from the same state.
    fn part(&self, rows: Range<usize>) -> Span {
        Span {
            first: self.first + rows.start,
            tokens: self.tokens[rows.clone()].to_vec(),
            table: self.table.clone(),
            state_in: self.state_in,
            kept: self.kept.get(rows).map(<[_]>::to_vec).unwrap_or_default(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Batch {
    pub spans: Vec<Span>,
    /// The group whose tables the spans carry.
    pub group: usize,
    /// Slots of recurrent states that the batch does not use: one for each span
    /// and one more, if there are states at all.
    pub spare: Vec<u32>,
}

impl Batch {
    pub fn rows(&self) -> usize {
        self.spans.iter().map(Span::rows).sum()
    }

    pub fn logit_rows(&self) -> usize {
        self.tokens().filter(|(_, wanted)| *wanted).count()
    }

    pub fn count(&self, from: RowsFrom) -> usize {
        match from {
            RowsFrom::Fixed => 1,
            RowsFrom::Batch => self.rows(),
            RowsFrom::Logits => self.logit_rows(),
        }
    }

    fn tokens(&self) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.spans.iter().flat_map(|s| s.tokens.iter().copied())
    }

    pub fn token_ids(&self) -> Vec<usize> {
        self.tokens().map(|(id, _)| id as usize).collect()
    }

    /// Rows of the batch whose logits are asked for.
    pub fn wanted(&self) -> Vec<usize> {
        let rows = self.tokens().enumerate();
        rows.filter(|(_, (_, wanted))| *wanted)
            .map(|(r, _)| r)
            .collect()
    }

    /// What each output row's logits are multiplied with: a matter of its token.
    pub fn inv_temps(&self) -> Vec<f32> {
        const INV_TEMPS: [f32; 5] = [1.0, 1.0 / 0.7, 1.0 / 1.9, 11.0, 1e-3];
        let wanted = self.tokens().filter(|(_, wanted)| *wanted);
        wanted
            .map(|(id, _)| INV_TEMPS[id as usize % INV_TEMPS.len()])
            .collect()
    }

    /// Span and position of each row.
    pub fn places(&self) -> Vec<(usize, usize)> {
        let spans = self.spans.iter().enumerate();
        spans
            .flat_map(|(s, span)| (span.first..span.end()).map(move |p| (s, p)))
            .collect()
    }

    /// The slot that receives the state behind each row.
    pub fn kept(&self) -> Vec<Option<u32>> {
        let spans = self.spans.iter();
        spans
            .flat_map(|s| (0..s.rows()).map(|i| s.kept.get(i).copied().flatten()))
            .collect()
    }

    /// The step buffer. Rows and spans that are not real look like row 0 of span
    /// 0, so that a kernel that computes them anyway writes where it shows; the state
    /// behind them has a slot that nobody may write.
    pub fn words(&self, layout: &StepLayout) -> Vec<u32> {
        let mut w = vec![0; layout.words()];
        w[0] = STEP_VERSION;
        w[StepLayout::ROWS] = self.rows() as u32;
        w[StepLayout::SPANS] = self.spans.len() as u32;
        w[StepLayout::LOGIT_ROWS] = self.logit_rows() as u32;
        let slot = |slot: Option<u32>| slot.unwrap_or(NO_STATE);
        w[layout.state_in()..layout.table(0)].fill(slot(self.spare.last().copied()));
        for (row, kept) in self.kept().into_iter().enumerate() {
            w[layout.state_out() + row] = slot(kept);
        }
        let mut row = 0;
        for (s, span) in self.spans.iter().enumerate() {
            w[layout.state_in() + s] = slot(span.state_in);
            w[layout.span_start() + s] = row as u32;
            w[layout.span_len() + s] = span.end() as u32;
            for (i, (id, _)) in span.tokens.iter().enumerate() {
                w[layout.token_ids() + row] = *id;
                w[layout.positions() + row] = (span.first + i) as u32;
                w[layout.row_span() + row] = s as u32;
                row += 1;
            }
        }
        for (i, r) in self.wanted().iter().enumerate() {
            w[layout.logit_rows() + i] = *r as u32;
        }
        // Rows that are not real weigh nothing as they should.
        w[layout.inv_temps()..].fill(f32::NAN.to_bits());
        for (i, t) in self.inv_temps().into_iter().enumerate() {
            w[layout.inv_temps() + i] = t.to_bits();
        }
        w[layout.span_start() + self.spans.len()..=layout.span_start() + layout.max_spans]
            .fill(row as u32);
        for (g, group) in layout.groups.iter().enumerate() {
            for s in 0..layout.max_spans {
                let at = layout.table(g) + s * group.blocks;
                let table = &mut w[at..at + group.blocks];
                table.fill(NO_BLOCK);
                if let Some(span) = self.spans.get(s)
                    && g == self.group
                {
                    table[..span.table.len()].copy_from_slice(&span.table);
                }
            }
        }
        w
    }

    /// The same spans in reverse order, and for each counter the old row that
    /// each new row is.
    pub fn reversed(&self) -> (Batch, Vec<usize>, Vec<usize>) {
        let starts: Vec<usize> = (self.spans.iter())
            .scan(0, |at, s| {
                *at += s.rows();
                Some(*at - s.rows())
            })
            .collect();
        let order: Vec<usize> = (self.spans.iter().zip(&starts).rev())
            .flat_map(|(s, start)| *start..start + s.rows())
            .collect();
        let wanted = self.wanted();
        let logits = (order.iter())
            .filter_map(|r| wanted.iter().position(|w| w == r))
            .collect();
        let batch = Batch {
            spans: self.spans.iter().rev().cloned().collect(),
            ..self.clone()
        };
        (batch, order, logits)
    }

    /// The same work in two steps, each of `least` rows or more, with the old rows
    /// of each; the state in between goes through spare slots. `None` where there
    /// are too few rows.
    pub fn halves(&self, least: usize) -> Option<[(Batch, Vec<usize>); 2]> {
        let mut halves = [(); 2].map(|()| {
            let batch = Batch {
                spans: Vec::new(),
                ..self.clone()
            };
            (batch, Vec::new())
        });
        let (mut start, mut up) = (0, false);
        for (span, spare) in self.spans.iter().zip(&self.spare) {
            let rows = span.rows();
            // Odd ones go to either side in turn.
            let cut = (rows + usize::from(up && rows % 2 == 1)) / 2;
            up ^= rows % 2 == 1;
            let mut early = span.part(0..cut);
            let mut late = span.part(cut..rows);
            if let Some(last) = early.kept.last_mut() {
                late.state_in = Some(*last.get_or_insert(*spare));
            }
            for ((batch, order), (part, at)) in (halves.iter_mut()).zip([(early, 0), (late, cut)]) {
                order.extend(start + at..start + at + part.rows());
                batch.spans.push(part);
            }
            start += rows;
        }
        let enough = halves.iter().all(|(b, _)| b.rows() >= least.max(1));
        enough.then_some(halves)
    }
}

/// How a number of rows is dealt to spans.
#[derive(Clone, Copy, Debug)]
pub enum Split {
    One,
    /// As many single rows as there may be spans.
    Singles,
    /// Single rows before, between and after prefills.
    Mixed,
    /// As `Mixed`, with an empty span among them.
    WithEmpty,
}

pub fn split(rows: usize, max_spans: usize, how: Split, rng: &mut Rng) -> Vec<usize> {
    let mut parts = match how {
        Split::One => vec![rows],
        Split::Singles => {
            let singles = rows.min(max_spans) - 1;
            let mut parts = vec![1; singles];
            parts.push(rows - singles);
            parts
        }
        Split::Mixed | Split::WithEmpty => {
            let mut parts = Vec::new();
            let mut left = rows;
            while left > 0 && parts.len() + 2 < max_spans {
                let part = if parts.len() % 2 == 0 {
                    1
                } else {
                    1 + rng.below(left)
                };
                parts.push(part);
                left -= part;
            }
            if left > 0 {
                parts.push(left);
            }
            parts
        }
    };
    if matches!(how, Split::WithEmpty) && parts.len() < max_spans {
        parts.insert(rng.below(parts.len() + 1), 0);
    }
    parts
}
