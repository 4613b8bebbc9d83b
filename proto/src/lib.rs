//! Generated code: the portcullis.v1 API, the service of the embedded switch, and P4Runtime.
// Generated code carries the comments of its .proto; what has none there has none here.
#![allow(missing_docs, clippy::all)]

/// The port-policy API, from `proto/portcullis/v1`.
pub mod v1 {
    tonic::include_proto!("portcullis.v1");
}

/// The service of the embedded switch beside P4Runtime, from `proto/portcullis/switch/v1`.
pub mod switch {
    tonic::include_proto!("portcullis.switch.v1");
}

/// Encoded `FileDescriptorSet` of the API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/portcullis.bin"));

// Modules `p4::v1`, `p4::config::v1` and `google::rpc`: P4Runtime 1.6.0, nested as their packages are.
include!(concat!(env!("OUT_DIR"), "/p4runtime.rs"));

/// Encoded `FileDescriptorSet` of P4Runtime and what it imports.
pub const P4RUNTIME_DESCRIPTORS: &[u8] = include_bytes!("../p4/p4runtime.fds");

#[cfg(test)]
mod tests {
    use super::p4;

    #[test]
    fn p4runtime_has_the_services_and_messages_a_backend_needs() {
        let write = p4::v1::WriteRequest {
            device_id: 1,
            ..Default::default()
        };
        assert_eq!(write.device_id, 1);
        assert_eq!(p4::v1::p4_runtime_server::SERVICE_NAME, "p4.v1.P4Runtime");
        assert!(p4::config::v1::P4Info::default().tables.is_empty());
        assert_eq!(super::google::rpc::Status::default().code, 0);
    }
}
