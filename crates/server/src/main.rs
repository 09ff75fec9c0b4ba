//! Tidegate: the front door and the backbone of a multi-tenant SaaS, in one binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tidegate::memory::Allocator = tidegate::memory::Allocator;

fn main() -> ExitCode {
    tidegate::cli::main()
}
