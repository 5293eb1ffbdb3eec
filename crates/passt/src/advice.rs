//! What to do where the host doesn't allow what was asked for: the words alone.
//!
//! Programs that start us compare how messages begin. So advice follows on the same line, behind a
//! semicolon, and `None` is none. What to write instead of a mistaken command line is told by
//! `cli::advice`.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};

use rustix::fs::{Access, access};

use crate::files;

/// Where network namespaces have names.
const NAMESPACES: &str = "/run/netns";
/// Where programs are looked for without a PATH (execvp(3)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A message, and behind it what to do.
pub fn with(message: impl Display, advice: Option<String>) -> String {
    match advice {
        Some(advice) => format!("{message}; {advice}"),
        None => message.to_string(),
    }
}

/// A setting of the kernel by its name in sysctl(8).
pub fn setting(name: &str) -> Option<u64> {
    files::text(&format!("/proc/sys/{}", name.replace('.', "/"))).trim().parse().ok()
}

/// A file that can't be opened or made.
pub fn file(error: &io::Error) -> Option<String> {
    Some(match error.kind() {
        ErrorKind::NotFound => "its directory has to be there".into(),
        ErrorKind::PermissionDenied => "this user can't write there".into(),
        ErrorKind::AddrInUse => "a file is there that is no socket".into(),
        _ => return None,
    })
}

/// A port that can't be listened at. `protocol` is as ss(8) has it.
pub fn port(
    port: u16,
    protocol: &str,
    error: &io::Error,
    setting: impl Fn(&str) -> Option<u64>,
) -> Option<String> {
    const FIRST: &str = "net.ipv4.ip_unprivileged_port_start";
    Some(match error.kind() {
        ErrorKind::PermissionDenied => {
            let first = setting(FIRST).unwrap_or(1024);
            if u64::from(port) >= first {
                return None;
            }
            let other = unprivileged(port, first).map(|other| {
                // Addresses and the guest's port aren't known here, so it is no whole option.
                format!("or forward a higher port of the host, such as {other}")
            });
            with(
                format!(
                    "ports below {first} take CAP_NET_BIND_SERVICE, or, as root, 'sysctl {FIRST}={port}'"
                ),
                other,
            )
        }
        ErrorKind::AddrInUse => {
            format!(
                "'ss -ln{protocol}p sport = :{port}' shows who has it, as root also other users' programs"
            )
        }
        ErrorKind::AddrNotAvailable => {
            "'ip address' shows the addresses that the host has; --freebind listens at others, too".into()
        }
        // SO_BINDTODEVICE (socket(7)).
        _ if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            "'ip link' shows the interfaces that the host has".into()
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "each port takes a descriptor: 'ulimit -Hn' shows how many there are".into()
        }
        _ => return None,
    })
}

/// A port that stands for a privileged one where `first` is the first that is not, if there is any.
fn unprivileged(port: u16, first: u64) -> Option<u16> {
    let usual = u64::from(port) + 8000;
    [usual.max(first), first].into_iter().find_map(|port| u16::try_from(port).ok())
}

/// A user namespace, or others in it, that can't be made.
pub fn user_namespace(error: &io::Error, setting: impl Fn(&str) -> Option<u64>) -> Option<String> {
    const CLONE: &str = "kernel.unprivileged_userns_clone";
    const MAX: &str = "user.max_user_namespaces";
    const APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns";
    Some(match error.kind() {
        ErrorKind::StorageFull | ErrorKind::PermissionDenied if setting(MAX) == Some(0) => {
            format!("as root, 'sysctl {MAX}=15000' allows user namespaces")
        }
        ErrorKind::StorageFull => {
            format!("as root, 'sysctl {MAX}' and the like of it show and set the limits")
        }
        ErrorKind::PermissionDenied if setting(CLONE) == Some(0) => {
            format!("as root, 'sysctl {CLONE}=1' allows user namespaces")
        }
        ErrorKind::PermissionDenied if setting(APPARMOR) == Some(1) => format!(
            "AppArmor allows user namespaces to programs with a profile: install pasta's, or, as root, \
             'sysctl {APPARMOR}=0'"
        ),
        ErrorKind::PermissionDenied => {
            "a container's seccomp filter or a chroot may be what forbids user namespaces".into()
        }
        ErrorKind::Unsupported | ErrorKind::InvalidInput => "it takes a kernel with CONFIG_USER_NS".into(),
        _ => return None,
    })
}

