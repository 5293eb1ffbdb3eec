//! Which modules of the engine import which, and that no import runs upwards.
//!
//! The floors, and what is on each of them, are the table of ARCHITECTURE.md under "Floors": from
//! the top down. A module that is on none, or a row without a module, is an error as well. Tests
//! are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use syn::visit::{self, Visit};

use crate::tally::Tally;

/// Sources of the engine.
const ENGINE: &str = "crates/engine/src";
/// Where the table of floors is.
const TABLE: &str = "ARCHITECTURE.md";
/// The heading above it.
const HEADING: &str = "## Floors";

/// A module, by its path from the crate's root: `["forward", "listener"]`.
type Module = Vec<String>;

/// Floors by the name of the module that is there; the lowest is 0.
type Floors = BTreeMap<String, usize>;

/// Each module and those that it imports from.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// Prints all imports between modules of the engine; whether none runs upwards.
pub(crate) fn print(root: &Path) -> Result<bool> {
    let (floors, imports) = read(root)?;
    for (module, imported) in &imports {
        let names: Vec<_> = imported.iter().map(|other| name(other)).collect();
        if !names.is_empty() {
            println!("{}: {}", name(module), names.join(", "));
        }
    }
    let upward = upward(&floors, &imports)?;
    for (module, other) in &upward {
        println!("UPWARDS {} imports {}", name(module), name(other));
    }
    let count: usize = imports.values().map(BTreeSet::len).sum();
    println!("{} modules, {count} imports, {} upwards", imports.len(), upward.len());
    Ok(upward.is_empty())
}

/// The same as a test.
pub(crate) fn check(root: &Path, tally: &mut Tally) -> Result<()> {
    let passed = print(root)?;
    tally.record(passed, "imports between floors of the engine");
    Ok(())
}

fn name(module: &[String]) -> String {
    if module.is_empty() { "(root)".to_owned() } else { module.join("::") }
}

fn read(root: &Path) -> Result<(Floors, Imports)> {
    let table = fs::read_to_string(root.join(TABLE)).context(TABLE)?;
    let floors = floors(&table)?;
    let sources = root.join(ENGINE);
    let mut files = Vec::new();
    list(&sources, &mut files)?;
    let modules: BTreeMap<Module, PathBuf> = files
        .into_iter()
        .filter_map(|file| Some((module_of(file.strip_prefix(&sources).ok()?), file)))
        .collect();
    let known: BTreeSet<Module> = modules.keys().cloned().collect();
    let mut imports = Imports::new();
    for (module, file) in modules {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let source = syn::parse_file(&text).with_context(|| file.display().to_string())?;
        imports.insert(module.clone(), imported(&module, &source, &known));
    }
    for floor in floors.keys() {
        ensure!(known.contains(std::slice::from_ref(floor)), "{TABLE}: there is no module {floor}");
    }
    Ok((floors, imports))
}

/// The rows below the heading: `| floor | ``module/``, … | …`, from the top down.
fn floors(text: &str) -> Result<Floors> {
    let (_, section) = text.split_once(HEADING).context("no table of floors")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let mut floors = Floors::new();
    for (floor, row) in rows.into_iter().rev().enumerate() {
        let modules = row.split('|').nth(2).context("a row without modules")?;
        for module in modules.split(',') {
            let module = module.trim().trim_matches('`').trim_end_matches('/').trim_end_matches(".rs");
            floors.insert(module.to_owned(), floor);
        }
    }
    ensure!(!floors.is_empty(), "no table of floors");
    Ok(floors)
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The module that a file, as seen from the crate's root, is.
fn module_of(file: &Path) -> Module {
    let path = file.with_extension("");
    let mut parts: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// Imports that run upwards, and those of the engine's root, which only names what it has.
fn upward<'a>(floors: &Floors, imports: &'a Imports) -> Result<Vec<(&'a Module, &'a Module)>> {
    let floor = |module: &'a Module| {
        let first = module.first().context("the crate's root")?;
        floors.get(first).copied().with_context(|| format!("{TABLE}: {first} is on no floor"))
    };
    let mut upward = Vec::new();
    for (module, imported) in imports.iter().filter(|(module, _)| !module.is_empty()) {
        for other in imported.iter().filter(|other| !other.is_empty()) {
            if floor(other)? > floor(module)? {
                upward.push((module, other));
            }
        }
    }
    Ok(upward)
}

/// The modules that a file names, other than itself, those around it and those in it.
fn imported(module: &Module, source: &syn::File, known: &BTreeSet<Module>) -> BTreeSet<Module> {
    let mut paths = Paths { module, found: BTreeSet::new() };
    paths.visit_file(source);
    let within = |path: &Module| (0..=path.len()).rev().find_map(|len| known.get(&path[..len]).cloned());
    let found = paths.found.iter().filter_map(within);
    found
        .filter(|other| other != module && !module.starts_with(other) && !other.starts_with(module))
        .collect()
}

/// Paths in a file, from the crate's root.
struct Paths<'a> {
    module: &'a Module,
    found: BTreeSet<Module>,
}

impl Paths<'_> {
    /// Takes note of a path as it is written.
    fn note(&mut self, written: &[String]) {
        let mut base = match written.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for part in written {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => drop(base.pop()),
                other => base.push(other.to_owned()),
            }
        }
        self.found.insert(base);
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.note(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(before, item)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let written: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&written);
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|argument| argument.is_ident("test"))
        });
        if !is_test {
            visit::visit_item_mod(self, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str) -> Module {
        path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    fn imports_of(at: &str, text: &str) -> Vec<String> {
        let known =
            ["", "core", "core::token", "flow", "flow::table", "forward", "forward::rule"].map(module);
        let source = syn::parse_file(text).expect("source");
        imported(&module(at), &source, &known.into()).iter().map(|found| name(found)).collect()
    }

    #[test]
    fn paths_are_resolved() {
        for (at, text, expected) in [
            ("flow", "use crate::core::{Core, token::{self, Handle}};", &["core", "core::token"][..]),
            ("flow::table", "use super::Key; use super::super::core::Core;", &["core"]),
            ("flow", "pub use self::table::Table;", &[]),
            (
                "core",
                "fn f() -> crate::flow::Key { crate::forward::rule::all() }",
                &["flow", "forward::rule"],
            ),
            ("core", "use std::io; fn f(x: rustix::io::Errno) {}", &[]),
            ("core", "#[cfg(test)] mod tests { use crate::flow::Key; }", &[]),
            ("core", "mod inner { use crate::flow::Key; }", &["flow"]),
            ("forward", "use crate::flow::*;", &["flow"]),
        ] {
            assert_eq!(imports_of(at, text), expected, "{text}");
        }
    }

    #[test]
    fn only_downwards() {
        let text = "# X\n## Floors\n\n| Floor | Modules | Holds |\n|---|---|---|\n| top | `flow/`, `a.rs` | |\n| low | `core/` | |\n\n## Y\n";
        let floors = floors(text).expect("a table");
        assert_eq!(
            floors,
            [("core", 0), ("flow", 1), ("a", 1)].map(|(name, floor)| (name.to_owned(), floor)).into()
        );
        let imports = |from: &str, to: &str| Imports::from([(module(from), [module(to)].into())]);
        let count = |imports: &Imports| upward(&floors, imports).map(|found| found.len()).ok();
        assert_eq!(count(&imports("flow::table", "core::token")), Some(0));
        assert_eq!(count(&imports("flow", "a")), Some(0));
        assert_eq!(count(&imports("core::token", "flow")), Some(1));
        assert_eq!(count(&imports("core", "unknown")), None);
        assert!(super::floors("# nothing").is_err());
    }
}
