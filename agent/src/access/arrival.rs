//! Requests that arrive in time and are no larger than their caller may send; and calls that are counted while they go on.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::HeaderMap;

use super::refusal::{Refusal, Unaccepted};
use super::right::{Ends, Right};

/// What a message on the wire has besides its bytes.
const FRAME: usize = 5;

/// The calls of a connection.
#[derive(Debug, Default)]
pub struct Activity {
    any: AtomicBool,
    open: AtomicUsize,
    last: Mutex<Option<Instant>>,
}

/// Connections are the same whatever their calls.
impl PartialEq for Activity {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Activity {}

impl Activity {
    /// A call goes on as long as what this returns is there.
    pub(super) fn begin(self: &Arc<Self>) -> Call {
        self.any.store(true, Ordering::Release);
        self.open.fetch_add(1, Ordering::AcqRel);
        Call(Arc::clone(self))
    }

    /// When the connection has been silent for too long; nothing while a call goes on.
    pub(super) fn due(&self, began: Instant, first_call: Duration, idle: Duration) -> Option<Instant> {
        if self.open.load(Ordering::Acquire) > 0 {
            return None;
        }
        if !self.any.load(Ordering::Acquire) {
            return Some(began + first_call);
        }
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Some(last.unwrap_or(began) + idle)
    }
}

/// A call that goes on.
#[derive(Debug)]
pub(super) struct Call(Arc<Activity>);

impl Drop for Call {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request on its way in.
pub(super) struct Arriving {
    inner: Body,
    /// Bytes that may still come.
    left: usize,
    /// The most bytes that may come, and the setting that says so.
    most: Option<(usize, &'static str)>,
    within: Duration,
    end: Pin<Box<Sleep>>,
    right: Option<Arc<Right>>,
}

impl Arriving {
    /// Of at most `most` bytes (and the setting that says so), all of which arrive within a time, and while there is a right to the
    /// call.
    pub(super) fn new(
        inner: Body,
        most: Option<(usize, &'static str)>,
        within: Duration,
        right: Option<Arc<Right>>,
    ) -> Self {
        Arriving {
            inner,
            right,
            left: most.map_or(usize::MAX, |(most, _)| most.saturating_add(FRAME)),
            most,
            within,
            end: Box::pin(tokio::time::sleep(within)),
        }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(Err(refusal)) = this.right.as_ref().map(|right| right.check()) {
                    return Poll::Ready(Some(Err(refusal.into())));
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match (this.left.checked_sub(bytes), this.most) {
                    (Some(left), _) => this.left = left,
                    (None, Some((limit, setting))) => {
                        return Poll::Ready(Some(Err(Unaccepted::TooLarge { limit, setting }.into())));
                    }
                    (None, None) => {}
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending if this.end.as_mut().poll(context).is_ready() => {
                Poll::Ready(Some(Err(Unaccepted::TooSlow { limit: this.within }.into())))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer, with the call that it is of. It ends with a status when the right to the call does.
pub(super) struct Answering {
    pub inner: Body,
    pub call: Option<Call>,
    pub right: Option<(Arc<Right>, Ends)>,
    pub over: bool,
}

impl Answering {
    /// The end of a call that there is no right to any more.
    fn end(&mut self, refusal: Refusal) -> Option<Result<Frame<Bytes>, Status>> {
        let (right, _) = self.right.take()?;
        (self.inner, self.call, self.over) = (Body::empty(), None, true);
        let status = right.access.refuse(refusal, &right.path, right.peer.as_deref());
        let mut trailers = HeaderMap::new();
        match status.add_header(&mut trailers) {
            Ok(()) => Some(Ok(Frame::trailers(trailers))),
            Err(status) => Some(Err(status)),
        }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some((_, ends)) = &mut self.right
            && let Poll::Ready(refusal) = ends.as_mut().poll(context)
        {
            return Poll::Ready(self.end(refusal));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(None) = polled {
            self.call = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
