//! Programs in other languages, which tests and benchmarks set beside those of the lessons.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::run;
use crate::progress::Tasks;

/// Python with these packages of PyPI, which are installed into a folder of their own under `folder`
/// if they are not there.
///
/// # Errors
///
/// pip cannot install them: what it says.
pub fn python(folder: &Path, packages: &[&str], tasks: &Tasks) -> Result<Command> {
    let installed = folder.join(packages.join("_"));
    if !installed.exists() {
        let task = tasks.start(format!("Installing {} with pip", packages.join(" and ")));
        // first elsewhere, so that an installation that is cut off is not taken for a whole one
        let part = installed.with_extension("part");
        let _ = fs::remove_dir_all(&part);
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--disable-pip-version-check"])
            .args(["--root-user-action=ignore", "--target"])
            .arg(&part)
            .args(packages);
        run(&task, pip)?;
        fs::rename(part, &installed)?;
        task.done(&format!("Installed {} with pip", packages.join(" and ")));
    }
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", installed);
    Ok(python)
}
