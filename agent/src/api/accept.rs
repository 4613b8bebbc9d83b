//! Accepting connections when there is nothing left to accept them with.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;
use tokio_stream::Stream;

/// How long to wait after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections of a listener. When one cannot be accepted, most likely because the process has no file descriptor
/// left, it pauses instead of trying at once again.
#[derive(Debug)]
pub struct Accept<S> {
    inner: S,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Accept<S> {
    pub fn new(inner: S) -> Self {
        Accept { inner, pause: None }
    }
}

impl<T, S: Stream<Item = io::Result<T>> + Unpin> Stream for Accept<S> {
    type Item = io::Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(Pin::new(&mut self.inner).poll_next(context)) {
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
                other => return Poll::Ready(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn it_goes_on_after_a_pause() {
        let began = std::time::Instant::now();
        let failed = || Err(io::Error::other("no descriptor"));
        let mut accept = Accept::new(tokio_stream::iter([Ok(1), failed(), failed(), Ok(2)]));
        assert_eq!(accept.next().await.unwrap().unwrap(), 1);
        assert_eq!(accept.next().await.unwrap().unwrap(), 2);
        assert!(began.elapsed() >= PAUSE * 2);
        assert!(accept.next().await.is_none());
    }
}
