//! The command line. Everything is in `netd::cli`.

fn main() -> std::process::ExitCode {
    netd::cli::main(std::env::args_os(), netd::daemon::purge_offline)
}
