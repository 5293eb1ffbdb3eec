//! Packages for Debian and for systems with RPM, made by the tools of both, `dpkg-deb` and
//! `rpmbuild`: these are there without building anything, and what they make is what such systems
//! expect. Where one of them is missing, that kind of package is left out, and said so.
//!
//! slirp4netns has a package of its own, so that the distribution's can stay.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use passt_tests::packages::output;

use super::programs::Target;
use super::tree::{Tree, empty};
use super::version::Version;
use crate::machine;

/// Files of the package that goes in the place of slirp4netns.
const SLIRP4NETNS: [&str; 2] = ["usr/bin/slirp4netns", "usr/share/man/man1/slirp4netns.1.gz"];

/// What packages of one build have in common.
struct Build<'b> {
    workspace: &'b Path,
    tree: &'b Tree,
    /// Where packages and what they are made of go.
    dir: &'b Path,
    version: &'b Version,
}

/// Builds all packages of what is in `tree` in `dir`; their names.
pub(super) fn build(
    workspace: &Path,
    tree: &Tree,
    dir: &Path,
    target: &Target,
    version: &Version,
) -> Result<Vec<String>> {
    let build = Build { workspace, tree, dir, version };
    let mut made = Vec::new();
    if machine::installed("dpkg-deb") {
        made.extend(build.debian(target)?);
    } else {
        println!("No packages for Debian: there is no dpkg-deb");
    }
    if machine::installed("rpmbuild") {
        made.extend(build.rpm(target)?);
    } else {
        println!("No packages for RPM: there is no rpmbuild");
    }
    Ok(made)
}

