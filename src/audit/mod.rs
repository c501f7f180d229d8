//! Is it true? Stored rows against their source, without writing anything.
//!
//! The comparison is the one that a recompute makes ([`crate::recompute::read`] and
//! [`crate::recompute::diff`]), so that an audit finds exactly what a recompute would change;
//! what it adds is the *why*, as far as the data can tell.
//!
//! - [`scope`]: which labs there are to audit, and over which days; also those whose Historical
//!   View is off, and those that do not exist, where rows of them are stored.
//! - [`walk`]: days of a lab, a few at a time, each few from one consistent snapshot.
//! - [`cause`], [`window`], [`moved`]: what differs, named. Pure.
//! - [`plan()`], [`run()`], [`report`]: an audit that somebody asked for.
//! - [`slices`], [`cursors`]: what the standing audit of the scheduler remembers.
//!
//! How it fails: days that cannot be compared (a lab without a usable time zone, a row that
//! cannot be read) are reported as such and stop no others; a database that is away ends it.

pub mod cause;
pub mod cursors;
mod moved;
mod plan;
pub mod report;
mod run;
pub mod scope;
pub mod slices;
pub mod walk;
pub mod window;

pub use plan::{Plan, PlanError, Sample, Scope, again, plan};
pub use run::{Options, run};
