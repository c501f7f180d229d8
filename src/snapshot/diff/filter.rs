//! `--where`: restricting a comparison to some rows.
//!
//! Conditions are parsed and evaluated here, on the values of a row; no part of them becomes SQL.

use std::{cmp::Ordering, fmt};

use crate::{
    db::Arg,
    snapshot::{cells, schema::Table, side::Shape},
};

/// `COLUMN=VALUE`, or with `!=`, `<`, `<=`, `>`, `>=`; if several are given, all must hold.
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

/// Longer ones first, so that `<=` is not read as `<`.
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

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = OPERATORS.iter().find(|(_, operator)| *operator == self.operator).map_or("", |(sign, _)| sign);
        write!(f, "{}{sign}{}", self.column, self.value)
    }
}

impl Condition {
    /// The column it applies to.
    #[must_use]
    pub fn column(&self) -> &str {
        &self.column
    }

    /// Whether a row's value meets the condition. NULL only equals `NULL`, and is neither less nor more than anything.
    /// In a column of exact numbers, text is compared as a number.
    fn holds(&self, value: &Arg, is_exact: bool) -> bool {
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
                Err(_) => compare(&number.to_string(), &self.value)
                    .or_else(|| self.value.parse().ok().and_then(|wanted: f64| (*number as f64).partial_cmp(&wanted))),
            },
            Arg::Text(number) if is_exact && Digits::of(number).is_some() => compare(number, &self.value),
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

/// A number of any length, without redundant zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digits<'a> {
    is_negative: bool,
    whole: &'a str,
    places: &'a str,
}

impl<'a> Digits<'a> {
    /// Parses a number such as `-12.50`; `None` if it is not one.
    fn of(text: &'a str) -> Option<Self> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && !places.contains('.')
            && !(whole.is_empty() && places.is_empty());
        let (whole, places) = (whole.trim_start_matches('0'), places.trim_end_matches('0'));
        let is_zero = whole.is_empty() && places.is_empty();
        is_number.then_some(Self { is_negative: text.starts_with('-') && !is_zero, whole, places })
    }

    /// A value by which numbers of the same sign are sorted.
    fn size(&self) -> (usize, &str, &str) {
        (self.whole.len(), self.whole, self.places)
    }
}

/// Compares two numbers by their digits; `None` if either is not a number.
fn compare(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (Digits::of(a)?, Digits::of(b)?);
    Some(match (a.is_negative, b.is_negative) {
        (false, false) => a.size().cmp(&b.size()),
        (true, true) => b.size().cmp(&a.size()),
        (a, b) => b.cmp(&a),
    })
}

/// The conditions, each with its column's position in a table, and whether that column holds exact numbers.
#[derive(Debug, Clone)]
pub struct Filter<'a>(Vec<(usize, bool, &'a Condition)>);

impl<'a> Filter<'a> {
    /// The filter for a table; `None` if the table lacks one of the columns.
    #[must_use]
    pub fn new(conditions: &'a [Condition], shape: &Shape, table: &Table) -> Option<Self> {
        let place = |condition: &'a Condition| {
            let place = shape.columns.iter().position(|column| *column == condition.column)?;
            let column = table.position(&condition.column).map(|at| &table.columns[at]);
            Some((place, column.is_some_and(cells::is_exact), condition))
        };
        conditions.iter().map(place).collect::<Option<_>>().map(Self)
    }

    /// Whether a row matches.
    #[must_use]
    pub fn takes(&self, row: &[Arg]) -> bool {
        self.0.iter().all(|(place, is_exact, condition)| condition.holds(&row[*place], *is_exact))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_compare_values_by_their_type() {
        let holds = |text: &str, value: Arg| text.parse::<Condition>().unwrap().holds(&value, false);
        assert!(holds("id=7", Arg::Int(7)) && !holds("id = 7", Arg::Int(77)) && holds("id>=7", Arg::Int(10)));
        for (text, less, equal, more) in [
            ("id<7", true, false, false),
            ("id<=7", true, true, false),
            ("id=7", false, true, false),
            ("id!=7", true, false, true),
            ("id>=7", false, true, true),
            ("id>7", false, false, true),
        ] {
            assert_eq!([6, 7, 8].map(|id| holds(text, Arg::Int(id))), [less, equal, more], "{text}");
        }
        assert!(holds("at<2026-03-01", Arg::from("2026-02-28 10:00:00")));
        assert!(holds("name=a=b", Arg::from("a=b")) && holds("name!=a", Arg::from("b")));
        assert!(holds("name=NULL", Arg::Null) && !holds("name!=null", Arg::Null) && !holds("id<7", Arg::Null));
        assert!(holds("ratio<=0.5", Arg::Real(0.5)) && holds("id<7.5", Arg::Int(7)) && !holds("id=x", Arg::Int(7)));
        assert!(holds("name=x' OR '1'='1", Arg::from("x' OR '1'='1")));
    }

    #[test]
    fn exact_numbers_are_compared_by_their_digits() {
        let holds = |text: &str, value: &str| text.parse::<Condition>().unwrap().holds(&Arg::from(value), true);
        assert!(holds("price>100", "100.01") && !holds("price>100", "99.50") && holds("price=99.5", "99.50"));
        assert!(holds("price<0.1", "-3.00") && holds("price<-2", "-10.00") && !holds("price<-10.00", "-10"));
        assert!(holds("price=0", "-0.00") && holds("price=+.5", "0.50"));
        assert!(holds("n>18446744073709551614", "18446744073709551615"));
        assert!(holds("price<0.100000000000000000000000000001", "0.100000000000000000000000000000"));
        assert!(!holds("price>x", "1") && !holds("price>", "1") && !holds("price<.", "1") && holds("price!=x", "1"));
        let condition: Condition = "n<9007199254740993.5".parse().unwrap();
        assert!(condition.holds(&Arg::Int(9_007_199_254_740_993), false));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["", "id", "=7"] {
            assert!(text.parse::<Condition>().unwrap_err().contains("COLUMN=VALUE"), "{text}");
        }
    }
}
