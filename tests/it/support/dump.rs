//! Whole tables as text, read by the database itself and by none of daymend's code.

use daymend::args;

use super::{Engine, TestDb};

impl TestDb {
    /// Returns the tables of the database, by name.
    pub async fn tables(&self) -> Vec<String> {
        let sql = match self.engine {
            Engine::MariaDb => {
                "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1"
            }
            Engine::Sqlite => {
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY 1"
            }
        };
        self.rows(sql, args![]).await.iter().map(|row| row.text(0).expect("a table")).collect()
    }

    /// Returns the columns of a table, in their order.
    pub async fn columns(&self, table: &str) -> Vec<String> {
        let sql = match self.engine {
            Engine::MariaDb => {
                "SELECT column_name FROM information_schema.columns
                 WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position"
            }
            Engine::Sqlite => "SELECT name FROM pragma_table_xinfo(?) ORDER BY cid",
        };
        self.rows(sql, args![table]).await.iter().map(|row| row.text(0).expect("a column")).collect()
    }

    /// Reads these columns of every row of a table that meets the condition, as one text for each row.
    pub async fn dump_of(&self, table: &str, columns: &[String], condition: &str) -> Vec<String> {
        let values: Vec<String> = match self.engine {
            // In hexadecimal, so that no collation takes different texts for equal.
            Engine::MariaDb => columns.iter().map(|column| format!("COALESCE(HEX({column}), 'NULL')")).collect(),
            Engine::Sqlite => columns.iter().map(|column| format!("typeof({column}) || quote({column})")).collect(),
        };
        let text = match self.engine {
            Engine::MariaDb => format!("CONCAT_WS(' ', {})", values.join(", ")),
            Engine::Sqlite => values.join(" || ' ' || "),
        };
        let rows = self.rows(&format!("SELECT {text} FROM {table} WHERE {condition}"), args![]).await;
        let mut rows: Vec<String> = rows.iter().map(|row| row.text(0).expect("a row")).collect();
        rows.sort_unstable();
        rows
    }

    /// Reads every row of a table.
    pub async fn dump(&self, table: &str) -> Vec<String> {
        self.dump_of(table, &self.columns(table).await, "1 = 1").await
    }
}
