//! What people see: tables, progress bars and colours.

pub(crate) mod bar;
pub(crate) mod calendar;
pub(crate) mod page;
pub(crate) mod table;
