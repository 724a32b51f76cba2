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
    Cuda,
    Vulkan,
}

fn main() -> Result<()> {
    let Command::Prebuild {
        tree,
        check,
        hashes,
    } = Cli::parse().command;
    let (name, folder) = match tree {
        Tree::Cuda => ("cuda", xtask::cuda::tree()),
        Tree::Vulkan => ("vulkan", xtask::vulkan::tree()),
    };
    let changed = match (tree, hashes) {
        (Tree::Cuda, true) => xtask::cuda::stale(&folder)?,
        (Tree::Cuda, false) => xtask::cuda::prebuild(&folder, check)?,
        (Tree::Vulkan, true) => xtask::vulkan::stale(&folder)?,
        (Tree::Vulkan, false) => xtask::vulkan::prebuild(&folder, check)?,
    };
    let folder = folder.join("prebuilt");
    if (check || hashes) && !changed.is_empty() {
        bail!(
            "stale in {}: {}; rebuild with `cargo xtask prebuild {name}`",
            folder.display(),
            changed.join("; ")
        );
    }
    match changed.as_slice() {
        [] => println!("{} is up to date", folder.display()),
        some => println!("{}: wrote {}", folder.display(), some.join(", ")),
    }
    Ok(())
}
