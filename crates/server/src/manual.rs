//! Man pages and completions for shells, made of the command line itself, so that neither can say what is not there.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

/// The name of the binary.
const NAME: &str = "tidegate";
/// The shells of the package, and what their files are called.
const SHELLS: [(Shell, &str); 3] =
    [(Shell::Bash, "tidegate.bash"), (Shell::Zsh, "_tidegate"), (Shell::Fish, "tidegate.fish")];

/// Prints a shell's completions.
///
/// # Errors
/// Nobody reads them.
pub fn completions(shell: Shell) -> io::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    io::stdout().lock().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a man page for each command into `man`, and the completions into `completions`, below this directory.
///
/// # Errors
/// They cannot be written.
pub fn write(directory: &Path) -> io::Result<()> {
    let (pages, shells) = (directory.join("man"), directory.join("completions"));
    std::fs::create_dir_all(&pages)?;
    std::fs::create_dir_all(&shells)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_page(&command, NAME, &pages)?;
    for (shell, file) in SHELLS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
        std::fs::write(shells.join(file), text)?;
    }
    Ok(())
}

/// The page of a command, and those of the commands below it: `tidegate-status-drain.1`.
fn write_page(command: &Command, name: &str, directory: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    // No date: the same version makes the same page.
    Man::new(command.clone()).title(name).date("").render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.1")), text)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_page(below, &format!("{name}-{}", below.get_name()), directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_and_each_shell_knows_it() {
        let folder = std::env::temp_dir().join(format!("tidegate-manual-{}", std::process::id()));
        write(&folder).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let page = read(&format!("man/tidegate-{name}.1"));
            assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
            for (_, file) in SHELLS {
                assert!(read(&format!("completions/{file}")).contains(name), "{name} in {file}");
            }
        }
        assert!(read("man/tidegate-status-drain.1").contains("tidegate\\-status\\-drain"));
        let top = read("man/tidegate.1");
        assert!(top.contains("tidegate\\-doctor(1)") && !top.contains("tidegate\\-gen(1)"), "{top}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
