//! Counts and durations of calls.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::metrics;

/// Calls whose duration says nothing: they wait or stream.
const UNTIMED: [&str; 2] = [
    "/portcullis.v1.TargetService/Watch",
    "/portcullis.v1.TargetService/WaitRealized",
];

/// The layer around every service. Clients cannot make up metrics: unknown methods count as one.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    known: Arc<HashSet<String>>,
}

impl Calls {
    /// Knows the methods of the API.
    pub fn new() -> Self {
        let descriptors = FileDescriptorSet::decode(portcullis_proto::DESCRIPTORS).unwrap_or_default();
        let methods = descriptors.file.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                let path = format!("/{}.{}", file.package(), service.name());
                service
                    .method
                    .iter()
                    .map(move |method| format!("{path}/{}", method.name()))
            })
        });
        Calls {
            known: Arc::new(methods.collect()),
        }
    }

    fn method<'a>(&self, path: &'a str) -> &'a str {
        if self.known.contains(path) {
            path.trim_start_matches('/')
        } else {
            "other"
        }
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            calls: self.clone(),
        }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let (method, timed) = (self.calls.method(path).to_string(), !UNTIMED.contains(&path));
        let started = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            // Without the header the call went well: errors of calls come without a body, in the headers.
            let status = response
                .headers()
                .get("grpc-status")
                .and_then(|value| value.to_str().ok()?.parse().ok());
            metrics::called(&method, status.unwrap_or(0), timed.then(|| started.elapsed()));
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_the_api_are_named() {
        let calls = Calls::new();
        assert_eq!(
            calls.method("/portcullis.v1.PolicyService/Explain"),
            "portcullis.v1.PolicyService/Explain"
        );
        assert_eq!(calls.method("/portcullis.v1.PolicyService/Explode"), "other");
        assert!(UNTIMED.iter().all(|path| calls.known.contains(*path)));
    }
}
