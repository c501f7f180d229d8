//! How errors are shown: once, at the top level, on one line.

use std::error::Error;

/// An error with all of its causes on one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

/// The first `max` items of a list, with an ellipsis if there are more: `a, b, …`.
pub(crate) fn examples<T: ToString>(list: impl IntoIterator<Item = T>, max: usize) -> String {
    let mut list: Vec<String> = list.into_iter().map(|item| item.to_string()).collect();
    let more = if list.len() > max { ", …" } else { "" };
    list.truncate(max);
    list.join(", ") + more
}

/// Input that cannot be acted on; nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(String);

/// A [`UsageError`]; the message says what is wrong with the input, and what to do.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}
