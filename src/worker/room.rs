//! The number of jobs that a worker holds, from their claim until they are settled, including the wait for their ack.

use tokio::sync::watch;

/// The number, with a way to wait for it to fall.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(watch::Sender<usize>);

impl Held {
    /// The number of jobs held.
    pub(super) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Counts jobs until the returned room is dropped.
    pub(super) fn add(&self, jobs: usize) -> Room {
        self.0.send_modify(|held| *held += jobs);
        Room { held: self.clone(), jobs }
    }

    /// Waits until at most `jobs` are held.
    pub(super) async fn fall_to(&self, jobs: usize) {
        // This cannot fail: `self` is the sender.
        let _ = self.0.subscribe().wait_for(|held| *held <= jobs).await;
    }
}

/// The room that jobs occupy, released when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    held: Held,
    jobs: usize,
}

impl Room {
    /// Splits off the room of that many jobs.
    pub(super) fn split(&mut self, jobs: usize) -> Self {
        let jobs = jobs.min(self.jobs);
        self.jobs -= jobs;
        Self { held: self.held.clone(), jobs }
    }

    /// Adds the room of `other`.
    pub(super) fn join(&mut self, mut other: Self) {
        self.jobs += std::mem::take(&mut other.jobs);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.jobs > 0 {
            self.held.0.send_modify(|held| *held -= self.jobs);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_job_is_held_until_its_part_of_the_room_is_given_back() {
        let held = Held::default();
        let (mut room, other) = (held.add(7), held.add(2));
        let mut part = room.split(3);
        drop(room);
        assert_eq!(held.count(), 5);
        part.join(other);
        assert_eq!((held.count(), held.fall_to(4).now_or_never()), (5, None));
        drop(part.split(1));
        assert_eq!((held.count(), held.fall_to(4).now_or_never()), (4, Some(())));
        drop(part);
        assert_eq!(held.count(), 0);
    }
}
