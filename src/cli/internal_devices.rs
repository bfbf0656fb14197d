//! `soakd internal-devices`: what CUDA says of this machine, as JSON. Hidden; `soakd check` starts it as a process of its
//! own, because a call into a sick driver may not come back.

use super::{CannotStart, Done, Outcome};
use crate::engine::cuda::{devices, fastest_path};
use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};

/// No flags.
#[derive(Debug, ClapArgs)]
pub struct Args {}

/// One device, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CudaDevice {
    /// CUDA's ordinal.
    pub ordinal: u32,
    /// Product name.
    pub name: String,
    /// `9.0`.
    pub compute: String,
    /// The kernels that it would run.
    pub kernels: Option<String>,
    /// Why it can run none.
    pub refusal: Option<String>,
}

/// Prints the devices.
pub fn execute(_: &Args) -> Done {
    let found = devices().map_err(CannotStart::because)?;
    let devices: Vec<CudaDevice> = found
        .into_iter()
        .map(|device| {
            let path = fastest_path(&device);
            CudaDevice {
                ordinal: device.ordinal,
                compute: format!("{}.{}", device.compute.0, device.compute.1),
                kernels: path.as_ref().ok().map(|path| path.name().to_owned()),
                refusal: path.err(),
                name: device.name,
            }
        })
        .collect();
    println!("{}", serde_json::json!(devices));
    Ok(Outcome::Passed)
}
