//! SPIR-V of `kernels/vulkan`.

use anyhow::Result;
use std::path::{Path, PathBuf};

pub fn tree() -> PathBuf {
    crate::workspace().join("kernels/vulkan")
}

/// `linear/gemv.comp` is built to `linear.gemv.spv`.
pub fn object_name(source: &str) -> String {
    let stem = source.strip_suffix(".comp").unwrap_or(source);
    format!("{}.spv", stem.replace('/', "."))
}

/// What is out of date by hash alone.
pub fn stale(tree: &Path) -> Result<Vec<String>> {
    crate::prebuilt::stale(tree, "comp", object_name)
}

/// Rebuilds every shader. With `check` nothing is written: the names of the
/// objects whose bytes differ are returned. Without it, those that were written.
#[cfg(not(feature = "glslang"))]
pub fn prebuild(_tree: &Path, _check: bool) -> Result<Vec<String>> {
    anyhow::bail!(
        "this xtask was built without its shader compiler: use `cargo xtask prebuild vulkan` (needs a C++ compiler; the first build takes some minutes)"
    )
}

#[cfg(feature = "glslang")]
pub use build::prebuild;

#[cfg(feature = "glslang")]
mod build {
    use super::object_name;
    use crate::prebuilt::{Recipe, rebuild};
    use anyhow::{Context, Result, bail};
    use glslang::{
        Compiler, CompilerOptions, Program, ShaderInput, ShaderMessage, ShaderSource, ShaderStage,
        SourceLanguage, SpirvVersion, Target, VulkanVersion,
    };
    use std::path::Path;

    const COMPILER: &str = "crate glslang 0.9.1";
    const FLAGS: &[&str] = &["--target-env vulkan1.2", "--target-spv spv1.5"];

    /// Shaders with this extension are compiled for Vulkan 1.3 and SPIR-V 1.6, which it
    /// asks for.
    const NEWER: &str = "GL_NV_cooperative_matrix2";

    /// See the version without the compiler.
    pub fn prebuild(tree: &Path, check: bool) -> Result<Vec<String>> {
        let recipe = Recipe {
            compiler: COMPILER,
            flags: FLAGS,
            extension: "comp",
            object_name,
        };
        rebuild(tree, &recipe, check, |_, text| {
            let words = compile(text)?;
            Ok(words.iter().flat_map(|w| w.to_le_bytes()).collect())
        })
    }

    fn compile(text: &str) -> Result<Vec<u32>> {
        let compiler = Compiler::acquire().context("glslang does not start")?;
        let source = ShaderSource::try_from(text.to_string())
            .map_err(|e| anyhow::anyhow!("not a source: {e}"))?;
        let (version, spirv_version) = match text.contains(NEWER) {
            true => (VulkanVersion::Vulkan1_3, SpirvVersion::SPIRV1_6),
            false => (VulkanVersion::Vulkan1_2, SpirvVersion::SPIRV1_5),
        };
        let options = CompilerOptions {
            source_language: SourceLanguage::GLSL,
            target: Target::Vulkan {
                version,
                spirv_version,
            },
            version_profile: None,
            messages: ShaderMessage::DEFAULT,
        };
        let none: Option<&[(&str, Option<&str>)]> = None;
        let input = ShaderInput::new(&source, ShaderStage::Compute, &options, none, None)?;
        let shader = compiler.create_shader(input)?;
        let mut program = Program::new(compiler);
        program.add_shader(&shader);
        let words = program.compile(ShaderStage::Compute)?;
        if words.first() != Some(&0x0723_0203) {
            bail!("the compiler gave no SPIR-V");
        }
        Ok(words)
    }
}
