//! Modules of a kernel that was unpacked from its package: an index of them, and the order to load
//! them in.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::packages::output;

/// Uncompresses the modules of `root/lib/modules/VERSION` and writes their index, as the package
/// does when it is installed. `busybox` is one that runs here.
pub(crate) fn index(root: &Path, version: &str, busybox: &Path) -> Result<()> {
    let modules = root.join("lib/modules").join(version);
    output(&modules, "sh", &["-c", "find . -name '*.ko.xz' -exec xz -d {} +"])?;
    output(root, &busybox.to_string_lossy(), &["depmod", "-b", &root.to_string_lossy(), version])?;
    Ok(())
}

/// Paths in the directory `modules` of those with these names and of what each needs, in the order
/// to load them. What the kernel has without a module is left out.
pub(crate) fn load_order(modules: &Path, names: &[&str]) -> Result<Vec<String>> {
    let index = modules.join("modules.dep");
    let dependencies = fs::read_to_string(&index).with_context(|| index.display().to_string())?;
    let mut order: Vec<String> = Vec::new();
    for name in names {
        let name = format!("/{name}.ko:");
        let line = dependencies.lines().find(|line| line.replace('-', "_").contains(&name));
        // Itself comes first in its line, what must be loaded first last.
        for path in line.iter().flat_map(|line| line.split_whitespace().rev()) {
            let path = path.trim_end_matches(':');
            if !order.iter().any(|other| other == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

/// The name of a module's file in a ramdisk that loads them in the order of their names.
pub(crate) fn numbered(number: usize, path: &str) -> Result<String> {
    let name = Path::new(path).file_name().context("a module's name")?;
    Ok(format!("{number:02}-{}", name.display()))
}
