//! The `twinblk` program; everything is in the library.

fn main() -> std::process::ExitCode {
    twinblk::cli::main()
}
