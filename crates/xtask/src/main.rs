//! `cargo xtask`: rebuilds and checks what is kept prebuilt in the repository.

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::Path;

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
    match tree {
        Tree::Cuda => {
            for tree in xtask::cuda::trees() {
                let changed = match hashes {
                    true => xtask::cuda::stale(&tree.folder)?,
                    false => xtask::cuda::prebuild(&tree, check)?,
                };
                report("cuda", &tree.folder, check || hashes, &changed)?;
            }
            Ok(())
        }
        Tree::Vulkan => {
            let folder = xtask::vulkan::tree();
            let changed = match hashes {
                true => xtask::vulkan::stale(&folder)?,
                false => xtask::vulkan::prebuild(&folder, check)?,
            };
            report("vulkan", &folder, check || hashes, &changed)
        }
    }
}

/// What was written; where only looking was asked for, that something differs is an
/// error.
fn report(name: &str, tree: &Path, looked: bool, changed: &[String]) -> Result<()> {
    let folder = tree.join("prebuilt");
    if looked && !changed.is_empty() {
        bail!(
            "stale in {}: {}; rebuild with `cargo xtask prebuild {name}`",
            folder.display(),
            changed.join("; ")
        );
    }
    match changed {
        [] => println!("{} is up to date", folder.display()),
        some => println!("{}: wrote {}", folder.display(), some.join(", ")),
    }
    Ok(())
}
