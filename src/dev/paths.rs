//! Programs, users and data directories of servers. Owns the search for programs and the creation of directories.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::{DevError, START};

/// A program on the PATH or in a distribution's directory for PostgreSQL; the newest of several.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for parent in [
        "/usr/lib/postgresql",
        "/opt/homebrew/opt",
        "/usr/local/opt",
        "/home/linuxbrew/.linuxbrew/opt",
    ] {
        let mut below: Vec<PathBuf> = fs::read_dir(parent)
            .map(|entries| {
                entries
                    .filter_map(Result::ok)
                    .map(|entry| entry.path().join("bin"))
                    .collect()
            })
            .unwrap_or_default();
        below.sort_by_key(|bin| std::cmp::Reverse(version(bin)));
        places.extend(below);
    }
    places.extend([
        "/usr/sbin".into(),
        "/opt/homebrew/bin".into(),
        "/usr/local/bin".into(),
    ]);
    places
        .into_iter()
        .map(|place| place.join(program))
        .find(|file| file.is_file())
}

/// The number in a path such as `/usr/lib/postgresql/15/bin`, so that 15 comes before 9.
fn version(bin: &Path) -> u32 {
    let name = bin
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.rsplit(['@', '/'])
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The user and group that a server runs as; `None`: this process's. PostgreSQL refuses to run as root.
pub(super) type Owner = Option<(u32, u32)>;

fn owner() -> Result<Owner, DevError> {
    let id = |args: &[&str]| -> Option<u32> {
        let out = Command::new("id")
            .args(args)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        String::from_utf8(out.stdout).ok()?.trim().parse().ok()
    };
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)))
        .map(Some)
        .ok_or(DevError::Failed {
            what: "PostgreSQL",
            why: "it does not run as root, and there is no other user".into(),
        })
}

pub(super) fn lower(command: &mut Command, owner: Owner) -> &mut Command {
    match owner {
        Some((uid, gid)) => command.gid(gid).uid(uid),
        None => command,
    }
}

/// An empty directory for one server, below `under` if its user can enter it, else below the system's temporary
/// one. Empty directories of earlier servers are removed first.
pub(super) fn home(under: &Path, kind: &str) -> Result<(PathBuf, Owner), DevError> {
    let owner = owner()?;
    fs::create_dir_all(under)?;
    let under = fs::canonicalize(under)?;
    // A supervisor empties a directory whose process was killed, and may not remove it. A young one may be in use.
    for left in fs::read_dir(&under)?.filter_map(Result::ok) {
        let old = left
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > START));
        if old && left.file_name().to_string_lossy().starts_with("apptlock-") {
            let _ = fs::remove_dir(left.path());
        }
    }
    let name = format!(
        "{kind}-{}-{}",
        std::process::id(),
        uuid::Uuid::new_v4().simple()
    );
    for place in [under.clone(), std::env::temp_dir()] {
        let home = place.join(format!("apptlock-{name}"));
        fs::DirBuilder::new().mode(0o700).create(&home)?;
        if let Some((uid, gid)) = owner {
            chown(&home, Some(uid), Some(gid))?;
        }
        let mut probe = Command::new("test");
        probe.arg("-w").arg(&home);
        if lower(&mut probe, owner)
            .current_dir("/")
            .status()?
            .success()
        {
            return Ok((home, owner));
        }
        fs::remove_dir(&home)?;
    }
    Err(DevError::Failed {
        what: "a server's data directory",
        why: format!("{} cannot be entered", under.display()),
    })
}