/// A tap device that can't be had.
pub fn tap(error: &io::Error, setting: impl Fn(&str) -> Option<u64>) -> Option<String> {
    Some(match error.kind() {
        ErrorKind::NotFound => {
            "as root, 'modprobe tun' makes it; a container has to be given it, as by --device /dev/net/tun"
                .into()
        }
        ErrorKind::PermissionDenied if setting("kernel.apparmor_restrict_unprivileged_userns") == Some(1) => {
            return user_namespace(error, setting);
        }
        ErrorKind::PermissionDenied => {
            "/dev/net/tun has to be open to this user, and the namespace to be its own".into()
        }
        ErrorKind::ResourceBusy | ErrorKind::InvalidInput => {
            "give it another name: --ns-ifname of pasta, the last word of slirp4netns".into()
        }
        _ => return None,
    })
}

/// A namespace that can't be opened at a path.
pub fn open_namespace(kind: &str, path: &Path, error: &io::Error) -> Option<String> {
    let process = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()?.to_str());
    let process = process.filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let named = path.strip_prefix(NAMESPACES).ok();
    Some(match (error.kind(), process, named) {
        (ErrorKind::NotFound, Some(pid), _) => format!("there is no process {pid}, or it is gone"),
        (ErrorKind::PermissionDenied, Some(pid), _) => {
            format!("process {pid} is another user's, or may do more: start it as that user, or as root")
        }
        (ErrorKind::NotFound, _, Some(name)) if is_plain(name) => {
            format!("as root, 'ip netns add {}' makes it", name.display())
        }
        (ErrorKind::NotFound, ..) if kind == "user" => "a process's is /proc/PID/ns/user".into(),
        (ErrorKind::NotFound, ..) => {
            "a process's are in /proc/PID/ns, and 'ip netns list' shows those with names".into()
        }
        (ErrorKind::PermissionDenied, ..) => "this user can't read there".into(),
        _ => return None,
    })
}

/// Whether a shell takes a name for one word, and that as it is.
fn is_plain(name: &Path) -> bool {
    let bytes = name.as_os_str().as_encoded_bytes();
    bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b)) && !bytes.starts_with(b"-")
}

/// A namespace that is there, but can't be entered.
pub fn enter_namespace(kind: &str, error: &io::Error) -> Option<String> {
    Some(match (error.kind(), kind) {
        (ErrorKind::PermissionDenied, "network") => {
            "its user namespace is another one: --userns names that, or root may enter".into()
        }
        (ErrorKind::PermissionDenied, _) => "the user who made it may, or root".into(),
        (ErrorKind::InvalidInput, _) => format!("the file is no {kind} namespace"),
        _ => return None,
    })
}

/// A control socket that can't be connected to.
pub fn control_socket(error: &io::Error) -> Option<String> {
    Some(match error.kind() {
        ErrorKind::NotFound => "passt or pasta makes it, started with --conf-path and this path".into(),
        ErrorKind::ConnectionRefused => {
            "nobody listens there: whoever made it has ended, or it is no socket".into()
        }
        ErrorKind::PermissionDenied => "it is for the user who started passt or pasta, and root".into(),
        _ => return None,
    })
}

/// A program that can't be started.
pub fn program(name: &Path, error: &io::Error) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    program_among(name, error, &path, Path::new(NAMESPACES))
}

