//! An independent calculation of the expected summary: straight from the text of the contract, with none of daymend's
//! code or SQL.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;

use super::TestDb;

/// (lab, day, a, b, event type)
pub type Key = (i64, NaiveDate, i64, i64, String);

/// Calculates every summary row of these labs for days before `today_at`'s date in their time zones.
pub async fn expected(db: &TestDb, labs: &[(i64, Tz)], today_at: DateTime<Utc>) -> BTreeMap<Key, i64> {
    let departments: BTreeMap<i64, Option<i64>> = db
        .rows("SELECT id, department_id FROM allTests", vec![])
        .await
        .iter()
        .map(|row| (row.int(0).unwrap(), row.int_or_null(1).unwrap()))
        .collect();
    let mut infos = BTreeMap::new();
    for row in db.rows("SELECT billing_id, organization_id, referral_id, branch_id FROM billingInfo", vec![]).await {
        let dimension = |column| row.int_or_null(column).unwrap();
        infos.insert(row.int(0).unwrap(), [dimension(1), dimension(2), dimension(3)]);
    }
    let mut bills = BTreeMap::new();
    for row in db.rows("SELECT id, lab_id, billTime, isCancelled FROM billing", vec![]).await {
        let (lab_id, at) = (row.int(1).unwrap(), row.instant(2).unwrap());
        let Some((_, zone)) = labs.iter().find(|(lab, _)| *lab == lab_id) else { continue };
        let day = at.with_timezone(zone).date_naive();
        let today = today_at.with_timezone(zone).date_naive();
        if row.int(3).unwrap() == 0 && day < today {
            bills.insert(row.int(0).unwrap(), (lab_id, day));
        }
    }
    let mut counts: BTreeMap<Key, i64> = BTreeMap::new();
    let owners = ["organization", "referral", "branch"];
    let mut count = |(lab, day): (i64, NaiveDate), a: i64, b: i64, event: String| {
        *counts.entry((lab, day, a, b, event)).or_default() += 1;
    };
    let owned = |bill: &i64| {
        let info = infos.get(bill).copied().unwrap_or_default();
        owners.into_iter().zip(info).filter_map(|(owner, id)| Some((owner, id?)))
    };
    for (bill, at) in &bills {
        for (owner, id) in owned(bill) {
            count(*at, id, 0, format!("{owner}_bill"));
        }
    }
    for row in db.rows("SELECT billing_id, test_id FROM labReportRelation WHERE isCancelled = 0", vec![]).await {
        let (bill, test) = (row.int(0).unwrap(), row.int(1).unwrap());
        let Some(at) = bills.get(&bill) else { continue };
        for (owner, id) in owned(&bill) {
            count(*at, id, test, format!("{owner}_test"));
        }
        if let Some(department) = departments.get(&test).copied().flatten() {
            count(*at, department, test, "department_test".to_owned());
        }
    }
    for row in db.rows("SELECT billing_id, sampleType_id, isAccessed FROM collectedSample", vec![]).await {
        let (bill, sample, accessed) = (row.int(0).unwrap(), row.int(1).unwrap(), row.int(2).unwrap());
        let Some(at) = bills.get(&bill) else { continue };
        for (owner, id) in owned(&bill) {
            count(*at, id, sample, format!("{owner}_sample"));
            match accessed {
                1 => count(*at, id, sample, format!("{owner}_sample_accessed")),
                0 => count(*at, id, sample, format!("{owner}_sample_not_accessed")),
                _ => {}
            }
        }
    }
    counts
}

/// Reads the stored rows, and panics if a row is stored twice or has a NULL dimension.
pub async fn stored(db: &TestDb) -> BTreeMap<Key, i64> {
    let sql = "SELECT lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count
               FROM operation_historical_summary";
    let mut rows = BTreeMap::new();
    for row in db.rows(sql, vec![]).await {
        let key =
            (row.int(0).unwrap(), row.date(1).unwrap(), row.int(2).unwrap(), row.int(3).unwrap(), row.text(4).unwrap());
        let twice = rows.insert(key.clone(), row.int(5).unwrap());
        assert_eq!(twice, None, "{key:?} is stored twice");
    }
    rows
}

/// Asserts that stored and expected rows are equal; the message shows only some that differ.
pub fn assert_equal(stored: &BTreeMap<Key, i64>, expected: &BTreeMap<Key, i64>) {
    let missing: Vec<_> = expected.iter().filter(|(key, count)| stored.get(*key) != Some(*count)).take(10).collect();
    let ghosts: Vec<_> = stored.iter().filter(|(key, _)| !expected.contains_key(*key)).take(10).collect();
    assert!(
        missing.is_empty() && ghosts.is_empty(),
        "missing or wrong: {missing:#?}\nghosts: {ghosts:#?}\nstored {}, expected {}",
        stored.len(),
        expected.len()
    );
}
