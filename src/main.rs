//! The program: what the command line says is done in [`tealgate::cli`]; here only the exit code is handed on.

use std::{env, process::ExitCode};

use mimalloc::MiMalloc;

/// Its heaps are each thread's own, as workers are. HTTP/2 allocates with every head, and with the system's allocator a
/// request of it costs a tenth more. It asks for no huge pages (`no_thp`): of two MiB at a time most would stay unused, and a
/// program at rest would hold twice the memory.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    tealgate::cli::run(env::args_os())
}
