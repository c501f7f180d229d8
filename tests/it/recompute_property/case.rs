//! The generator of cases.

use proptest::{
    collection::vec,
    option,
    prelude::{Strategy, any},
    prop_oneof,
    sample::select,
    strategy::Just,
};

/// Zones, each with the dates around which its bills lie.
pub(super) const ZONES: &[(&str, &[&str])] = &[
    ("Asia/Kolkata", &["2026-03-01"]),
    ("Asia/Calcutta", &["2024-02-29"]),
    ("Asia/Kathmandu", &["2025-12-31"]),
    ("America/New_York", &["2026-03-08", "2025-11-02"]),
    ("Africa/Cairo", &["2026-04-24", "2025-10-31"]),
    ("America/Havana", &["2026-03-08", "2025-11-02"]),
    ("Australia/Lord_Howe", &["2026-04-05", "2025-10-05"]),
    ("Pacific/Chatham", &["2026-04-05"]),
    ("Pacific/Apia", &["2011-12-30", "2026-01-01"]),
    ("Pacific/Kiritimati", &["1994-12-31"]),
    ("Pacific/Marquesas", &["2026-05-01"]),
    ("UTC", &["1970-01-02"]),
];

/// The test catalogue: ids and departments. Bills also have the ids 5 and 0, which are not in it.
pub(super) const TESTS: &[(i64, Option<i64>)] =
    &[(1, Some(10)), (2, None), (3, Some(-7)), (4, Some(0)), (-3, Some(10))];

/// An event type in the same table that is not daymend's.
pub(super) const FOREIGN: &str = "custom_report";

pub(super) const EVENTS: [&str; 16] = [
    "organization_bill",
    "referral_bill",
    "branch_bill",
    "organization_test",
    "referral_test",
    "branch_test",
    "department_test",
    "organization_sample",
    "referral_sample",
    "branch_sample",
    "organization_sample_accessed",
    "referral_sample_accessed",
    "branch_sample_accessed",
    "organization_sample_not_accessed",
    "referral_sample_not_accessed",
    "branch_sample_not_accessed",
];

pub(super) type Info = Option<(Option<i64>, Option<i64>, Option<i64>)>;

/// A moment: `after_us` microseconds after the first instant of the day that is `day` days from an anchor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) anchor: usize,
    pub(super) day: i64,
    pub(super) after_us: i64,
}

#[derive(Debug, Clone)]
pub(super) struct BillCase {
    pub(super) moment: Moment,
    pub(super) cancelled: bool,
    pub(super) info: Info,
    pub(super) tests: Vec<(i64, bool)>,
    pub(super) samples: Vec<(i64, bool)>,
}

/// A change to the source. A bill is given by its place, modulo the number of bills.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    ToggleBill(usize),
    Reassign(usize, Info),
    LoseInfo(usize),
    Move(usize, Moment),
    Delete(usize),
    ToggleTests(usize),
    Accessed(usize, i64),
}

/// A summary row that is probably wrong.
#[derive(Debug, Clone)]
pub(super) struct Ghost {
    pub(super) day: GhostDay,
    pub(super) a: i64,
    pub(super) b: i64,
    pub(super) event: usize,
    pub(super) count: i64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum GhostDay {
    Near(Moment),
    Far(&'static str),
}

#[derive(Debug, Clone)]
pub(super) struct LabCase {
    pub(super) zone: usize,
    pub(super) negative_id: bool,
    pub(super) bills: Vec<BillCase>,
    pub(super) edits: Vec<Edit>,
    /// Those added before the repair, and those added before the rebuild.
    pub(super) ghosts: [Vec<Ghost>; 2],
    /// The seed that decides how correct rows are damaged before the repair.
    pub(super) damage: u64,
}

fn moment() -> impl Strategy<Value = Moment> {
    let hour = 3_600_000_000_i64;
    let after_us =
        prop_oneof![select(vec![-1, 0, 1, hour / 2, hour / 2 - 1, hour - 1, hour, -hour, -hour - 1]), 0..24 * hour,];
    // The last anchor of each zone is today, so bills of today and tomorrow occur.
    (0..3_usize, -1..=1_i64, after_us).prop_map(|(anchor, day, after_us)| Moment { anchor, day, after_us })
}

fn info() -> impl Strategy<Value = Info> {
    let dimension = || option::weighted(0.8, select(vec![-1_i64, 0, 1, 2, 9_000_000_000]));
    option::weighted(0.9, (dimension(), dimension(), dimension()))
}

fn bill() -> impl Strategy<Value = BillCase> {
    let tests = vec((select(vec![1_i64, 2, 3, 4, -3, 5, 0]), any::<bool>()), 0..4);
    let samples = vec((select(vec![1_i64, 2, 0, -8]), any::<bool>()), 0..4);
    (moment(), proptest::bool::weighted(0.2), info(), tests, samples)
        .prop_map(|(moment, cancelled, info, tests, samples)| BillCase { moment, cancelled, info, tests, samples })
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = || 0..12_usize;
    prop_oneof![
        place().prop_map(Edit::ToggleBill),
        (place(), info()).prop_map(|(place, info)| Edit::Reassign(place, info)),
        place().prop_map(Edit::LoseInfo),
        (place(), moment()).prop_map(|(place, moment)| Edit::Move(place, moment)),
        place().prop_map(Edit::Delete),
        place().prop_map(Edit::ToggleTests),
        (place(), 0..=2_i64).prop_map(|(place, accessed)| Edit::Accessed(place, accessed)),
    ]
}

fn ghost() -> impl Strategy<Value = Ghost> {
    // Before the first bill, on a date that Apia does not have, yesterday or today, and after today.
    let far = select(vec!["1960-02-29", "2011-12-30", "2026-06-14", "2026-06-15", "2026-06-16", "2030-01-01"]);
    let day = prop_oneof![2 => moment().prop_map(GhostDay::Near), 1 => far.prop_map(GhostDay::Far)];
    let (a, b) = (select(vec![-1_i64, 0, 1, 2, 10]), select(vec![0_i64, 1, 2, -3]));
    (day, a, b, 0..EVENTS.len(), -1..5_i64).prop_map(|(day, a, b, event, count)| Ghost { day, a, b, event, count })
}

pub(super) fn labs() -> impl Strategy<Value = Vec<LabCase>> {
    let bills = prop_oneof![9 => vec(bill(), 1..12), 1 => Just(Vec::new())];
    let lab = (
        0..ZONES.len(),
        any::<bool>(),
        bills,
        vec(edit(), 0..6),
        [vec(ghost(), 0..6), vec(ghost(), 0..6)],
        any::<u64>(),
    );
    let lab = lab.prop_map(|(zone, negative_id, bills, edits, ghosts, damage)| LabCase {
        zone,
        negative_id,
        bills,
        edits,
        ghosts,
        damage,
    });
    vec(lab, 1..=3)
}
