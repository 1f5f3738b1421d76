//! The project's own rules, checked by reading the source: layers, SQL, comments.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Stack;

/// Layers from the bottom up: a module imports only from those before it.
const LAYERS: [&str; 25] = [
    "domain",
    "secret",
    "sync",
    "protocol",
    "telemetry",
    "limits",
    "auth",
    "config",
    "store",
    "bus",
    "rooms",
    "locks",
    "cursors",
    "replication",
    "leadership",
    "sweeper",
    "audit",
    "server",
    "health",
    "middleware",
    "http",
    "socket",
    "app",
    "dev",
    "cli",
];

fn sources(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn a_module_imports_only_from_layers_above_it() {
    let level: HashMap<&str, usize> = LAYERS
        .iter()
        .enumerate()
        .map(|(n, name)| (*name, n))
        .collect();
    let mut checked = 0;
    for file in sources(&src()) {
        let inside = file.strip_prefix(src()).unwrap();
        let module = inside
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let own = *level
            .get(module.as_str())
            .unwrap_or_else(|| panic!("{module} has no layer: add it to LAYERS"));
        let text = fs::read_to_string(&file).unwrap();
        // `use crate::{a, b}` at several lines, `crate::a::b` in the middle of code: both name a module.
        let flat = text.replace('\n', " ");
        for (at, _) in flat.match_indices("crate::") {
            let rest = &flat[at + "crate::".len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(group) => group
                    .split('}')
                    .next()
                    .unwrap()
                    .split(',')
                    .map(|name| name.trim().split("::").next().unwrap())
                    .collect(),
                None => vec![
                    rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                        .next()
                        .unwrap(),
                ],
            };
            for name in names.into_iter().filter(|name| !name.is_empty()) {
                let theirs = *level
                    .get(name)
                    .unwrap_or_else(|| panic!("{}: crate::{name}?", file.display()));
                assert!(
                    theirs <= own,
                    "{} imports {name}, which is below it",
                    file.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "only {checked} imports were seen");
}

#[test]
fn one_place_each_for_sqlx_fred_and_socketioxide() {
    for (library, place) in [
        ("sqlx::", "store"),
        ("fred::", "bus"),
        ("socketioxide::", "socket"),
    ] {
        for file in sources(&src()) {
            let inside = file
                .strip_prefix(src())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let text = fs::read_to_string(&file).unwrap();
            let wiring = inside == "app.rs" && library == "socketioxide::";
            if text.contains(library) && !inside.starts_with(place) && !wiring {
                panic!("{inside} uses {library}, whose place is {place}");
            }
        }
    }
}

fn metrics_page() -> String {
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    flat(fs::read_to_string(src().join("../docs/METRICS.md")).unwrap())
}

#[test]
fn the_operators_docs_have_every_metric() {
    let docs = metrics_page();
    for metric in apptlock::telemetry::ALL {
        let row = format!("| `{}` |", metric.name);
        assert!(docs.contains(&row), "{} is not in METRICS.md", metric.name);
    }
}

#[test]
fn the_operators_docs_have_every_log_line() {
    let docs = metrics_page();
    let mut seen = 0;
    for file in sources(&src()) {
        let text = fs::read_to_string(&file).unwrap();
        for level in ["info!(", "warn!(", "error!("] {
            for (at, _) in text.match_indices(level) {
                let after = &text[at + level.len()..];
                let call = &after[..after.find(");").unwrap()];
                // The message is the last text in the call that is a sentence.
                let Some(message) = call
                    .split('"')
                    .skip(1)
                    .step_by(2)
                    .filter(|it| it.contains(' '))
                    .last()
                else {
                    continue;
                };
                let begins = message
                    .split([';', '{', ':'])
                    .next()
                    .unwrap()
                    .trim_end_matches([' ', ':']);
                let tail = message
                    .rsplit('}')
                    .next()
                    .unwrap()
                    .split(';')
                    .next()
                    .unwrap()
                    .trim();
                let words = if begins.is_empty() { tail } else { begins };
                assert!(
                    docs.contains(words),
                    "{}: {words:?} is not in METRICS.md",
                    file.display()
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 25, "{seen} log lines");
}

#[test]
fn every_file_opens_with_what_it_owns() {
    for file in sources(&src()) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("//! "),
            "{} has no first comment",
            file.display()
        );
    }
}

#[test]
fn every_statement_says_who_asks_and_reads_the_clock_when_it_has_the_row() {
    let mut files = sources(&src().join("store/sql"));
    files.push(src().join("store/sql.rs"));
    let mut seen = 0;
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        assert!(
            !text.contains(" now()"),
            "the transaction's start is used for a clock"
        );
        for (at, _) in text.match_indices("pub const ") {
            let constant = &text[at + "pub const ".len()..];
            let name = constant.split(':').next().unwrap();
            // The first of the texts that it is made of.
            let begins = constant.split('"').nth(1).unwrap();
            assert!(
                begins.starts_with(&format!("/* {} */", name.to_lowercase())),
                "{name} does not name itself"
            );
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} statements were seen");
}

#[tokio::test]
async fn every_table_and_column_has_a_comment() {
    let stack = Stack::empty(&[]).await;
    let bare: Vec<String> = sqlx::query_scalar(
        "select c.relname || coalesce('.' || a.attname, '')
         from pg_class c
         left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname <> '_sqlx_migrations'
            and (col_description(c.oid, a.attnum) is null or obj_description(c.oid, 'pg_class') is null)",
    )
    .fetch_all(&stack.pool)
    .await
    .unwrap();
    assert_eq!(bare, Vec::<String>::new());
}

/// docs/RELIABILITY.md names the tests of each promise: a test that was renamed or removed must not stay there.
#[test]
fn the_tests_that_the_docs_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(root.join("docs/RELIABILITY.md")).unwrap();
    let mut tests = String::new();
    for file in sources(&root.join("tests/it")) {
        let inside = file.strip_prefix(root.join("tests/it")).unwrap();
        let module = inside.with_extension("").display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("fn ") {
            let name: &str = text[at + 3..]
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap();
            tests += &format!("{}::{name}\n", module.replace('/', "::"));
        }
    }
    let mut seen = 0;
    for named in docs.split('`').skip(1).step_by(2) {
        if named.contains("::") && !named.contains(' ') {
            assert!(tests.contains(named), "{named} is not there");
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} tests are named");
}

/// The module of a file: `src/rooms/roster.rs` is `rooms::roster`.
fn module_of(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(src()).unwrap().with_extension("");
    inside
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect()
}

/// The paths that a tree of `use` names: `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn leaves(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![path.trim().to_owned()];
    };
    let body = rest.strip_suffix('}').unwrap_or(rest);
    let (mut found, mut depth, mut part) = (Vec::new(), 0, String::new());
    for character in body.chars().chain([',']) {
        match character {
            ',' if depth == 0 => {
                if !part.trim().is_empty() {
                    found.extend(leaves(&format!("{prefix}{}", part.trim())));
                }
                part.clear();
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        part.push(character);
    }
    found
}

/// The files that a file imports, its tests not included.
fn imports(
    module: &[String],
    text: &str,
    files: &HashMap<Vec<String>, String>,
) -> Vec<Vec<String>> {
    let code: String = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap()
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .collect::<Vec<_>>()
        .join(" ");
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let tree = code[at + 4..].split(';').next().unwrap();
        paths.extend(leaves(tree));
    }
    for begins in ["crate::", "super::"] {
        for (at, _) in code.match_indices(begins) {
            let end = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
            let path = code[at..].split(end).next().unwrap();
            // A group of a `use`, whose leaves are there already.
            if !path.ends_with("::") {
                paths.push(path.to_owned());
            }
        }
    }
    let mut found = Vec::new();
    for path in paths {
        let mut names: Vec<&str> = path.split("::").map(str::trim).collect();
        let mut base: Vec<String> = match names.first() {
            Some(&"crate") => Vec::new(),
            Some(&"super") => module[..module.len() - 1].to_vec(),
            Some(first) => {
                let mut child = module.to_vec();
                child.push((*first).to_owned());
                if !files.contains_key(&child) {
                    continue;
                }
                names.insert(0, "self");
                module.to_vec()
            }
            None => continue,
        };
        names.remove(0);
        while names.first() == Some(&"super") {
            names.remove(0);
            base.pop();
        }
        base.extend(names.into_iter().map(str::to_owned));
        while !base.is_empty() && !files.contains_key(&base) {
            base.pop();
        }
        if !base.is_empty() && base != module {
            found.push(base);
        }
    }
    found
}

#[test]
fn no_two_files_import_each_other() {
    let files: HashMap<Vec<String>, String> = sources(&src())
        .into_iter()
        .map(|file| (module_of(&file), fs::read_to_string(&file).unwrap()))
        .collect();
    let graph: HashMap<&Vec<String>, Vec<Vec<String>>> = files
        .iter()
        .map(|(module, text)| (module, imports(module, text, &files)))
        .collect();
    let edges: usize = graph.values().map(Vec::len).sum();
    assert!(edges > 300, "only {edges} imports were seen");
    let mut mutual: Vec<String> = Vec::new();
    for (module, imported) in &graph {
        for other in imported {
            if *module < other && graph[other].contains(module) {
                mutual.push(format!("{} <-> {}", module.join("::"), other.join("::")));
            }
        }
    }
    mutual.sort();
    mutual.dedup();
    assert!(mutual.is_empty(), "{mutual:#?}");
}
