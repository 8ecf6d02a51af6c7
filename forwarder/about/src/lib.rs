//! What all of Adit's programs say about themselves: their version with the commit, and their
//! command lines as man pages and completions, for whoever packages them.
//!
//! Deliberately absent: anything that the data path or a configuration would need.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

/// Version, commit and profile, such as `0.1.0 (bc23d7b1f0, release)`.
pub const VERSION: &str = env!("ADIT_VERSION");

/// The shells, each with the folder for its completions: all have the same names there as in `/usr/share`.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/vendor-completions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];
/// Where man pages of commands are, likewise.
const MAN: &str = "man/man1";

/// Where the pages of a command line go.
#[derive(Clone, Debug, Args)]
pub struct PagesArgs {
    /// The folder for man pages and completions, which stand there as in /usr/share.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

impl PagesArgs {
    /// Writes a man page for `command` and each of its subcommands, and completions for bash, zsh and
    /// fish. What is hidden has no page.
    ///
    /// # Errors
    /// With the folder, when something cannot be written there.
    pub fn write(&self, command: Command) -> Result<(), String> {
        pages(command, &self.out)
            .map_err(|error| format!("cannot write in {}: {error}", self.out.display()))
    }
}

fn pages(command: Command, folder: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for (shell, place) in SHELLS {
        let place = folder.join(place);
        fs::create_dir_all(&place)?;
        let written = clap_complete::generate_to(shell, &mut command.clone(), &name, &place)?;
        if shell == Shell::Bash {
            // bash-completion looks for a file with the command's name.
            fs::rename(written, place.join(&name))?;
        }
    }
    let place = folder.join(MAN);
    fs::create_dir_all(&place)?;
    clap_mangen::generate_to(command, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command has a page, each of its subcommands has one, and each shell has its file in the place
    /// where the shell looks for it.
    #[test]
    fn pages_and_completions_are_where_they_are_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let args = PagesArgs { out: folder.path().to_owned() };
        let hidden = Command::new("secret").hide(true);
        let command = Command::new("adit").subcommand(Command::new("run")).subcommand(hidden);
        args.write(command).unwrap();
        for path in [
            "man/man1/adit.1",
            "man/man1/adit-run.1",
            "bash-completion/completions/adit",
            "zsh/vendor-completions/_adit",
            "fish/vendor_completions.d/adit.fish",
        ] {
            let text = fs::read_to_string(folder.path().join(path)).expect(path);
            assert!(text.contains("run"), "{path}: {text}");
        }
        assert!(!folder.path().join("man/man1/adit-secret.1").exists());
    }

    /// A version begins with the number, which programs compare; what else there is stands in parentheses.
    #[test]
    fn version_begins_with_the_number() {
        let (number, rest) = VERSION.split_once(' ').expect("a number and more");
        assert_eq!(number, env!("CARGO_PKG_VERSION"));
        assert!(rest.starts_with('(') && rest.ends_with(')'), "{rest}");
    }
}
