//! Compiles the protobuf definitions without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["scheduler", "peer", "manager", "preheat", "operations"]
        .map(|name| format!("proto/darter/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::wire::codec::SmallBuffers")
        .compile_fds(descriptors)?;
    Ok(())
}
