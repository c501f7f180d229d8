//! Causing a panic or a hang in tests, by `DAYMEND_FAULT` in the environment. It has no effect in release builds.

use std::sync::atomic::{AtomicBool, Ordering};

/// Panics on every job of the lab named by `DAYMEND_FAULT=panic:LAB`, and hangs on those of `DAYMEND_FAULT=hang:LAB`.
pub(super) async fn inject(lab_id: i64) {
    assert!(!is_asked_for("panic", &lab_id.to_string()), "injected for lab {lab_id}");
    if is_asked_for("hang", &lab_id.to_string()) {
        std::future::pending::<()>().await;
    }
}

/// Panics the first time it reaches the place named by `DAYMEND_FAULT=once:PLACE`.
pub(super) fn inject_once(place: &str) {
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    assert!(!is_asked_for("once", place) || IS_DONE.swap(true, Ordering::SeqCst), "injected once");
}

fn is_asked_for(how: &str, place: &str) -> bool {
    cfg!(debug_assertions)
        && std::env::var("DAYMEND_FAULT").is_ok_and(|fault| fault.split_once(':') == Some((how, place)))
}
