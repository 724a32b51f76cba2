//! Prints what a GGUF file holds: `cargo run -p formats --example gguf_info -- model.gguf`

use std::path::Path;
use std::process::ExitCode;

use formats::GgufFile;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: gguf_info MODEL.gguf");
        return ExitCode::from(2);
    };
    match print(Path::new(&path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print(path: &Path) -> formats::Result<()> {
    let file = GgufFile::open(path)?;
    println!("{} (GGUF version {})", file.path.display(), file.version);
    for (key, value) in file.metadata.iter() {
        println!("  {key} = {value}");
    }
    match file.tokenizer()? {
        Some(tokenizer) => println!(
            "tokenizer: {} tokens, {} of them special, bos {:?}, eos {:?}",
            tokenizer.vocab_size(),
            tokenizer.special_ids().count(),
            tokenizer.bos_id(),
            tokenizer.eos_id(),
        ),
        None => println!("tokenizer: none"),
    }
    println!(
        "{} tensors, {} bytes, {} file(s)",
        file.tensors.len(),
        file.tensors.total_bytes(),
        file.tensors.files().len()
    );
    for tensor in file.tensors.iter() {
        let info = tensor.info;
        println!(
            "  {} {} {:?} at {}",
            info.name,
            info.stored,
            info.shape,
            info.place.map_or(0, |p| p.offset)
        );
    }
    Ok(())
}
