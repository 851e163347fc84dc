//! The binary: reads the environment, runs one command, answers its exit code.

use std::process::ExitCode;

use optin::config::Environment;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let environment = Environment::from_process();
    #[cfg(debug_assertions)]
    if let Some(plan) = environment.get("OPTIN_FAULT") {
        optin::fault::arm(plan).expect("a plan of where to fail");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let code = runtime.block_on(optin::cli::run(std::env::args_os().collect(), environment));
    // What still runs (a draining page, a slow relay) must not keep a finished command alive.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    ExitCode::from(code)
}
