//! The health of this process, for the probes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The state that the parts of a process report.
#[derive(Debug, Default)]
pub struct Health {
    parts: Mutex<Vec<Arc<Pulse>>>,
    is_stopping: AtomicBool,
}

/// One part, which has to report regularly that it is alive.
#[derive(Debug, Default)]
pub struct Pulse {
    name: &'static str,
    /// How long the part counts as healthy after a beat.
    fresh: Duration,
    last: Mutex<Option<Instant>>,
    /// What keeps it from working, by kind of work.
    troubles: Mutex<BTreeMap<&'static str, String>>,
}

impl Health {
    /// Adds a part that counts as healthy for `fresh` after each beat.
    pub fn part(&self, name: &'static str, fresh: Duration) -> Arc<Pulse> {
        let part = Arc::new(Pulse { name, fresh, ..Pulse::default() });
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&part));
        part
    }

    /// Marks the process as shutting down.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// The report of each part: its name, and what is wrong with it.
    #[must_use]
    pub fn report(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.parts().iter().map(|part| (part.name, part.check())).collect()
    }

    fn parts(&self) -> Vec<Arc<Pulse>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Pulse {
    /// Reports that the part is alive.
    pub fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Sets what keeps the part from this work; `None` if nothing does.
    pub fn set_trouble(&self, what: &'static str, why: Option<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => troubles.insert(what, why),
            None => troubles.remove(what),
        };
    }

    /// Clears everything that kept the part from its work.
    pub fn set_no_trouble(&self) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn check(&self) -> Result<(), String> {
        if let Some(why) = self.troubles.lock().unwrap_or_else(PoisonError::into_inner).values().next() {
            return Err(why.clone());
        }
        match self.last.lock().unwrap_or_else(PoisonError::into_inner).map(|last| last.elapsed()) {
            None => Err("has not begun yet".to_owned()),
            Some(age) if age > self.fresh => {
                Err(format!("silent for {} s, longer than {} s", age.as_secs(), self.fresh.as_secs()))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_to_be_fresh() {
        let health = Health::default();
        let worker = health.part("worker", Duration::from_secs(60));
        let scheduler = health.part("scheduler", Duration::ZERO);
        assert_eq!(health.report()[0], ("worker", Err("has not begun yet".to_owned())));
        worker.beat();
        scheduler.beat();
        std::thread::sleep(Duration::from_millis(2));
        let report = health.report();
        assert_eq!(report[0], ("worker", Ok(())));
        assert!(report[1].1.as_ref().is_err_and(|why| why.starts_with("silent")), "{report:?}");
    }

    #[test]
    fn a_part_in_trouble_is_not_well_however_fresh_it_is() {
        let health = Health::default();
        let worker = health.part("worker", Duration::from_secs(60));
        worker.set_trouble("claim", Some("claim: denied".to_owned()));
        worker.beat();
        assert_eq!(health.report(), [("worker", Err("claim: denied".to_owned()))]);
        worker.set_trouble("settle", None);
        assert_eq!(health.report(), [("worker", Err("claim: denied".to_owned()))], "that is other work");
        worker.set_trouble("claim", None);
        assert_eq!(health.report(), [("worker", Ok(()))]);
        worker.set_trouble("claim", Some("claim: denied".to_owned()));
        worker.set_no_trouble();
        assert_eq!(health.report(), [("worker", Ok(()))]);
    }
}
