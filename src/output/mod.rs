//! What people see: tables, progress bars and colours.

/// Says something beside the result: a line on standard error. Where nobody can read it, work goes on.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($arg)*);
    }};
}
pub(crate) use say;

pub(crate) mod bar;
pub(crate) mod calendar;
pub(crate) mod page;
pub(crate) mod table;
