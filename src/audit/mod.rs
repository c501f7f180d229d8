//! Comparing stored rows with their source, without writing anything.
//!
//! The comparison is the one that a recompute makes ([`crate::recompute::read`] and [`crate::recompute::diff`]), so
//! that an audit finds exactly what a recompute would change; the audit adds *why* a row differs, as far as the data
//! can tell.
//!
//! - [`scope`]: which labs to audit, and over which days; includes labs whose Historical View is off and labs that do
//!   not exist, if rows of them are stored.
//! - [`walk`]: goes over a lab's days a few at a time, reading each few from one consistent snapshot.
//! - [`cause`], [`window`], [`moved`]: what differs, by cause. Pure.
//! - [`plan()`], [`run()`], [`report`]: an audit on request.
//! - [`slices`], [`cursors`]: the state of the scheduler's standing audit.
//!
//! How it fails: days that cannot be compared (a lab without a usable time zone, a row that cannot be read) are
//! reported as such and do not stop the others; an unreachable database ends the audit.

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
