//! The program: what the command line says is done in [`tealgate::cli`]; here only the exit code is handed on.

use std::{env, process::ExitCode};

use mimalloc::MiMalloc;

/// Its heaps are each thread's own, as workers are. HTTP/2 allocates with every head, and with the system's allocator a
/// request of it costs a tenth more.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    tealgate::cli::run(env::args_os())
}
