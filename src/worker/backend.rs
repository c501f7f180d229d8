//! The queue as an apalis backend: a stream of units, and nothing else.
//!
//! To apalis the backend is ephemeral: claims, leases and settlements belong to the queue, which writes them to the
//! database before apalis sees a unit and after it is done. Nothing is encoded, and no middleware is needed.

use std::task::{Context, Poll};

use apalis::prelude::{Backend, Task, WorkerContext};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tower::layer::util::Identity;

use super::waiting::Ticket;

/// Units claimed by [`super::fetch`].
#[derive(Debug)]
pub(super) struct QueueBackend {
    pub(super) units: UnboundedReceiver<Ticket>,
    /// Once cancelled, no further unit starts; waiting units are handed back.
    pub(super) stopping: CancellationToken,
}

impl Backend for QueueBackend {
    type Task = Task<Ticket>;
    type Error = std::convert::Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Self::Error>>> {
        // The fetcher drops its sender when it stops, which wakes this.
        match self.units.poll_recv(cx) {
            Poll::Ready(Some(unit)) if !self.stopping.is_cancelled() => Poll::Ready(Some(Ok(Task::new(unit)))),
            Poll::Ready(_) => {
                // The end of the stream alone does not end an apalis worker. `stop` can only fail if the worker was
                // never started.
                let _ = worker.stop();
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }
}

impl apalis_core::backend::BackendConfig for QueueBackend {
    type Args = Ticket;
    type Id = i64;
    type Kind = apalis_core::backend::finalize::Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &Self::Config {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        Identity::new()
    }
}
