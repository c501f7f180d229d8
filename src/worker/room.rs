//! How many jobs a worker holds, in one number: from their claim until they are settled, the wait for
//! their ack included.

use tokio::sync::watch;

/// The number, and who waits for it to fall.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(watch::Sender<usize>);

impl Held {
    /// How many jobs are held.
    pub(super) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Counts jobs for as long as the room exists.
    pub(super) fn add(&self, jobs: usize) -> Room {
        self.0.send_modify(|held| *held += jobs);
        Room { held: self.clone(), jobs }
    }

    /// Waits until at most so many are held.
    pub(super) async fn fall_to(&self, jobs: usize) {
        // Its sender is this.
        let _ = self.0.subscribe().wait_for(|held| *held <= jobs).await;
    }
}

/// The room that jobs take up, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    held: Held,
    jobs: usize,
}

impl Room {
    /// The room of so many of its jobs.
    pub(super) fn split(&mut self, jobs: usize) -> Self {
        let jobs = jobs.min(self.jobs);
        self.jobs -= jobs;
        Self { held: self.held.clone(), jobs }
    }

    /// Takes up what `other` did.
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
