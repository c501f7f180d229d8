//! The integration tests: one file a capability, on both databases.

mod support;

mod statements;
