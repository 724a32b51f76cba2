//! `cargo xtask`: rebuilds and checks what is kept prebuilt in the repository.

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compiles a tree's kernels into its `prebuilt` folder.
    Prebuild {
        tree: Tree,
        /// Writes nothing; fails with the names of what differs.
        #[arg(long)]
        check: bool,
        /// Compares hashes with the manifest only, without a compiler.
        #[arg(long, conflicts_with = "check")]
        hashes: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Tree {
    Vulkan,
}

fn main() -> Result<()> {
    let Command::Prebuild {
        tree: Tree::Vulkan,
        check,
        hashes,
    } = Cli::parse().command;
    let tree = xtask::vulkan::tree();
    let changed = if hashes {
        xtask::vulkan::stale(&tree)?
    } else {
        xtask::vulkan::prebuild(&tree, check)?
    };
    if (check || hashes) && !changed.is_empty() {
        bail!(
            "stale in kernels/vulkan/prebuilt: {}; rebuild with `cargo xtask prebuild vulkan`",
            changed.join("; ")
        );
    }
    match changed.as_slice() {
        [] => println!("kernels/vulkan/prebuilt is up to date"),
        some => println!("kernels/vulkan/prebuilt: wrote {}", some.join(", ")),
    }
    Ok(())
}
