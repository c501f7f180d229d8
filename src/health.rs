//! Whether this process is fit to be left alone: what the probes ask.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// What the parts of a process say of themselves.
#[derive(Debug, Default)]
pub struct Health {
    parts: Mutex<Vec<Arc<Pulse>>>,
    is_stopping: AtomicBool,
}

/// One part: it has to say again and again that it is alive.
#[derive(Debug, Default)]
pub struct Pulse {
    name: &'static str,
    /// For how long a beat counts.
    fresh: Duration,
    last: Mutex<Option<Instant>>,
}

impl Health {
    /// A part that counts as well for `fresh` after each beat.
    pub fn part(&self, name: &'static str, fresh: Duration) -> Arc<Pulse> {
        let part = Arc::new(Pulse { name, fresh, last: Mutex::new(None) });
        self.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Arc::clone(&part));
        part
    }

    /// From now on the process is about to end.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Whether every part has been well once.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.parts().iter().all(|part| part.age().is_some())
    }

    /// What each part has to say: its name, and what is wrong with it.
    #[must_use]
    pub fn report(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.parts().iter().map(|part| (part.name, part.check())).collect()
    }

    fn parts(&self) -> Vec<Arc<Pulse>> {
        self.parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Pulse {
    /// Says that the part is well.
    pub fn beat(&self) {
        *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    }

    fn age(&self) -> Option<Duration> {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner).map(|last| last.elapsed())
    }

    fn check(&self) -> Result<(), String> {
        match self.age() {
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
        assert!(!health.has_started());
        worker.beat();
        assert!(!health.has_started());
        scheduler.beat();
        assert!(health.has_started());
        std::thread::sleep(Duration::from_millis(2));
        let report = health.report();
        assert_eq!(report[0], ("worker", Ok(())));
        assert!(report[1].1.as_ref().is_err_and(|why| why.starts_with("silent")), "{report:?}");
    }
}
