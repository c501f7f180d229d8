//! What people see: tables and progress bars.

pub(crate) mod bar;
pub(crate) mod calendar;
pub(crate) mod table;
