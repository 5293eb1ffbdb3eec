//! The user to be: root of the machine is never needed for long.
//!
//! Names are looked up in `/etc/passwd` and `/etc/group` only, not through
//! the C library's name services, which a static executable doesn't have. A user that is
//! known elsewhere can be given by number.

use std::io;

use passt_sys::process::NO_ID;
use passt_sys::{namespace, process};
use rustix::process::{getegid, geteuid};
use rustix::thread::CapabilitySet;

use crate::cli::RunAs;
use crate::files;

/// User and group ID of `nobody` where the machine has no such name (also the
/// kernel's default overflow IDs).
const NOBODY: u32 = 65534;

/// Why an identity can't be taken on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--runas` names nobody known.
    #[error("Invalid --runas option: {0}")]
    Invalid(String),
    /// The kernel refused.
    #[error("Can't change to user {uid}, group {gid}")]
    Refused {
        /// The user wanted.
        uid: u32,
        /// The group wanted.
        gid: u32,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
}

impl Identity {
    /// Identity of this process.
    pub fn current() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    /// Who we should become: what `--runas` says, `nobody` if we are the machine's root, or else
    /// nobody other than who we are, as `None`.
    pub fn wanted(run_as: Option<&RunAs>) -> Result<Option<Self>, Error> {
        match run_as {
            Some(run_as) => look_up(run_as).map(Some),
            None if !is_machine_root() => Ok(None),
            None => {
                log::warn!("Started as root, will change to nobody.");
                Ok(Some(nobody(&files::text("/etc/passwd"))))
            }
        }
    }

    /// Becomes this user, keeping only the capabilities in `keep`.
    pub fn assume(self, keep: CapabilitySet) -> Result<(), Error> {
        let Self { uid, gid } = self;
        process::become_user(uid, gid, keep).map_err(|source| Error::Refused { uid, gid, source })
    }
}

fn is_machine_root() -> bool {
    geteuid().is_root() && namespace::is_initial_user().unwrap_or(true)
}

fn look_up(run_as: &RunAs) -> Result<Identity, Error> {
    let invalid = || {
        let group = run_as.group.as_ref().map(|group| format!(":{group}")).unwrap_or_default();
        Error::Invalid(format!("{}{group}", run_as.user))
    };
    let [passwd, groups] = ["/etc/passwd", "/etc/group"].map(files::text);
    resolve(run_as, &passwd, &groups).ok_or_else(invalid)
}

/// Who `run_as` means by the contents of passwd(5) and group(5), or else by number. Nobody if that
/// is -1 for the user or the group, which would leave it as it is.
fn resolve(run_as: &RunAs, passwd: &str, groups: &str) -> Option<Identity> {
    let number = || run_as.user.parse().ok().map(|uid| Identity { uid, gid: uid });
    let mut identity = account(passwd, &run_as.user).or_else(number)?;
    if let Some(group) = &run_as.group {
        identity.gid = group_id(groups, group).or_else(|| group.parse().ok())?;
    }
    (identity.uid != NO_ID && identity.gid != NO_ID).then_some(identity)
}

/// The machine's `nobody`, unless that is somebody.
fn nobody(passwd: &str) -> Identity {
    let named = account(passwd, "nobody").filter(|named| {
        let nobodies = [named.uid, named.gid].map(|id| id != 0 && id != NO_ID);
        nobodies == [true, true]
    });
    named.unwrap_or(Identity { uid: NOBODY, gid: NOBODY })
}

/// The entry of a user, by name or number, in the contents of passwd(5).
fn account(passwd: &str, user: &str) -> Option<Identity> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let identity = Identity { uid: uid.parse().ok()?, gid: gid.parse().ok()? };
        (name == user || uid == user).then_some(identity)
    })
}

/// The number of the group `wanted` in the contents of group(5).
fn group_id(groups: &str, wanted: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
        (name == wanted).then(|| gid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nlib:x:100:101::/:/bin/false\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let lib = Some(Identity { uid: 100, gid: 101 });
        assert_eq!(account(PASSWD, "lib"), lib);
        assert_eq!(account(PASSWD, "100"), lib);
        assert_eq!(account(PASSWD, "li"), None);
        assert_eq!(account(PASSWD, "broken"), None);
    }

    #[test]
    fn groups_are_found_by_name() {
        assert_eq!(group_id("root:x:0:\nkvm:x:107:qemu\n", "kvm"), Some(107));
        assert_eq!(group_id("kvm:x:none:\n", "kvm"), None);
        assert_eq!(group_id("", "kvm"), None);
    }

    #[test]
    fn unknown_names_are_quoted_as_given() {
        let run_as = RunAs { user: "no-such-user".into(), group: Some("5".into()) };
        let error = look_up(&run_as).unwrap_err().to_string();
        assert_eq!(error, "Invalid --runas option: no-such-user:5");
        let run_as = RunAs { user: "4294967296".into(), group: None };
        assert!(look_up(&run_as).is_err());
    }

    /// -1 by number or by name: to the kernel it means that nothing changes.
    #[test]
    fn who_leaves_everything_as_it_is_is_invalid() {
        let passwd = "minus:x:4294967295:5::/:\ngroup:x:5:4294967295::/:\nlib:x:100:101::/:\n";
        let groups = "minus:x:4294967295:\nwheel:x:10:\n";
        let who = |text: &str| {
            let (user, group) =
                text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
            resolve(&RunAs { user: user.into(), group: group.map(str::to_owned) }, passwd, groups)
        };
        for text in [
            "4294967295",
            "+4294967295",
            "04294967295",
            "4294967296",
            "-1",
            "-4294967295",
            "0x5",
            "minus",
            "group",
            "minus:5",
            "lib:minus",
            "lib:4294967295",
            "lib:-1",
            "100:4294967295",
            "0:04294967295",
        ] {
            assert_eq!(who(text), None, "{text}");
        }
        assert_eq!(who("lib:wheel"), Some(Identity { uid: 100, gid: 10 }));
        assert_eq!(who("group:wheel"), Some(Identity { uid: 5, gid: 10 }));
        assert_eq!(who("4294967294"), Some(Identity { uid: NO_ID - 1, gid: NO_ID - 1 }));
    }

    #[test]
    fn nobody_is_never_root() {
        let by_number = Identity { uid: NOBODY, gid: NOBODY };
        for (entry, expected) in [
            ("nobody:x:99:98::/:\n", Identity { uid: 99, gid: 98 }),
            ("nobody:x:0:98::/:\n", by_number),
            ("nobody:x:99:0::/:\n", by_number),
            ("nobody:x:4294967295:98::/:\n", by_number),
            ("", by_number),
        ] {
            assert_eq!(nobody(entry), expected, "{entry}");
        }
    }

    #[test]
    fn a_number_without_an_account_is_its_own_group() {
        let run_as = RunAs { user: "3000000000".into(), group: None };
        assert_eq!(look_up(&run_as).unwrap(), Identity { uid: 3_000_000_000, gid: 3_000_000_000 });
    }
}
