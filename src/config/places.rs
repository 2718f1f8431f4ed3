//! Where the program keeps its things when the configuration does not say. Server and command line use the same rules,
//! so that they find each other.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access},
    process::geteuid,
};

/// The admin socket when none is configured: `admin.sock` in systemd's runtime directory (`$RUNTIME_DIRECTORY`), else in
/// `/run/tealgate` if we may use the one there or make one, else in `tealgate` below `$XDG_RUNTIME_DIR`, else in
/// `tealgate-UID` below the directory for temporary files.
pub fn default_socket() -> PathBuf {
    socket(&|name| env::var_os(name), Path::new("/"))
}

/// The state directory when none is configured: in systemd's (`$STATE_DIRECTORY`), else in `/var/lib/tealgate` if we may
/// write there or make it, else in `tealgate` below `$XDG_STATE_HOME` or `~/.local/state`. Below it is one directory for
/// each configuration file, named after the file and a checksum of its path, so that two of them share nothing.
pub fn default_state_dir(config_path: &Path) -> PathBuf {
    state_dir(config_path, &|name| env::var_os(name), Path::new("/"))
}

/// Where variables come from, and in both functions below: the root of the file system; others in tests.
type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn socket(variables: Variables<'_>, root: &Path) -> PathBuf {
    const NAME: &str = "admin.sock";
    if let Some(directory) = given_by_systemd(variables, "RUNTIME_DIRECTORY") {
        return directory.join(NAME);
    }
    let shared = root.join("run/tealgate");
    let usable = access(shared.join(NAME), Access::WRITE_OK).is_ok();
    if usable || may_fill(&shared) {
        return shared.join(NAME);
    }
    let own = match absolute(variables, "XDG_RUNTIME_DIR") {
        Some(directory) => directory.join("tealgate"),
        None => env::temp_dir().join(format!("tealgate-{}", geteuid().as_raw())),
    };
    own.join(NAME)
}

fn state_dir(config_path: &Path, variables: Variables<'_>, root: &Path) -> PathBuf {
    let shared = root.join("var/lib/tealgate");
    let base = match given_by_systemd(variables, "STATE_DIRECTORY") {
        Some(directory) => directory,
        None if may_fill(&shared) => shared,
        None => own_state(variables),
    };
    base.join(name_of(config_path))
}

fn own_state(variables: Variables<'_>) -> PathBuf {
    let home = || absolute(variables, "HOME").map(|home| home.join(".local/state"));
    let own = absolute(variables, "XDG_STATE_HOME").or_else(home);
    match own {
        Some(directory) => directory.join("tealgate"),
        None => env::temp_dir().join(format!("tealgate-{}", geteuid().as_raw())).join("state"),
    }
}

/// `tealgate-1c291ca3` for `/etc/tealgate/tealgate.yaml`.
fn name_of(config_path: &Path) -> String {
    let path = std::path::absolute(config_path).unwrap_or_else(|_| config_path.to_owned());
    let stem = path.file_stem().map(OsStr::to_string_lossy).unwrap_or_default();
    format!("{stem}-{:08x}", crc32fast::hash(path.as_os_str().as_encoded_bytes()))
}

/// Whether we may make something in this directory, or make the directory.
fn may_fill(directory: &Path) -> bool {
    let existing = directory.ancestors().find(|ancestor| ancestor.exists());
    existing.is_some_and(|existing| existing.is_dir() && access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

/// systemd gives a list joined by colons where a unit names more than one; the first is ours.
fn given_by_systemd(variables: Variables<'_>, name: &str) -> Option<PathBuf> {
    let list = variables(name)?;
    let first = list.as_encoded_bytes().split(|b| *b == b':').next()?;
    let first = PathBuf::from(std::str::from_utf8(first).ok()?);
    first.is_absolute().then_some(first)
}

/// The XDG specification says to take no notice of relative paths.
fn absolute(variables: Variables<'_>, name: &str) -> Option<PathBuf> {
    variables(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
    }

    #[test]
    fn systemds_directories_come_first() {
        let root = tempfile::tempdir().unwrap();
        let systemd = only(&[("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("STATE_DIRECTORY", "/var/lib/a")]);
        assert_eq!(socket(&systemd, root.path()), Path::new("/run/a/admin.sock"));
        assert_eq!(state_dir(Path::new("/x.yaml"), &systemd, root.path()).parent(), Some(Path::new("/var/lib/a")));
    }

    #[test]
    fn shared_directories_are_used_if_they_can_be_made_and_are_not_made_here() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(socket(&only(&[]), root.path()), root.path().join("run/tealgate/admin.sock"));
        let dir = state_dir(Path::new("/x.yaml"), &only(&[]), root.path());
        assert_eq!(dir.parent().unwrap(), root.path().join("var/lib/tealgate"));
        assert_eq!(root.path().read_dir().unwrap().count(), 0, "asking for a place made something");
    }

    #[test]
    fn without_shared_directories_the_users_own_are_used() {
        let root = tempfile::tempdir().unwrap();
        // What is no directory cannot be filled, whoever we are.
        std::fs::write(root.path().join("run"), "").unwrap();
        std::fs::write(root.path().join("var"), "").unwrap();
        let user = only(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/ann")]);
        assert_eq!(socket(&user, root.path()), Path::new("/run/user/7/tealgate/admin.sock"));
        let dir = state_dir(Path::new("/x.yaml"), &user, root.path());
        assert_eq!(dir.parent().unwrap(), Path::new("/home/ann/.local/state/tealgate"));
        let nobody = only(&[("XDG_RUNTIME_DIR", "relative"), ("XDG_STATE_HOME", "")]);
        assert!(socket(&nobody, root.path()).starts_with(env::temp_dir()));
        assert!(state_dir(Path::new("/x.yaml"), &nobody, root.path()).starts_with(env::temp_dir()));
    }

    #[test]
    fn each_configuration_file_has_a_state_directory_of_its_own() {
        let (one, other) = (name_of(Path::new("/a/shop.yaml")), name_of(Path::new("/b/shop.yaml")));
        assert_ne!(one, other);
        assert_eq!(one, name_of(Path::new("/a/shop.yaml")));
        assert!(one.starts_with("shop-") && one.len() == "shop-".len() + 8, "{one}");
        assert_eq!(name_of(Path::new("shop.yaml")), name_of(&env::current_dir().unwrap().join("shop.yaml")));
    }
}