impl Build<'_> {
    fn debian(&self, target: &Target) -> Result<Vec<String>> {
        let arch = debian_arch(target.arch());
        let own = self.copy_of_tree("deb")?;
        for file in SLIRP4NETNS {
            fs::remove_file(own.join(file))?;
        }
        let doc = own.join("usr/share/doc/passt-rs");
        fs::remove_file(doc.join("LICENSE"))?;
        self.documents(&doc, "passt-rs")?;
        self.template("lintian-overrides", &own.join("usr/share/lintian/overrides/passt-rs"), "", 0)?;
        let size = kibibytes(&own)?;
        self.template("control", &own.join("DEBIAN/control"), arch, size)?;
        for script in ["postinst", "prerm", "postrm"] {
            let to = own.join("DEBIAN").join(script);
            self.template(script, &to, arch, size)?;
            output(&own, "chmod", &["0755", &to.to_string_lossy()])?;
        }
        let files = output(&own, "find", &["etc", "-type", "f"])?;
        let mut files: Vec<_> = files.lines().map(|file| format!("/{file}\n")).collect();
        files.sort();
        fs::write(own.join("DEBIAN/conffiles"), files.concat())?;

        let other = self.dir.join("deb.slirp4netns");
        empty(&other)?;
        for file in SLIRP4NETNS {
            let to = other.join(file);
            fs::create_dir_all(to.parent().context("a directory")?)?;
            fs::copy(self.tree.root.join(file), to)?;
        }
        let overrides = other.join("usr/share/lintian/overrides/passt-rs-slirp4netns");
        self.template("lintian-overrides.slirp4netns", &overrides, "", 0)?;
        self.documents(&other.join("usr/share/doc/passt-rs-slirp4netns"), "passt-rs-slirp4netns")?;
        self.template("control.slirp4netns", &other.join("DEBIAN/control"), arch, kibibytes(&other)?)?;

        let full = &self.version.full;
        let names =
            [format!("passt-rs_{full}_{arch}.deb"), format!("passt-rs-slirp4netns_{full}_{arch}.deb")];
        for (tree, name) in [own, other].iter().zip(&names) {
            // Sums of all files, which dpkg verifies them by.
            let sums = "find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | sort -z | xargs -0r md5sum > DEBIAN/md5sums";
            output(tree, "sh", &["-c", sums])?;
            self.settle(tree)?;
            let epoch = format!("SOURCE_DATE_EPOCH={}", self.version.time);
            let tree = tree.to_string_lossy();
            output(
                self.dir,
                "env",
                &[&epoch, "dpkg-deb", "--root-owner-group", "-Zxz", "--build", &tree, name],
            )?;
        }
        Ok(names.into())
    }

    fn rpm(&self, target: &Target) -> Result<Vec<String>> {
        let tree = self.copy_of_tree("rpm")?;
        // Profiles of AppArmor, which such systems do not have.
        fs::remove_dir_all(tree.join("etc"))?;
        let zsh = tree.join("usr/share/zsh");
        fs::rename(zsh.join("vendor-completions"), zsh.join("site-functions"))?;
        // Documents there, a package of its own here.
        let policies = tree.join("usr/share/selinux/packages");
        fs::create_dir_all(&policies)?;
        fs::rename(tree.join("usr/share/doc/passt-rs/selinux"), policies.join("passt-rs"))?;
        self.settle(&tree)?;
        let text = fs::read_to_string(self.workspace.join("contrib/packages/rpm/passt-rs.spec"))?;
        // They are there if they could be rendered.
        let has_book = tree.join("usr/share/man/man7").exists();
        let text = if has_book { text } else { text.replace("%{_mandir}/man7/*\n", "") };
        let day = format!("@{}", self.version.time);
        let date = output(&tree, "env", &["LC_ALL=C", "date", "-u", "-d", &day, "+%a %b %d %Y"])?;
        let text = text.replace("@VERSION@", &self.version.full).replace("@TREE@", &tree.to_string_lossy());
        let text = text.replace("@MAINTAINER@", &maintainer()).replace("@DATE@", date.trim());
        let spec = self.dir.join("passt-rs.spec");
        fs::write(&spec, text)?;
        let top = self.dir.join("rpmbuild");
        empty(&top)?;
        let (arch, define) = (target.arch(), |name: &str, value: &str| format!("{name} {value}"));
        let defines = [
            define("_topdir", &top.to_string_lossy()),
            define("_buildhost", "localhost"),
            define("use_source_date_epoch_as_buildtime", "1"),
            define("clamp_mtime_to_source_date_epoch", "1"),
            define("_binary_payload", "w19.xzdio"),
        ];
        let epoch = format!("SOURCE_DATE_EPOCH={}", self.version.time);
        let mut words = vec![epoch.as_str(), "rpmbuild", "-bb", "--target", arch];
        for define in &defines {
            words.extend(["--define", define]);
        }
        let spec = spec.to_string_lossy();
        words.push(&spec);
        output(self.dir, "env", &words)?;
        let mut names = Vec::new();
        for entry in [arch, "noarch"].map(|arch| fs::read_dir(top.join("RPMS").join(arch))) {
            for entry in entry? {
                let path = entry?.path();
                let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
                fs::rename(&path, self.dir.join(&name))?;
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The files of an installation once more, to be changed.
    fn copy_of_tree(&self, name: &str) -> Result<std::path::PathBuf> {
        let copy = self.dir.join(name);
        empty(&copy)?;
        output(self.dir, "cp", &["-a", &format!("{}/.", self.tree.root.display()), &copy.to_string_lossy()])?;
        Ok(copy)
    }

    /// What Debian wants to be told of each package.
    fn documents(&self, doc: &Path, package: &str) -> Result<()> {
        self.template("copyright", &doc.join("copyright"), "", 0)?;
        let date = output(doc, "date", &["-R", "-u", "-d", &format!("@{}", self.version.time)])?;
        let (version, maintainer) = (&self.version.full, maintainer());
        let log = format!(
            "{package} ({version}) unstable; urgency=medium\n\n  * CHANGELOG.md tells what has changed.\n\n \
             -- {maintainer}  {date}"
        );
        fs::write(doc.join("changelog"), log)?;
        output(doc, "gzip", &["-9n", "changelog"]).map(drop)
    }

    /// Writes a file that is made from one of the same name for Debian's packages.
    fn template(&self, name: &str, to: &Path, arch: &str, size: u64) -> Result<()> {
        let from = self.workspace.join("contrib/packages/debian").join(name);
        let text = fs::read_to_string(&from).with_context(|| from.display().to_string())?;
        let text = text.replace("@VERSION@", &self.version.full).replace("@ARCH@", arch);
        let text = text.replace("@SIZE@", &size.to_string()).replace("@MAINTAINER@", &maintainer());
        fs::create_dir_all(to.parent().context("a directory")?)?;
        Ok(fs::write(to, text)?)
    }

    /// Gives all files the time of the commit, and directories the usual mode.
    fn settle(&self, tree: &Path) -> Result<()> {
        let time = format!("@{}", self.version.time);
        output(tree, "find", &[".", "-type", "d", "-exec", "chmod", "0755", "{}", "+"])?;
        output(tree, "find", &[".", "-exec", "touch", "-h", "-d", &time, "{}", "+"]).map(drop)
    }
}

/// Who makes packages, by the variables that Debian's tools know.
fn maintainer() -> String {
    let of = |name: &str, or: &str| std::env::var(name).unwrap_or_else(|_| or.to_owned());
    format!("{} <{}>", of("DEBFULLNAME", "Whoever built it"), of("DEBEMAIL", "nobody@example.org"))
}

/// The size of what is in a directory.
fn kibibytes(dir: &Path) -> Result<u64> {
    let size = output(dir, "du", &["-sk", "--apparent-size", "."])?;
    size.split_whitespace().next().and_then(|size| size.parse().ok()).context("a size")
}

/// How Debian calls a processor.
fn debian_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i686" => "i386",
        "armv7" => "armhf",
        "powerpc64le" => "ppc64el",
        "riscv64gc" => "riscv64",
        other => other,
    }
}
