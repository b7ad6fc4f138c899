//! Packs the built programs as container images without a container engine: `make image`, and the Dockerfile's last step.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::image;

#[derive(Parser)]
#[command(name = "e2e-image", about = "Container images of the built programs")]
struct Args {
    /// Folder with the built programs, such as target/release.
    #[arg(long)]
    programs: PathBuf,
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Write an OCI archive for each image.
    Archives {
        /// Folder for the archives.
        #[arg(long)]
        out: PathBuf,
    },
    /// Unpack the files of one image into a folder.
    Unpack {
        /// Name of the image.
        name: String,
        /// An empty folder.
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.deed {
        Deed::Archives { out } => archives(&args.programs, out),
        Deed::Unpack { name, folder } => unpack(&args.programs, name, folder),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn archives(programs: &Path, out: &Path) -> anyhow::Result<()> {
    for (path, digest) in image::write_all(programs, out)? {
        println!("{} {digest} {} MB", path.display(), path.metadata()?.len() >> 20);
    }
    Ok(())
}

fn unpack(programs: &Path, name: &str, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    image::image(name, programs)?.tree.unpack(folder)
}
