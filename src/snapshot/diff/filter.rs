//! `--where`: which rows a comparison is about.
//!
//! Conditions are read here and decided here, on the values of a row; no part of them becomes SQL.

use std::cmp::Ordering;

use crate::{
    db::Arg,
    snapshot::{cells, side::Shape},
};

/// `COLUMN=VALUE`, with `!=`, `<`, `<=`, `>`, `>=` as well; all that are given have to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    column: String,
    operator: Operator,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The longer ones first, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl std::str::FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let first = OPERATORS
            .iter()
            .filter_map(|(sign, operator)| Some((text.find(sign)?, *sign, *operator)))
            .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
        let Some((at, sign, operator)) = first.filter(|(at, ..)| *at > 0) else {
            return Err("expected COLUMN=VALUE, such as lab_id=7 (or !=, <, <=, >, >=; COLUMN=NULL)".to_owned());
        };
        Ok(Self { column: text[..at].trim().to_owned(), operator, value: text[at + sign.len()..].trim().to_owned() })
    }
}

impl Condition {
    /// Whether a row fulfils it; NULL is equal to `NULL` and to nothing else, and is not less or more.
    fn holds(&self, value: &Arg) -> bool {
        let order = match value {
            Arg::Null => {
                let is_equal = self.value.eq_ignore_ascii_case("null");
                return match self.operator {
                    Operator::Equal => is_equal,
                    Operator::NotEqual => !is_equal,
                    _ => false,
                };
            }
            Arg::Int(number) => match self.value.parse::<i64>() {
                Ok(wanted) => Some(number.cmp(&wanted)),
                Err(_) => self.value.parse().ok().and_then(|wanted: f64| (*number as f64).partial_cmp(&wanted)),
            },
            Arg::Real(number) => self.value.parse().ok().and_then(|wanted: f64| number.partial_cmp(&wanted)),
            text => Some(cells::show(text).as_str().cmp(&self.value)),
        };
        match self.operator {
            Operator::Equal => order == Some(Ordering::Equal),
            Operator::NotEqual => order != Some(Ordering::Equal),
            Operator::Less => order == Some(Ordering::Less),
            Operator::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Operator::Greater => order == Some(Ordering::Greater),
            Operator::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

/// The conditions, with the places of their columns in a table.
#[derive(Debug, Clone)]
pub struct Filter<'a>(Vec<(usize, &'a Condition)>);

impl<'a> Filter<'a> {
    /// The filter for a table; none where a column is not among its own.
    #[must_use]
    pub fn new(conditions: &'a [Condition], shape: &Shape) -> Option<Self> {
        let place = |condition: &'a Condition| {
            Some((shape.columns.iter().position(|column| *column == condition.column)?, condition))
        };
        conditions.iter().map(place).collect::<Option<_>>().map(Self)
    }

    /// Whether a row is meant.
    #[must_use]
    pub fn takes(&self, row: &[Arg]) -> bool {
        self.0.iter().all(|(place, condition)| condition.holds(&row[*place]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_compare_values_by_their_type() {
        let holds = |text: &str, value: Arg| text.parse::<Condition>().unwrap().holds(&value);
        assert!(holds("id=7", Arg::Int(7)) && !holds("id = 7", Arg::Int(77)) && holds("id>=7", Arg::Int(10)));
        assert!(holds("at<2026-03-01", Arg::from("2026-02-28 10:00:00")));
        assert!(holds("name=a=b", Arg::from("a=b")) && holds("name!=a", Arg::from("b")));
        assert!(holds("name=NULL", Arg::Null) && !holds("name!=null", Arg::Null) && !holds("id<7", Arg::Null));
        assert!(holds("ratio<=0.5", Arg::Real(0.5)) && holds("id<7.5", Arg::Int(7)) && !holds("id=x", Arg::Int(7)));
        assert!(holds("name=x' OR '1'='1", Arg::from("x' OR '1'='1")));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["", "id", "=7"] {
            assert!(text.parse::<Condition>().unwrap_err().contains("COLUMN=VALUE"), "{text}");
        }
    }
}
