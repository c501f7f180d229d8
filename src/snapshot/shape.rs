//! What two sides of a comparison have in common for a table, and when two rows with the same key are different rows.

use std::collections::BTreeSet;

use super::{
    cells::{self, Cells},
    schema::Table,
};
use crate::db::Arg;

/// What two sides have in common for a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The table's name.
    pub table: String,
    /// The columns to compare and restore, without generated ones.
    pub columns: Vec<String>,
    /// The positions of the key's columns among them.
    pub key: Vec<usize>,
    /// The positions of the columns of each other unique key.
    pub unique_keys: Vec<Vec<usize>>,
    /// Columns that only the older side has: their values cannot be restored.
    pub lost: Vec<String>,
    /// Columns that only the newer side has.
    pub new: Vec<String>,
}

impl Shape {
    /// What an older and a newer side have in common for a table that both have; `None` if that does not include the
    /// key's columns, or if these do not tell the newer side's rows apart any more: one of them would be taken for
    /// another. If the table had no key, all columns of a row are compared.
    #[must_use]
    pub fn new(old: &Table, new: &Table) -> Option<Self> {
        let is_stored =
            |table: &Table, name: &str| table.columns.iter().any(|column| column.name == name && !column.generated);
        let names = |table: &Table| -> Vec<String> {
            table.columns.iter().filter(|column| !column.generated).map(|column| column.name.clone()).collect()
        };
        let (columns, lost): (Vec<_>, Vec<_>) = names(old).into_iter().partition(|name| is_stored(new, name));
        let added = names(new).into_iter().filter(|name| !is_stored(old, name)).collect();
        let places = |names: &[String]| -> Option<Vec<usize>> {
            names.iter().map(|name| columns.iter().position(|column| column == name)).collect()
        };
        let names_of_key = old.key()?;
        let key = places(&names_of_key)?;
        if key.len() < old.columns.len() && !new.are_apart_by(&names_of_key) {
            return None;
        }
        let unique_keys = new
            .unique_keys
            .iter()
            .filter(|unique| !unique.partial)
            .filter_map(|unique| places(&unique.columns))
            .filter(|unique| *unique != key)
            .collect();
        Some(Self { table: old.name.clone(), key, unique_keys, lost, new: added, columns })
    }

    /// The shape reduced to those columns, which come first, and its key.
    #[must_use]
    pub fn lean(&self, places: &[usize]) -> Self {
        let columns = places.iter().chain(&self.key).map(|place| self.columns[*place].clone()).collect();
        let key = (places.len()..places.len() + self.key.len()).collect();
        Self { columns, key, unique_keys: Vec::new(), ..self.clone() }
    }

