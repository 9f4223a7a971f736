//! The daemon.

fn main() -> std::process::ExitCode {
    netd::daemon::main(std::env::args_os())
}
