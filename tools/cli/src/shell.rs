//! `paramstore completions` and `paramstore man`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Verdict;
use crate::arguments::Arguments;
use crate::failure::Failure;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore completions bash > ~/.local/share/bash-completion/completions/paramstore
  paramstore completions zsh > \"${fpath[1]}/_paramstore\"
  paramstore completions fish > ~/.config/fish/completions/paramstore.fish")]
pub(crate) struct CompletionsArguments {
    /// Which shell
    shell: Shell,
}

/// Print the man page, or write the pages of all commands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore man | man -l -
  paramstore man --dir ~/.local/share/man/man1")]
pub(crate) struct ManArguments {
    /// Directory for the pages of all commands; made if it does not exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(arguments: &CompletionsArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    // Written at once: a shell that closes the pipe early is no reason to panic.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "paramstore", &mut script);
    out.write_all(&script)?;
    Ok(Verdict::Sound)
}

pub(crate) fn man(arguments: &ManArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let command = Arguments::command();
    match &arguments.dir {
        None => clap_mangen::Man::new(command).render(out)?,
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            clap_mangen::generate_to(command, dir)?;
            let written = std::fs::read_dir(dir)?.count();
            writeln!(out, "{}: {written} pages", dir.display())?;
        }
    }
    Ok(Verdict::Sound)
}
