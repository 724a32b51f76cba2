//! The step buffer: everything that changes from one step to the next.
//!
//! One buffer of u32 words whose offsets depend on the plan's bucket alone, so
//! that a recording made once serves every step. Written by the runtime, read by
//! kernels on any device (a GLSL or CUDA kernel takes the word offsets as
//! constants).
//!
//! ```text
//! header        version, rows, spans, logit_rows, then zeros up to 16 words
//! token_ids     [max_rows]
//! positions     [max_rows]       position of each row in its sequence
//! row_span      [max_rows]       the span each row belongs to
//! logit_rows    [max_logit_rows] rows whose logits were asked for, ascending
//! span_start    [max_spans + 1]  first row of each span; the end of the last
//! span_len      [max_spans]      tokens in the sequence's cache after the step
//! state_in      [max_spans]      slot of the recurrent state before the span's
//!                                first row; NO_STATE: zeros
//! state_out     [max_rows]       slot that receives the state behind a row, or
//!                                NO_STATE; distinct among the rows of a step, and
//!                                nobody's state_in
//! tables        group by group: [max_spans][blocks] page of each block
//! inv_temps     [max_logit_rows] bits of f32: 1 / temperature of each output row
//! ```

use crate::problem::RowsFrom;

/// Bumped whenever a field moves.
pub const STEP_VERSION: u32 = 3;

/// A block whose page was freed (behind a window) or not yet allocated.
pub const NO_BLOCK: u32 = u32::MAX;

/// A sequence without a state yet, or a row whose state is not kept.
pub const NO_STATE: u32 = u32::MAX;

const HEADER: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupLayout {
    /// Tokens of a block.
    pub block: usize,
    /// Blocks of the longest sequence.
    pub blocks: usize,
}

/// Word offsets of the step buffer's fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StepLayout {
    pub max_rows: usize,
    pub max_spans: usize,
    pub max_logit_rows: usize,
    pub groups: Vec<GroupLayout>,
}

impl StepLayout {
    pub const ROWS: usize = 1;
    pub const SPANS: usize = 2;
    pub const LOGIT_ROWS: usize = 3;

    pub fn token_ids(&self) -> usize {
        HEADER
    }

    pub fn positions(&self) -> usize {
        self.token_ids() + self.max_rows
    }

    pub fn row_span(&self) -> usize {
        self.positions() + self.max_rows
    }

    pub fn logit_rows(&self) -> usize {
        self.row_span() + self.max_rows
    }

    pub fn span_start(&self) -> usize {
        self.logit_rows() + self.max_logit_rows
    }

    pub fn span_len(&self) -> usize {
        self.span_start() + self.max_spans + 1
    }

    pub fn state_in(&self) -> usize {
        self.span_len() + self.max_spans
    }

    pub fn state_out(&self) -> usize {
        self.state_in() + self.max_spans
    }

    /// Start of a group's tables; the table of span s is `blocks·s` further.
    pub fn table(&self, group: usize) -> usize {
        let before: usize = self.groups[..group]
            .iter()
            .map(|g| g.blocks * self.max_spans)
            .sum();
        self.state_out() + self.max_rows + before
    }

    pub fn inv_temps(&self) -> usize {
        self.table(self.groups.len())
    }

    pub fn words(&self) -> usize {
        self.inv_temps() + self.max_logit_rows
    }

    pub fn bytes(&self) -> u64 {
        self.words() as u64 * 4
    }
}

/// The step buffer as the host writes it and CPU kernels read it.
#[derive(Clone, Copy)]
pub struct StepView<'a> {
    pub layout: &'a StepLayout,
    pub words: &'a [u32],
}

impl<'a> StepView<'a> {
    pub fn new(layout: &'a StepLayout, words: &'a [u32]) -> Self {
        StepView { layout, words }
    }

    /// Real rows of this step, at most `max_rows`.
    pub fn rows(&self) -> usize {
        self.words[StepLayout::ROWS] as usize
    }

    pub fn spans(&self) -> usize {
        self.words[StepLayout::SPANS] as usize
    }

    pub fn logit_row_count(&self) -> usize {
        self.words[StepLayout::LOGIT_ROWS] as usize
    }

    /// The step's counter for an operand's leading dimension; 1 for
    /// [`RowsFrom::Fixed`].
    pub fn count(&self, from: RowsFrom) -> usize {
        match from {
            RowsFrom::Fixed => 1,
            RowsFrom::Batch => self.rows(),
            RowsFrom::Logits => self.logit_row_count(),
        }
    }

    pub fn token_id(&self, row: usize) -> usize {
        self.words[self.layout.token_ids() + row] as usize
    }

    pub fn position(&self, row: usize) -> usize {
        self.words[self.layout.positions() + row] as usize
    }

    pub fn row_span(&self, row: usize) -> usize {
        self.words[self.layout.row_span() + row] as usize
    }

    pub fn logit_row(&self, i: usize) -> usize {
        self.words[self.layout.logit_rows() + i] as usize
    }

    pub fn span_rows(&self, span: usize) -> std::ops::Range<usize> {
        let at = self.layout.span_start() + span;
        self.words[at] as usize..self.words[at + 1] as usize
    }

    pub fn span_len(&self, span: usize) -> usize {
        self.words[self.layout.span_len() + span] as usize
    }

    /// Slot of the state before the span's first row; `None`: zeros.
    pub fn state_in(&self, span: usize) -> Option<usize> {
        let slot = self.words[self.layout.state_in() + span];
        (slot != NO_STATE).then_some(slot as usize)
    }

    /// Slot that receives the state behind a row, if it is kept.
    pub fn state_out(&self, row: usize) -> Option<usize> {
        let slot = self.words[self.layout.state_out() + row];
        (slot != NO_STATE).then_some(slot as usize)
    }

    /// What the logits of output row `i` are multiplied with before they are weighed.
    pub fn inv_temp(&self, i: usize) -> f32 {
        f32::from_bits(self.words[self.layout.inv_temps() + i])
    }

    /// Pages of a span's blocks in a group, [`NO_BLOCK`] where there is none.
    pub fn table(&self, group: usize, span: usize) -> &'a [u32] {
        let blocks = self.layout.groups[group].blocks;
        let at = self.layout.table(group) + span * blocks;
        &self.words[at..at + blocks]
    }
}
