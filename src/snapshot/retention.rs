//! Which snapshots to keep: `7 daily, 4 weekly, 12 monthly`.
//!
//! A rule keeps the newest snapshot of each of the last N days, weeks (Monday to Sunday), months or years that have
//! one, all in UTC. Snapshots that no rule keeps are removed.
//!
//! The rules are applied to each snapshot among those of the same database that have all of its tables. So a snapshot
//! of a single table never displaces a full one, and the newest of each set of tables stays. A snapshot whose
//! manifest cannot be read, or whose name is in the future, displaces none, and stays.

use std::{collections::BTreeSet, fmt, str::FromStr};

use chrono::{DateTime, Datelike as _, Utc};

use super::{Manifest, Name, SnapshotError, Store};

/// The value of `--keep`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep(Vec<Rule>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    count: usize,
    period: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    /// Every snapshot counts.
    Last,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

const PERIODS: [(Period, &str); 5] = [
    (Period::Last, "last"),
    (Period::Daily, "daily"),
    (Period::Weekly, "weekly"),
    (Period::Monthly, "monthly"),
    (Period::Yearly, "yearly"),
];

impl Period {
    /// A value that all snapshots of the same period share.
    fn of(self, name: Name) -> (i32, u32) {
        let time = name.time();
        let seconds = || time.timestamp();
        match self {
            Self::Last => {
                (i32::try_from(seconds() / 86400).unwrap_or(0), u32::try_from(seconds() % 86400).unwrap_or(0))
            }
            Self::Daily => (time.year(), time.ordinal()),
            Self::Weekly => (time.iso_week().year(), time.iso_week().week()),
            Self::Monthly => (time.year(), time.month()),
            Self::Yearly => (time.year(), 0),
        }
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected =
            || format!("`{text}` is not a list such as `7 daily, 4 weekly, 12 monthly` (also: last, yearly)");
        let mut rules: Vec<Rule> = Vec::new();
        for rule in text.split(',') {
            let (count, period) = rule.trim().split_once(' ').ok_or_else(expected)?;
            let period = PERIODS.iter().find(|(_, name)| *name == period.trim()).ok_or_else(expected)?.0;
            let count = count.parse().map_err(|_| expected())?;
            if rules.iter().any(|rule| rule.period == period) {
                return Err(expected());
            }
            rules.push(Rule { count, period });
        }
        if rules.iter().all(|rule| rule.count == 0) {
            return Err(format!("`{text}` keeps nothing"));
        }
        Ok(Self(rules))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.0.iter().enumerate() {
            let name = PERIODS.iter().find(|(period, _)| *period == rule.period).map_or("", |(_, name)| name);
            write!(f, "{}{} {name}", if index > 0 { ", " } else { "" }, rule.count)?;
        }
        Ok(())
    }
}

/// The content of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The snapshot.
    pub name: Name,
    /// The database that was copied.
    pub database: String,
    /// Its tables.
    pub tables: BTreeSet<String>,
}

impl From<&Manifest> for Content {
    fn from(manifest: &Manifest) -> Self {
        Self {
            name: manifest.name,
            database: manifest.server.database.clone(),
            tables: manifest.tables.iter().map(|copy| copy.table.name.clone()).collect(),
        }
    }
}

impl Content {
    /// Whether it contains all that the other one contains.
    fn stands_for(&self, other: &Self) -> bool {
        self.database == other.database && self.tables.is_superset(&other.tables)
    }
}

impl Keep {
    /// The snapshots to remove, oldest first.
    #[must_use]
    pub fn to_prune(&self, contents: &[Content]) -> Vec<Name> {
        let is_kept = |content: &Content| {
            let same = contents.iter().filter(|other| other.stands_for(content)).map(|other| other.name);
            self.kept(&same.collect()).contains(&content.name)
        };
        let going: BTreeSet<Name> =
            contents.iter().filter(|content| !is_kept(content)).map(|content| content.name).collect();
        going.into_iter().collect()
    }

    /// The snapshots to keep, of some with the same content.
    fn kept(&self, names: &BTreeSet<Name>) -> BTreeSet<Name> {
        let mut kept = BTreeSet::new();
        for rule in &self.0 {
            let mut periods = Vec::new();
            for name in names.iter().rev() {
                let period = rule.period.of(*name);
                if periods.last() == Some(&period) {
                    continue;
                }
                if periods.len() == rule.count {
                    break;
                }
                periods.push(period);
                kept.insert(*name);
            }
        }
        kept
    }
}

/// What was pruned, or would be.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The snapshots that were removed, oldest first.
    pub removed: Vec<Name>,
    /// Those that stay because their content is unknown, and why.
    pub unread: Vec<(Name, SnapshotError)>,
    /// Those that stay because their name is in the future.
    pub ahead: Vec<Name>,
    /// How many things that interrupted takes left behind were removed.
    pub leftovers: usize,
}

