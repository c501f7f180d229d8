//! The integration tests: one file a capability, on both databases.

mod support;

mod calendar;
mod cli;
mod processes;
mod queue;
mod scheduler;
mod statements;
mod storm;
