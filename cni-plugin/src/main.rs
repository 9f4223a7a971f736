//! `netd-cni`: see the library.

fn main() -> std::process::ExitCode {
    netd_cni::main(std::env::args_os())
}
