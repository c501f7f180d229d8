//! The order in which tables are restored: parents before children. Pure.
//!
//! Tables that refer to each other, or to themselves, form one group; within a group no order of tables works, and
//! rows are first inserted with their references empty, if those may be NULL.

use super::relations::Reference;

/// Tables that are restored together, by their indexes in the ordered list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The tables.
    pub tables: Vec<usize>,
    /// Whether they refer to each other, or the only one to itself.
    pub is_cyclic: bool,
}

/// Orders tables so that each group comes after all groups it refers to.
///
/// Tarjan's algorithm for strongly connected components over the edges child → parent, which yields parents first;
/// without recursion, so that chains of tables can have any length.
#[must_use]
pub fn order(tables: &[String], references: &[Reference]) -> Vec<Group> {
    let place = |name: &str| tables.iter().position(|table| table == name);
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); tables.len()];
    for reference in references {
        if let (Some(child), Some(parent)) = (place(&reference.table), place(&reference.parent))
            && !parents[child].contains(&parent)
        {
            parents[child].push(parent);
        }
    }
    let mut search = Search {
        index: vec![None; tables.len()],
        low: vec![0; tables.len()],
        on_stack: vec![false; tables.len()],
        stack: Vec::new(),
        groups: Vec::new(),
        next: 0,
    };
    for table in 0..tables.len() {
        if search.index[table].is_none() {
            search.from(table, &parents);
        }
    }
    search.groups
}

struct Search {
    index: Vec<Option<usize>>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    groups: Vec<Group>,
    next: usize,
}

impl Search {
    fn from(&mut self, start: usize, parents: &[Vec<usize>]) {
        let mut path = vec![(start, 0)];
        self.enter(start);
        while let Some((table, edge)) = path.last_mut() {
            let table = *table;
            if let Some(&parent) = parents[table].get(*edge) {
                *edge += 1;
                match self.index[parent] {
                    None => {
                        self.enter(parent);
                        path.push((parent, 0));
                    }
                    Some(index) if self.on_stack[parent] => self.low[table] = self.low[table].min(index),
                    Some(_) => {}
                }
                continue;
            }
            path.pop();
            if let Some((child, _)) = path.last() {
                self.low[*child] = self.low[*child].min(self.low[table]);
            }
            if Some(self.low[table]) == self.index[table] {
                self.leave(table, parents);
            }
        }
    }

    fn enter(&mut self, table: usize) {
        self.index[table] = Some(self.next);
        self.low[table] = self.next;
        self.next += 1;
        self.stack.push(table);
        self.on_stack[table] = true;
    }

    fn leave(&mut self, root: usize, parents: &[Vec<usize>]) {
        let mut tables = Vec::new();
        while let Some(table) = self.stack.pop() {
            self.on_stack[table] = false;
            tables.push(table);
            if table == root {
                break;
            }
        }
        tables.sort_unstable();
        let is_cyclic = tables.len() > 1 || parents[root].contains(&root);
        self.groups.push(Group { tables, is_cyclic });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(edges: &[(&str, &str)]) -> Vec<(String, bool)> {
        let mut tables: Vec<String> = edges.iter().flat_map(|(a, b)| [(*a).to_owned(), (*b).to_owned()]).collect();
        tables.sort();
        tables.dedup();
        let references: Vec<Reference> = edges.iter().map(|(child, parent)| Reference::simple(child, parent)).collect();
        let groups = order(&tables, &references);
        let name = |group: &Group| group.tables.iter().map(|at| tables[*at].as_str()).collect::<Vec<_>>().join("+");
        groups.iter().map(|group| (name(group), group.is_cyclic)).collect()
    }

    fn place(groups: &[(String, bool)], table: &str) -> usize {
        groups.iter().position(|(names, _)| names.split('+').any(|name| name == table)).unwrap()
    }

    #[test]
    fn parents_come_before_children() {
        let groups = ordered(&[("note", "client"), ("client", "person"), ("person", "partner"), ("guest", "note")]);
        for (child, parent) in [("note", "client"), ("client", "person"), ("person", "partner"), ("guest", "note")] {
            assert!(place(&groups, parent) < place(&groups, child), "{groups:?}");
        }
        assert!(groups.iter().all(|(_, is_cyclic)| !is_cyclic));
    }

    #[test]
    fn tables_that_refer_to_each_other_are_one_group() {
        let groups = ordered(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("c", "root"), ("tree", "tree")]);
        assert_eq!(place(&groups, "a"), place(&groups, "b"));
        assert_eq!(place(&groups, "a"), place(&groups, "c"));
        assert!(place(&groups, "root") < place(&groups, "a") && place(&groups, "a") < place(&groups, "d"));
        let cyclic: Vec<&str> = groups.iter().filter(|(_, cyclic)| *cyclic).map(|(name, _)| name.as_str()).collect();
        assert_eq!(cyclic.len(), 2, "{cyclic:?}");
    }

    #[test]
    fn a_chain_of_many_tables_is_no_matter() {
        let edges: Vec<(String, String)> = (0..5000).map(|n| (format!("t{n}"), format!("t{}", n + 1))).collect();
        let edges: Vec<(&str, &str)> = edges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(ordered(&edges).len(), 5001);
    }
}
