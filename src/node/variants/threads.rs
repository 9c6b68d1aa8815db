//! The threads that resize: a few that stay, because the system's allocator keeps what was freed for each thread that ever
//! held a decoded image.

use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use tokio::sync::oneshot;

use super::work::WorkError;

type Task = Box<dyn FnOnce() + Send>;

/// Threads for work that keeps one busy for long. They end when this is dropped and what they were given is done.
#[derive(Debug)]
pub(super) struct Threads {
    tasks: mpsc::Sender<Task>,
}

impl Threads {
    /// Starts up to `count` of them: fewer if the system has no more.
    pub(super) fn start(count: NonZeroUsize) -> Self {
        let (tasks, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..count.get() {
            let queue = queue.clone();
            // With none at all, what is sent to them comes back.
            let _ = thread::Builder::new().name("resize".to_owned()).spawn(move || serve(&queue));
        }
        Self { tasks }
    }

    /// Runs `work` on one of them; a panic becomes an error.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, WorkError> {
        let (tell, outcome) = oneshot::channel();
        let task = move || {
            let worked = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(WorkError::Panicked));
            // Nobody waits for it where the node is stopping.
            let _ = tell.send(worked);
        };
        let none = |_| WorkError::Thread(io::ErrorKind::OutOfMemory.into());
        self.tasks.send(Box::new(task)).map_err(none)?;
        outcome.await.unwrap_or(Err(WorkError::Stopping))
    }
}

fn serve(queue: &Mutex<mpsc::Receiver<Task>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(task) => task(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_to_the_same_few_threads() {
        let threads = Threads::start(NonZeroUsize::new(2).expect("not zero"));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..20 {
            seen.insert(threads.run(|| Ok(thread::current().id())).await.expect("it runs"));
        }
        assert!(seen.len() <= 2, "{seen:?}");
    }

    #[tokio::test]
    async fn a_panic_is_the_fault_of_one_image() {
        let threads = Threads::start(NonZeroUsize::MIN);
        let failed = threads.run(|| -> Result<(), WorkError> { panic!("a codec's") }).await;
        assert!(matches!(&failed, Err(WorkError::Panicked)), "{failed:?}");
        assert!(failed.is_err_and(|error| error.lasts()));
        assert!(threads.run(|| Ok(())).await.is_ok(), "the thread goes on");
    }
}
