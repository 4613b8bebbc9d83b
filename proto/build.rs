//! Generates the API's code; `protox` compiles it, so that no `protoc` needs to be installed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=portcullis");
    let api = protox::compile(["portcullis/v1/policy.proto"], ["."])?;
    std::fs::write(out.join("portcullis.bin"), api.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(api)?;
    Ok(())
}