/// Removes snapshots that are not to be kept, and what interrupted takes left behind. If a daily snapshot was just
/// `taken`, only others of its database are removed, and never that one, whatever else there is for its day. `now` tells
/// whose name is in the future.
///
/// # Errors
/// If the store fails; snapshots removed before that stay removed.
pub async fn prune(
    store: &Store,
    keep: &Keep,
    taken: Option<&Manifest>,
    now: DateTime<Utc>,
    dry_run: bool,
) -> Result<Pruned, SnapshotError> {
    let mut pruned = Pruned::default();
    let mut contents = Vec::new();
    for (name, manifest) in store.list().await? {
        match manifest {
            Ok(manifest) => contents.push(Content::from(&manifest)),
            Err(error) => pruned.unread.push((name, error)),
        }
    }
    if let Some(taken) = taken {
        contents.retain(|content| content.database == taken.server.database);
    }
    let now = taken.map_or(now, |taken| taken.name.time().max(now));
    let (ahead, contents): (Vec<Content>, Vec<Content>) =
        contents.into_iter().partition(|content| content.name.is_ahead(now));
    pruned.ahead = ahead.iter().map(|content| content.name).collect();
    for name in keep.to_prune(&contents) {
        if taken.is_some_and(|taken| taken.name == name) {
            continue;
        }
        if !dry_run {
            store.remove(name).await?;
        }
        pruned.removed.push(name);
    }
    pruned.leftovers = store.leftovers(dry_run).await?;
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot of each of these days, at 02:00.
    fn names(days: &[&str]) -> Vec<Name> {
        days.iter().map(|day| format!("{day}T020000Z").parse().unwrap()).collect()
    }

    fn content(name: Name, database: &str, tables: &[&str]) -> Content {
        Content { name, database: database.to_owned(), tables: tables.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// Which of these snapshots, all of the same tables, are removed.
    fn going(keep: &str, names: &[Name]) -> Vec<Name> {
        let contents: Vec<Content> = names.iter().map(|name| content(*name, "lab", &["labs"])).collect();
        keep.parse::<Keep>().unwrap().to_prune(&contents)
    }

    #[test]
    fn rules_keep_the_newest_of_each_period() {
        let november: Vec<String> = (1..=30).map(|day| format!("2026-11-{day:02}")).collect();
        let november: Vec<&str> = november.iter().map(String::as_str).collect();
        let months = ["2026-01-31", "2026-02-01", "2026-02-27", "2026-04-30", "2026-05-02"];
        for (keep, have, kept) in [
            ("3 daily", november.as_slice(), &["2026-11-28", "2026-11-29", "2026-11-30"][..]),
            // 2026-11-30 is a Monday.
            ("3 weekly", &november, &["2026-11-22", "2026-11-29", "2026-11-30"]),
            ("2 daily, 2 weekly", &november, &["2026-11-29", "2026-11-30"]),
            ("1 monthly", &november, &["2026-11-30"]),
            ("2 monthly", &months, &["2026-04-30", "2026-05-02"]),
            // A month without a snapshot does not count.
            ("3 monthly", &months, &["2026-02-27", "2026-04-30", "2026-05-02"]),
            ("9 yearly", &months, &["2026-05-02"]),
            ("2 last", &months, &["2026-04-30", "2026-05-02"]),
            // Only old ones: nothing is removed just because time passes.
            ("7 daily, 4 weekly, 12 monthly", &["2020-01-01", "2020-01-02"], &["2020-01-01", "2020-01-02"]),
            // The newest always stays.
            ("0 daily, 1 yearly", &["2026-12-31"], &["2026-12-31"]),
            // Weeks follow ISO 8601 across the end of a year.
            ("2 weekly", &["2025-12-28", "2025-12-29", "2026-01-04", "2026-01-05"], &["2026-01-04", "2026-01-05"]),
            ("1 daily", &[], &[]),
        ] {
            let have = names(have);
            let going = going(keep, &have);
            let left: Vec<Name> = have.iter().copied().filter(|name| !going.contains(name)).collect();
            assert_eq!(left, names(kept), "{keep}");
        }
    }

    #[test]
    fn several_a_day_are_one_day() {
        let names: Vec<Name> = ["2026-11-20T020000Z", "2026-11-21T020000Z", "2026-11-21T093000Z"]
            .map(|name| name.parse().unwrap())
            .to_vec();
        assert_eq!(going("2 daily", &names), [names[1]]);
        assert_eq!(going("2 last", &names), [names[0]]);
    }

    #[test]
    fn a_snapshot_is_replaced_only_by_one_that_has_its_tables() {
        let (full, part) = (&["billing", "labs"][..], &["billing"][..]);
        let [early, late, next] =
            ["2026-11-21T020000Z", "2026-11-21T090000Z", "2026-11-22T020000Z"].map(|name| name.parse().unwrap());
        for (have, going) in [
            // Snapshots of some tables never stand in for those of all tables; the reverse is possible.
            ([(early, "lab", full), (late, "lab", part), (next, "lab", full)], &[][..]),
            ([(early, "lab", part), (late, "lab", full), (next, "lab", full)], &[early]),
            ([(early, "lab", full), (late, "lab", full), (next, "lab", part)], &[early]),
            ([(early, "lab", &["labs"]), (late, "lab", part), (next, "lab", part)], &[]),
            // Nor do those of another database.
            ([(early, "lab", full), (late, "other", full), (next, "lab", full)], &[]),
        ] {
            let have = have.map(|(name, database, tables)| content(name, database, tables));
            assert_eq!("2 daily".parse::<Keep>().unwrap().to_prune(&have), going, "{have:?}");
        }
    }

    #[test]
    fn pruning_twice_prunes_once() {
        let days: Vec<String> = (1..=30).map(|day| format!("2026-06-{day:02}")).collect();
        let have = names(&days.iter().map(String::as_str).collect::<Vec<_>>());
        let keep = "7 daily, 4 weekly, 12 monthly";
        let first = going(keep, &have);
        let left: Vec<Name> = have.into_iter().filter(|name| !first.contains(name)).collect();
        assert!(!first.is_empty());
        assert_eq!(going(keep, &left), []);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in ["", "7", "daily", "7 hourly", "7 daily 4 weekly", "-1 daily", "7 daily, 2 daily", "0 daily"] {
            assert!(text.parse::<Keep>().is_err(), "{text}");
        }
        let keep: Keep = "7 daily,4  weekly, 12 monthly".parse().unwrap();
        assert_eq!(keep.to_string(), "7 daily, 4 weekly, 12 monthly");
    }
}
