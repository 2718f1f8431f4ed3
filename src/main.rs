//! The program: what the command line says is done in [`tealgate::cli`]; here only the exit code is handed on.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    tealgate::cli::run(env::args_os())
}