    /// The shape with the columns that only the newer side has, at its end: only that side can be read with it.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self { columns: [self.columns.as_slice(), &self.new].concat(), new: Vec::new(), ..self.clone() }
    }

    /// The key of a row.
    #[must_use]
    pub fn key_of(&self, row: &[Arg]) -> Cells {
        self.values(row, &self.key)
    }

    /// The values at some positions of a row.
    #[must_use]
    pub fn values(&self, row: &[Arg], places: &[usize]) -> Cells {
        places.iter().map(|place| row[*place].clone()).collect()
    }

    /// The columns by which a row of the newer side stands for something else than the one of the older side with its
    /// key; `None` if it is the same. If it is declared which columns identify rows, these decide. One that was empty
    /// then says nothing: it may have been filled in since. If all were, and are not now, it is the same row only if
    /// nothing else of it has changed.
    #[must_use]
    pub fn other_by(&self, identity: Option<&[usize]>, old: &[Arg], new: &[Arg]) -> Option<Vec<usize>> {
        let Some(identity) = identity else { return self.other_by_keys(old, new) };
        let differs = |place: &usize| !cells::is_empty(&old[*place]) && old[*place] != new[*place];
        let is_filled_in = identity.iter().all(|place| cells::is_empty(&old[*place]))
            && identity.iter().any(|place| !cells::is_empty(&new[*place]));
        let is_other =
            if is_filled_in { (0..old.len()).any(|place| differs(&place)) } else { identity.iter().any(differs) };
        is_other.then(|| identity.to_vec())
    }

    /// Without a declaration, every unique key identifies: all of them that say something of both rows have to differ, and
    /// some other column too, if there is one: a number that was corrected makes nobody somebody else. A unique key that
    /// includes the key says nothing of its own.
    fn other_by_keys(&self, old: &[Arg], new: &[Arg]) -> Option<Vec<usize>> {
        let mut by = BTreeSet::new();
        for unique in self.unique_keys.iter().filter(|unique| !self.key.iter().all(|place| unique.contains(place))) {
            let (old, new) = (self.values(old, unique), self.values(new, unique));
            if cells::identify(&old) && cells::identify(&new) {
                if cells::are_alike(&old, &new) {
                    return None;
                }
                by.extend(unique);
            }
        }
        let mut rest = (0..old.len()).filter(|place| !self.key.contains(place) && !by.contains(place)).peekable();
        let is_other = !by.is_empty() && (rest.peek().is_none() || rest.any(|place| old[place] != new[place]));
        is_other.then(|| by.into_iter().copied().collect())
    }

    /// The positions of some columns; `None` if one of them is not common to both sides.
    #[must_use]
    pub fn places(&self, columns: &[String]) -> Option<Vec<usize>> {
        columns.iter().map(|name| self.columns.iter().position(|column| column == name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::schema::{Column, UniqueKey},
        *,
    };

    fn table(columns: &[(&str, bool)]) -> Table {
        let column = |(name, generated): &(&str, bool)| Column {
            name: (*name).to_owned(),
            sql_type: "int".to_owned(),
            nullable: false,
            generated: *generated,
        };
        Table {
            name: "t".to_owned(),
            columns: columns.iter().map(column).collect(),
            primary_key: vec!["id".to_owned()],
            unique_keys: vec![UniqueKey { name: "code".to_owned(), columns: vec!["code".to_owned()], partial: false }],
            foreign_keys: Vec::new(),
            create_sql: String::new(),
        }
    }

    #[test]
    fn a_shape_is_what_both_sides_store() {
        let old = table(&[("gone", false), ("code", false), ("id", false), ("sum", true)]);
        let new = table(&[("id", false), ("code", false), ("sum", true), ("added", false)]);
        let shape = Shape::new(&old, &new).unwrap();
        assert_eq!(shape.columns, ["code", "id"]);
        assert_eq!((shape.key, shape.unique_keys), (vec![1], vec![vec![0]]));
        assert_eq!((shape.lost, shape.new), (vec!["gone".to_owned()], vec!["added".to_owned()]));
        assert_eq!(Shape::new(&old, &table(&[("code", false)])), None, "no key, no comparison");
    }

    #[test]
    fn a_key_has_to_tell_the_rows_of_the_newer_side_apart() {
        let old = table(&[("id", false), ("code", false)]);
        let compared = |change: &dyn Fn(&mut Table)| {
            let mut new = table(&[("id", false), ("code", false), ("lab", false)]);
            change(&mut new);
            Shape::new(&old, &new).is_some()
        };
        let unique = |partial| UniqueKey { name: "id".to_owned(), columns: vec!["id".to_owned()], partial };
        assert!(compared(&|_| ()));
        assert!(!compared(&|new| new.primary_key.clear()));
        assert!(!compared(&|new| new.primary_key.push("lab".to_owned())), "several rows may have an id");
        for (partial, nullable) in [(false, false), (true, false), (false, true)] {
            let is_compared = compared(&|new| {
                new.primary_key = vec!["lab".to_owned()];
                new.unique_keys.push(unique(partial));
                new.columns[0].nullable = nullable;
            });
            assert_eq!(is_compared, !partial && !nullable);
        }
        let mut longer = table(&[("id", false), ("code", false), ("lab", false)]);
        longer.primary_key.push("lab".to_owned());
        assert!(Shape::new(&longer, &table(&[("id", false), ("lab", false)])).is_some(), "a shorter key");
        longer.primary_key.push("code".to_owned());
        let mut without = longer.clone();
        without.primary_key.clear();
        without.unique_keys.clear();
        assert!(Shape::new(&longer, &without).is_some(), "all columns");
    }

    #[test]
    fn unique_keys_tell_rows_with_one_key_apart_only_if_all_differ() {
        let text = |text: &str| if text == "-" { Arg::Null } else { Arg::Text(text.to_owned()) };
        let row = |code: &str, card: &str| vec![Arg::Int(1), text(code), text(card), text("x")];
        let shape = Shape {
            table: "t".to_owned(),
            columns: ["id", "code", "card", "name"].map(str::to_owned).to_vec(),
            key: vec![0],
            // The last one includes the key.
            unique_keys: vec![vec![1], vec![2], vec![0, 3]],
            lost: Vec::new(),
            new: Vec::new(),
        };
        let other_by = |old: [&str; 2], new: [&str; 2]| {
            let mut new = row(new[0], new[1]);
            new[3] = text("y");
            shape.other_by(None, &row(old[0], old[1]), &new)
        };
        assert_eq!(other_by(["a", "b"], ["c", "d"]), Some(vec![1, 2]));
        assert_eq!(other_by(["a", "-"], ["c", "d"]), Some(vec![1]));
        assert_eq!(other_by(["a", ""], ["c", "d"]), Some(vec![1]));
        for (old, new) in
            [(["a", "b"], ["a", "d"]), (["a", "-"], ["A ", "-"]), (["-", " "], ["c", "d"]), (["a", "b"], ["-", "-"])]
        {
            assert_eq!(other_by(old, new), None, "{old:?} {new:?}");
        }
        assert_eq!(shape.other_by(None, &row("a", "b"), &row("c", "d")), None, "corrected numbers");
        let declared = |identity: &[usize]| shape.other_by(Some(identity), &row("a", ""), &row("c", "d")).is_some();
        assert_eq!([&[][..], &[1], &[2], &[1, 2]].map(declared), [false, true, true, true]);
    }
}
