//! `soakd internal-pages`: man pages and shell completions, made from the same definitions as `--help`. Hidden; the package
//! is built with what it writes.

use super::{CannotStart, Cli, Done, Outcome};
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for `man/` and `completions/`
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// Writes `man/soakd.1`, `man/soakd-run.1` and so on, and one file of completions for each shell.
pub fn execute(args: &Args) -> Done {
    let folder = |name: &str| -> Result<PathBuf, CannotStart> {
        let path = args.out.join(name);
        let made = std::fs::create_dir_all(&path);
        made.map(|()| path.clone()).map_err(|error| CannotStart(format!("{}: {error}", path.display())))
    };
    let (man, completions) = (folder("man")?, folder("completions")?);
    let trouble = |path: &Path, error: std::io::Error| CannotStart(format!("{}: {error}", path.display()));
    clap_mangen::generate_to(Cli::command(), &man).map_err(|error| trouble(&man, error))?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut Cli::command(), "soakd", &completions)
            .map_err(|error| trouble(&completions, error))?;
    }
    Ok(Outcome::Passed)
}
