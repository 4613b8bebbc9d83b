//! Generated code: the portcullis.v1 API and P4Runtime.
// Generated code carries the comments of its .proto; what has none there has none here.
#![allow(missing_docs, clippy::all)]

/// The port-policy API.
pub mod v1 {
    tonic::include_proto!("portcullis.v1");
}

/// Encoded `FileDescriptorSet` of the API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/portcullis.bin"));
