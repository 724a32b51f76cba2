//! Which sizes the next case of a key has, and when it has met enough.

use super::batch::Split;
use super::case::Case;
use super::dims::{Dealer, Dims, Mode};
use super::report::KeyReport;
use super::rng::Rng;
use graph::OpKind;
use hal::DeviceKind;
use registry::KernelSpec;

/// How many cases a key meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cases {
    #[default]
    All,
    /// Under a third of them.
    Quick,
    /// As few, for devices that take seconds to compile a pipeline: three cases in a row
    /// share their sizes, and of the keys that differ by nothing but a scheme of blocks
    /// all but the first see three cases in all, of one row and of several. Each scheme
    /// meets other sizes.
    FewPipelines,
}

impl Cases {
    pub(super) fn of_key(self) -> usize {
        match self {
            Cases::All => 40,
            Cases::Quick | Cases::FewPipelines => 12,
        }
    }

    /// Of a key like another, but for its scheme of blocks.
    pub(super) fn of_scheme(self) -> usize {
        match self {
            Cases::FewPipelines => 3,
            _ => self.of_key(),
        }
    }

    /// In a row, of the same sizes.
    fn of_sizes(self) -> usize {
        match self {
            Cases::FewPipelines => 3,
            _ => 1,
        }
    }
}

/// Sizes that are looked through for one that a kernel takes.
const LOOKED_THROUGH: usize = 100;

/// Deals the cases of a key in up to three rounds of [`Cases::of_key`]: kernels that
/// refuse some see more, of sizes that they take, and those that took next to none
/// single rows at last, for some take nothing else. What other hardware would take is
/// not looked for again.
pub struct Turns<'s> {
    spec: &'s KernelSpec,
    dealer: Dealer,
    cases: Cases,
    /// Cases that are enough.
    wanted: usize,
    turn: usize,
    /// Sizes of the case that ran last, and whether it was that of the last turn.
    last: Option<Dims>,
    just_ran: bool,
    ran: usize,
    /// Cases that are left of more work than a device does at once.
    many: usize,
}

impl<'s> Turns<'s> {
    /// Kernels of one pattern and scheme meet the same cases on every tree, as long as
    /// they take the same.
    pub fn new(spec: &'s KernelSpec, cases: Cases, wanted: usize, kind: DeviceKind) -> Self {
        let key = spec.key();
        let attends = matches!(spec.pattern.ops, [op] if op.kind == OpKind::Attention);
        let many = match cases {
            Cases::All if attends && kind != DeviceKind::Software => 2,
            _ => 0,
        };
        Turns {
            spec,
            dealer: Dealer::new(&format!("{}/{}", key.layer, key.quant)),
            cases,
            wanted,
            turn: 0,
            last: None,
            just_ran: false,
            ran: 0,
            many,
        }
    }

    /// Sizes for the next case; `None` when all reports have enough. `takes` says whether
    /// the kernel takes some in a layout.
    pub fn next(
        &mut self,
        reports: &[KeyReport],
        takes: impl Fn(&Dims, &'static str) -> bool,
    ) -> Option<Dims> {
        let next = self.next_by_turn(reports, &takes);
        next.or_else(|| {
            let left = self.many.checked_sub(1)?;
            self.many = left;
            self.many_rows(left, |d| reports.iter().any(|r| takes(d, r.layout)))
        })
    }

    /// Some 300 times 128 rows of a head, where a device does fewer at once: kernels whose
    /// workgroups walk over their work meet more than one piece of it. `None` if the kernel
    /// takes no such sizes.
    fn many_rows(&mut self, turn: usize, takes: impl Fn(&Dims) -> bool) -> Option<Dims> {
        let dealt = (0..LOOKED_THROUGH).map(|_| {
            let mut d = Case::sizes(self.spec, &mut self.dealer, false);
            (d.rows, d.bucket) = (690, (257, 700));
            (d.kv_heads, d.group) = (3, 16);
            d.split = [Split::One, Split::Mixed][turn % 2];
            d.past = vec![turn];
            d
        });
        dealt.into_iter().find(|d| takes(d))
    }

    fn next_by_turn(
        &mut self,
        reports: &[KeyReport],
        takes: impl Fn(&Dims, &'static str) -> bool,
    ) -> Option<Dims> {
        let (turn, round) = (self.turn, self.cases.of_key());
        let elsewhere = |r: &KeyReport| r.cases == 0 && r.lacking > 0 && turn >= round;
        let enough = |r: &KeyReport| r.cases >= self.wanted || elsewhere(r);
        if turn >= self.wanted && reports.iter().all(enough) {
            return None;
        }
        let few = |r: &KeyReport| r.lacking == 0 && r.cases < self.wanted / 3;
        let singles = turn >= 2 * round;
        if turn >= 3 * round || (singles && !reports.iter().any(few)) {
            return None;
        }
        self.turn += 1;
        let just_ran = std::mem::take(&mut self.just_ran);
        if self.wanted < round && !singles {
            return Some(self.of_scheme(turn));
        }
        match &self.last {
            Some(last) if just_ran && !self.ran.is_multiple_of(self.cases.of_sizes()) => {
                let last = last.clone();
                Some(self.varied(last))
            }
            _ => {
                let mut d = Case::sizes(self.spec, &mut self.dealer, singles);
                let mut looked_at = 0;
                let wanting = || reports.iter().filter(|r| r.cases < self.wanted);
                while turn >= round
                    && !wanting().any(|r| takes(&d, r.layout))
                    && looked_at < LOOKED_THROUGH
                {
                    d = Case::sizes(self.spec, &mut self.dealer, singles);
                    looked_at += 1;
                }
                Some(d)
            }
        }
    }

    /// The few of a scheme: one row twice, then several, in sizes in which a mistake in
    /// a scheme shows.
    fn of_scheme(&mut self, turn: usize) -> Dims {
        let several = !Case::one_row_only(self.spec);
        match self.last.clone() {
            Some(mut last) if several && last.bucket.1 == 1 && turn == 2 => {
                (last.rows, last.bucket) = (7, (2, 16));
                last
            }
            Some(last) => self.varied(last),
            None => {
                let mut d = Case::sizes(self.spec, &mut self.dealer, turn == 0);
                d.enlarge();
                d
            }
        }
    }

    fn varied(&mut self, mut d: Dims) -> Dims {
        self.dealer.vary(&mut d);
        if self.wanted < self.cases.of_key() && d.mode == Mode::Zeros {
            d.mode = Mode::Normal;
        }
        d
    }

    /// The case of these sizes ran.
    pub fn ran(&mut self, d: Dims) {
        self.last = Some(d);
        self.just_ran = true;
        self.ran += 1;
    }

    pub fn rng(&mut self) -> &mut Rng {
        &mut self.dealer.rng
    }
}
