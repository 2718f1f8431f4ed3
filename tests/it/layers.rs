//! The dependencies of the modules, read off their `use` lines: they point down, and each outside library that is more
//! than a tool is spoken to in one place.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A part of the program, and those it may use of `crate::`.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("switch", &[]),
    ("telemetry", &["switch"]),
    ("connector", &["switch"]),
    ("health", &["connector", "switch"]),
    ("lookout", &["switch"]),
    ("smoke", &["switch"]),
    ("proxy", &["connector", "switch", "telemetry"]),
    ("admin", &["switch", "telemetry"]),
    ("source", &["switch"]),
    ("config", &["admin", "proxy", "source", "switch", "telemetry"]),
    ("readiness", &["admin", "switch"]),
    (
        "server",
        &[
            "admin",
            "config",
            "connector",
            "health",
            "lookout",
            "proxy",
            "readiness",
            "smoke",
            "source",
            "switch",
            "telemetry",
        ],
    ),
];

/// An outside library, and the parts that may speak to it.
const SPOKEN_TO_BY: [(&str, &[&str]); 9] = [
    ("hyper", &["proxy", "admin", "health", "smoke", "cli", "demo"]),
    ("httparse", &["proxy"]),
    ("rustls", &["connector", "proxy", "config", "cli", "main"]),
    ("axum", &["admin"]),
    ("prometheus", &["telemetry"]),
    ("notify", &["source"]),
    ("kube", &["source"]),
    ("k8s_openapi", &["source"]),
    ("clap", &["cli", "demo", "main"]),
];

/// Every source file: the part it belongs to, its path, and its lines.
fn sources() -> Vec<(String, PathBuf, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inside = path.strip_prefix(&root).expect("below the root");
            let part = inside.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).expect("a text");
            // Tests may stand on more than what they test.
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            found.push((part, inside.to_owned(), text.lines().map(str::to_owned).collect()));
        }
    }
    found
}

/// The first segments after `crate::` and of outside paths that a line of code mentions.
fn mentions<'a>(line: &'a str, before: &str) -> Option<&'a str> {
    let code = line.split("//").next().unwrap_or_default();
    let rest = code.split_once(before)?.1;
    Some(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
}

#[test]
fn dependencies_point_down_and_siblings_do_not_know_each_other() {
    for (part, path, lines) in sources() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == part) else { continue };
        for line in &lines {
            let Some(used) = mentions(line, "crate::") else { continue };
            let fine = used.is_empty() || used == part || allowed.contains(&used);
            assert!(fine, "{}: {part} may not use {used}: {}", path.display(), line.trim());
        }
    }
}

#[test]
fn each_library_is_spoken_to_where_it_belongs() {
    for (part, path, lines) in sources() {
        for (library, parts) in SPOKEN_TO_BY {
            for line in lines.iter().filter(|line| mentions(line, "use ") == Some(library)) {
                assert!(parts.contains(&part.as_str()), "{}: {part} speaks to {library}: {line}", path.display());
            }
        }
    }
}
