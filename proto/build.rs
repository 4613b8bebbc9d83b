//! Generates the code of the API and of P4Runtime; `protox` compiles the API, so that no `protoc` needs to be
//! installed, and P4Runtime is a checked-in descriptor set (see `p4/extract`).

use std::path::PathBuf;

use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=portcullis");
    println!("cargo:rerun-if-changed=p4");
    let api = protox::compile(
        [
            "portcullis/v1/policy.proto",
            "portcullis/v1/unlock.proto",
            "portcullis/v1/bypass.proto",
        ],
        ["."],
    )?;
    std::fs::write(out.join("portcullis.bin"), api.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(api)?;
    let switch = protox::compile(["portcullis/switch/v1/switch.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(switch)?;
    let p4 = FileDescriptorSet::decode(std::fs::read("p4/p4runtime.fds")?.as_slice())?;
    tonic_prost_build::configure()
        .include_file("p4runtime.rs")
        .compile_fds(p4)?;
    Ok(())
}