/// The same where these directories are looked through, and namespaces have their names there.
fn program_among(name: &Path, error: &io::Error, path: &OsStr, namespaces: &Path) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) {
        return None;
    }
    let is_absent = error.kind() == ErrorKind::NotFound;
    let is_path = name.as_os_str().as_encoded_bytes().contains(&b'/');
    let is_word = !is_path && matches!(name.components().next(), Some(Component::Normal(_)));
    Some(if is_word && is_plain(name) && namespaces.join(name).exists() {
        format!("for the network namespace of this name: --netns {}", name.display())
    } else if name.as_os_str().is_empty() {
        "the name is empty".into()
    } else if !is_word && name.is_dir() {
        "it is a directory".into()
    } else if !is_word {
        match (is_absent, name.exists()) {
            (true, true) => "the file is there: what it names as its interpreter is not",
            (true, false) => "there is no such file",
            (false, _) => "the file is no program, or none that this user may run",
        }
        .into()
    } else if let Some(what) = env::split_paths(path).find_map(|dir| obstacle(&dir.join(name), is_absent)) {
        format!("PATH has {}, {what}", name.display())
    } else if is_absent {
        "no directory of PATH has it".into()
    } else {
        "no directory of PATH that this user may search has it".into()
    })
}

/// Why a file is not run, if it is there.
fn obstacle(file: &Path, is_absent: bool) -> Option<&'static str> {
    Some(if file.metadata().ok()?.is_dir() {
        "which is a directory"
    } else if access(file, Access::EXEC_OK).is_err() {
        "which is not executable"
    } else if is_absent {
        "whose interpreter is not there"
    } else {
        "which may not be run"
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    fn settings<'a>(known: &'a [(&str, u64)]) -> impl Fn(&str) -> Option<u64> + 'a {
        |name| known.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    #[test]
    fn what_forbids_user_namespaces() {
        use ErrorKind::{OutOfMemory, PermissionDenied, StorageFull, Unsupported};
        let max = ("user.max_user_namespaces", 0);
        let clone = ("kernel.unprivileged_userns_clone", 0);
        let apparmor = ("kernel.apparmor_restrict_unprivileged_userns", 1);
        for (kind, known, expected) in [
            (StorageFull, &[max][..], Some("sysctl user.max_user_namespaces=15000")),
            (StorageFull, &[], Some("sysctl user.max_user_namespaces'")),
            (PermissionDenied, &[max, clone], Some("sysctl user.max_user_namespaces=15000")),
            (PermissionDenied, &[clone, apparmor], Some("sysctl kernel.unprivileged_userns_clone=1")),
            (PermissionDenied, &[apparmor], Some("sysctl kernel.apparmor_restrict_unprivileged_userns=0")),
            (PermissionDenied, &[], Some("seccomp")),
            (Unsupported, &[], Some("CONFIG_USER_NS")),
            (OutOfMemory, &[max], None),
        ] {
            let advice = user_namespace(&kind.into(), settings(known));
            assert_eq!(advice.is_some(), expected.is_some(), "{kind:?}");
            assert!(advice.unwrap_or_default().contains(expected.unwrap_or_default()), "{kind:?} {known:?}");
        }
        let tap = tap(&PermissionDenied.into(), settings(&[apparmor])).expect("advice");
        assert!(tap.contains("AppArmor"), "{tap}");
    }

    #[test]
    fn ports_below_the_first() {
        const SETTING: &str = "net.ipv4.ip_unprivileged_port_start";
        for (number, first, expected) in [
            (80, 100, Some("8080")),
            (80, 1024, Some("8080")),
            (5000, 13000, Some("13000")),
            (5000, 20000, Some("20000")),
            (60000, 65000, Some("65000")),
            (65534, 65535, Some("65535")),
            (80, 65536, None),
        ] {
            let advice = port(number, "t", &ErrorKind::PermissionDenied.into(), |_| Some(first));
            let other =
                expected.map(|port| format!("; or forward a higher port of the host, such as {port}"));
            let told = format!(
                "ports below {first} take CAP_NET_BIND_SERVICE, or, as root, 'sysctl {SETTING}={number}'{}",
                other.unwrap_or_default()
            );
            assert_eq!(advice, Some(told));
        }
        assert!(
            port(80, "t", &ErrorKind::AddrInUse.into(), |_| None)
                .is_some_and(|text| text.contains("ss -lntp"))
        );
        assert_eq!(port(80, "t", &ErrorKind::OutOfMemory.into(), |_| None), None);
        // An interface that may not be bound to, or a security module: no setting of ports helps.
        assert_eq!(port(8080, "t", &ErrorKind::PermissionDenied.into(), |_| None), None);
    }

    #[test]
    fn namespaces_by_their_paths() {
        for (path, kind, expected) in [
            ("/proc/77/ns/net", ErrorKind::NotFound, "there is no process 77, or it is gone"),
            ("/proc/77/ns/net", ErrorKind::PermissionDenied, "process 77 is another user's"),
            ("/run/netns/blue", ErrorKind::NotFound, "as root, 'ip netns add blue' makes it"),
            ("/run/netns/b; id", ErrorKind::NotFound, "a process's are in /proc/PID/ns"),
            ("/tmp/x", ErrorKind::NotFound, "a process's are in /proc/PID/ns"),
            ("/proc/self/ns/net", ErrorKind::NotFound, "a process's are in /proc/PID/ns"),
        ] {
            let advice = open_namespace("network", Path::new(path), &kind.into()).expect("advice");
            assert!(advice.starts_with(expected), "{path}: {advice}");
        }
        let advice = open_namespace("user", Path::new("/tmp/x"), &ErrorKind::NotFound.into());
        assert_eq!(advice.as_deref(), Some("a process's is /proc/PID/ns/user"));
    }

    /// Files below a directory of this test's own, gone with it.
    struct Files(PathBuf);

    impl Files {
        fn new() -> Self {
            let files = Self(env::temp_dir().join(format!("advice-{}", std::process::id())));
            for dir in ["netns", "first/directory", "second"] {
                fs::create_dir_all(files.0.join(dir)).expect("directory");
            }
            for name in ["blue", "x;id", "$(id)", "-x", "both"] {
                files.write(&format!("netns/{name}"), 0o444);
            }
            files.write("first/plain", 0o644);
            files.write("second/script", 0o755);
            files.write("second/both", 0o644);
            files
        }

        fn write(&self, name: &str, mode: u32) {
            let file = self.0.join(name);
            fs::write(&file, "#!/no/such/interpreter\n").expect("file");
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("mode");
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn programs() {
        use ErrorKind::{NotFound, OutOfMemory, PermissionDenied};
        let files = Files::new();
        let path = env::join_paths(["first", "second"].map(|dir| files.0.join(dir))).expect("path");
        let of = |name: &str, kind: ErrorKind| {
            program_among(Path::new(name), &kind.into(), &path, &files.0.join("netns"))
        };
        let none = "no directory of PATH has it";
        for (name, kind, expected) in [
            ("blue", NotFound, "for the network namespace of this name: --netns blue"),
            ("both", PermissionDenied, "for the network namespace of this name: --netns both"),
            ("x;id", NotFound, none),
            ("$(id)", NotFound, none),
            ("-x", NotFound, none),
            ("red", NotFound, none),
            ("red", PermissionDenied, "no directory of PATH that this user may search has it"),
            (".", PermissionDenied, "it is a directory"),
            ("..", PermissionDenied, "it is a directory"),
            ("/", PermissionDenied, "it is a directory"),
            ("", NotFound, "the name is empty"),
            ("plain", PermissionDenied, "PATH has plain, which is not executable"),
            ("directory", PermissionDenied, "PATH has directory, which is a directory"),
            ("script", NotFound, "PATH has script, whose interpreter is not there"),
            ("script", PermissionDenied, "PATH has script, which may not be run"),
            ("./blue", NotFound, "there is no such file"),
            ("blue/", NotFound, "there is no such file"),
        ] {
            assert_eq!(of(name, kind).as_deref(), Some(expected), "{name} {kind:?}");
        }
        let there = |name: &str, kind| of(&files.0.join(name).to_string_lossy(), kind).unwrap_or_default();
        assert!(there("second/script", NotFound).starts_with("the file is there: "));
        assert!(there("first/plain", PermissionDenied).starts_with("the file is no program"));
        assert_eq!(of("blue", OutOfMemory), None);
    }
}
