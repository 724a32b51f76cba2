//! Which rows of a tensor a recipe takes, and in which order.

use std::ops::Range;

use super::recipe::RecipeProblem;

/// Rows of a tensor (entries of its outermost dimension; elements of a vector), as the digits of a
/// number count them: row i of the result, written with one digit below `count` for each
/// (`count`, `step`), is the row `start` + Σ digit · step of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPattern {
    start: usize,
    /// Outermost first.
    digits: Vec<(usize, usize)>,
    /// The pattern repeats every so many rows, over all rows.
    period: Option<usize>,
    /// Every row is taken once.
    permutes: bool,
}

impl RowPattern {
    /// The rows of `rows`, once.
    pub fn range(rows: Range<usize>) -> Self {
        Self::nested(rows.start, &[(rows.len(), 1)])
    }

    /// Within each `period` rows the rows of `take`: what one projection of a fused one has in
    /// each head, or expert. The source has a whole number of periods.
    pub fn blocks(period: usize, take: Range<usize>) -> Self {
        Self::range(take).every(period)
    }

    /// Rows `first`, `first` + `step`, `first` + 2 · `step`, … of a source with a multiple of
    /// `step` rows.
    pub fn strided(step: usize, first: usize) -> Self {
        Self::blocks(step, first..first.saturating_add(1))
    }

    /// Undoes pairing: within each `head` rows, first the even ones and then the odd ones.
    /// Llama-type GGUF files keep the projections of queries and keys paired, because their
    /// rotation pairs neighbours.
    pub fn halves(head: usize) -> Self {
        Self::permutation(head, &[(2, 1), (head / 2, 2)])
    }

    /// Pairs rows: within each `head` rows, 0, h, 1, h + 1, … with h = `head` / 2. The inverse of
    /// [`halves`](Self::halves).
    pub fn pairs(head: usize) -> Self {
        Self::permutation(head, &[(head / 2, 1), (2, head / 2)])
    }

    /// Any pattern of digits (`count`, `step`), outermost first.
    pub fn nested(start: usize, digits: &[(usize, usize)]) -> Self {
        Self {
            start,
            digits: digits.to_vec(),
            period: None,
            permutes: false,
        }
    }

    /// The pattern within each `period` rows of the source, one after the other.
    pub fn every(mut self, period: usize) -> Self {
        self.period = Some(period);
        self
    }

    fn permutation(period: usize, digits: &[(usize, usize)]) -> Self {
        Self {
            permutes: true,
            ..Self::nested(0, digits).every(period)
        }
    }

    /// The pattern over a source of `rows` rows.
    pub(super) fn over(&self, rows: usize) -> Result<Taken, RecipeProblem> {
        let within = self.period.unwrap_or(rows);
        if within == 0 || !rows.is_multiple_of(within) {
            return Err(RecipeProblem::Period {
                rows,
                period: within,
            });
        }
        let count = (self.digits.iter()).try_fold(1usize, |n, (count, _)| n.checked_mul(*count));
        let last = self
            .digits
            .iter()
            .try_fold(self.start, |at, (count, step)| {
                at.checked_add(count.saturating_sub(1).checked_mul(*step)?)
            });
        let (Some(count), Some(last)) = (count, last) else {
            return Err(RecipeProblem::TooLarge);
        };
        if count == 0 {
            return Err(RecipeProblem::NoRows);
        }
        if last >= within {
            return Err(RecipeProblem::Rows {
                last,
                rows: within,
                periodic: self.period.is_some(),
            });
        }
        if count > within || self.permutes && count != within {
            return Err(RecipeProblem::Count {
                count,
                rows: within,
            });
        }
        let mut digits = vec![(rows / within, within)];
        digits.extend(&self.digits);
        Ok(Taken::new(self.start, digits))
    }
}

/// Rows of a source that has them all.
#[derive(Debug)]
pub(super) struct Taken {
    start: usize,
    digits: Vec<(usize, usize)>,
    /// Neighbours of the result that are neighbours in the source come in runs of so many.
    run: usize,
}

impl Taken {
    fn new(start: usize, digits: Vec<(usize, usize)>) -> Self {
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (count, step) in digits.into_iter().filter(|(count, _)| *count > 1) {
            match merged.last_mut() {
                Some(outer) if outer.1 == count * step => *outer = (outer.0 * count, step),
                _ => merged.push((count, step)),
            }
        }
        let run = match merged.last() {
            Some((count, 1)) => *count,
            _ => 1,
        };
        Self {
            start,
            digits: merged,
            run,
        }
    }

    /// Rows taken.
    pub(super) fn count(&self) -> usize {
        self.digits.iter().map(|(count, _)| count).product()
    }

    /// From the first row taken to the last.
    pub(super) fn span(&self) -> Range<usize> {
        let last = self.digits.iter().map(|(count, step)| (count - 1) * step);
        self.start..self.start + last.sum::<usize>() + 1
    }

    /// The row of the source that is row `row`, and how many follow it in both.
    pub(super) fn source(&self, row: usize) -> (usize, usize) {
        let mut at = self.start;
        let mut rest = row;
        for (count, step) in self.digits.iter().rev() {
            at += rest % count * step;
            rest /= count;
        }
        (at, self.run - row % self.run)
    }
}
