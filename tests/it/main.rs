//! The integration tests: one file a capability, on both databases.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a failed unwrap is a failed test")]

mod support;

mod calendar;
mod cli;
mod explain;
mod processes;
mod queue;
mod queue_model;
mod scheduler;
mod statements;
mod storm;
