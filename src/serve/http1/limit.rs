//! A limit of time that is moved often and reached seldom.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A moment by which something has to happen. To move it is an assignment: the timer behind it is touched where it fires
/// too early, or would fire too late.
#[derive(Debug, Default)]
pub(in crate::serve) struct Limit {
    at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Who is woken by the timer.
    waker: Option<Waker>,
}

impl Limit {
    /// Sets it to `duration` from now.
    pub(in crate::serve) fn set(&mut self, duration: Duration) {
        self.at = Some(Instant::now() + duration);
    }

    /// Sets it, unless it is set.
    pub(in crate::serve) fn set_once(&mut self, duration: Duration) {
        if self.at.is_none() {
            self.set(duration);
        }
    }

    /// Lifts it.
    pub(in crate::serve) const fn clear(&mut self) {
        self.at = None;
    }

    /// Waits until it is reached; for ever while there is none.
    pub(in crate::serve) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        let registered = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if registered && timer.deadline() <= at && !timer.is_elapsed() {
            return Poll::Pending;
        }
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        self.waker = Some(cx.waker().clone());
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reached(limit: &mut Limit) -> Duration {
        let begin = Instant::now();
        std::future::poll_fn(|cx| limit.poll(cx)).await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_reached_where_it_was_last_moved_to() {
        let mut limit = Limit::default();
        assert!(futures_util::poll!(std::future::poll_fn(|cx| limit.poll(cx))).is_pending());
        let seconds = Duration::from_secs;
        limit.set(seconds(5));
        assert!(futures_util::poll!(std::future::poll_fn(|cx| limit.poll(cx))).is_pending());
        limit.set(seconds(60));
        let late = reached(&mut limit).await;
        assert!(late >= seconds(60) && late < seconds(61), "{late:?}");
        limit.set(seconds(60));
        assert!(futures_util::poll!(std::future::poll_fn(|cx| limit.poll(cx))).is_pending());
        limit.set(seconds(2));
        let early = reached(&mut limit).await;
        assert!(early >= seconds(2) && early < seconds(3), "{early:?}");
        limit.set(seconds(9));
        limit.set_once(seconds(1));
        assert!(reached(&mut limit).await >= seconds(9));
        limit.clear();
        assert!(futures_util::poll!(std::future::poll_fn(|cx| limit.poll(cx))).is_pending());
    }
}
