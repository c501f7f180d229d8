//! What becomes of a candidate.

use strum::{EnumString, IntoStaticStr};

/// What is, or will be, done with a row of the snapshot that is missing from the live database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[derive(EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum State {
    /// It will be restored.
    Missing,
    /// It has been restored.
    Restored,
    /// It was entered again under another key; references to it are rewritten to that key.
    Mapped,
    /// Its unique key is held by an unrelated row that already existed when the snapshot was taken.
    #[strum(serialize = "taken over")]
    TakenOver,
    /// Its own key is now used by a row with another identity.
    #[strum(serialize = "id reused")]
    Reused,
    /// It cannot be told which row holds its unique key.
    Ambiguous,
    /// It was deleted on purpose.
    Excluded,
    /// It cannot be inserted, because of the database or its parents.
    Deferred,
    /// Its table was not asked for.
    #[strum(serialize = "left out")]
    LeftOut,
}

impl State {
    /// The name in the working file and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The state with that name.
    ///
    /// # Errors
    /// If there is none: what becomes of the row must not be guessed.
    pub(super) fn parse(name: &str) -> Result<Self, sqlx::Error> {
        name.parse().map_err(|_| sqlx::Error::Decode(format!("`{name}` is not a state of a row").into()))
    }

    /// Whether it should be restored if possible.
    #[must_use]
    pub fn is_wanted(self) -> bool {
        !matches!(self, Self::Excluded | Self::LeftOut)
    }

    /// Whether a person has to decide.
    #[must_use]
    pub fn is_quarantined(self) -> bool {
        matches!(self, Self::TakenOver | Self::Reused | Self::Ambiguous)
    }
}
