//! The integration tests: one file a capability, on both databases.

mod support;

mod cli;
mod processes;
mod statements;
mod storm;
