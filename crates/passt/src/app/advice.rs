//! Which advice an error that ends the start is told with.

use std::error::Error;

use crate::advice;
use crate::life::{background, command, identity, namespace, socket};
use crate::log::LogError;
use crate::netconf::host;
use crate::setup::SetupError;

use super::pasta::TapError;

/// About an interface that can be no template.
const UNUSABLE: &str = "it needs an address and a route: 'ip address' and 'ip route' show who has";

/// What can be done about the first of the causes that anything can be done about.
pub(super) fn on(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(on_cause)
}

fn on_cause(cause: &(dyn Error + 'static)) -> Option<String> {
    about(cause, on_namespace)
        .or_else(|| about(cause, |error| Some(on_identity(error))))
        .or_else(|| about(cause, on_socket))
        .or_else(|| about(cause, |SetupError::Interface| Some(UNUSABLE.into())))
        .or_else(|| about(cause, on_host))
        .or_else(|| about(cause, |TapError { source, .. }| advice::tap(source, advice::setting)))
        .or_else(|| about(cause, |LogError::File { error, .. }| advice::file(error)))
        .or_else(|| about(cause, on_background))
}

/// What `advice` there is if the cause is an error of this type.
fn about<E: Error + 'static>(
    cause: &(dyn Error + 'static),
    advice: impl FnOnce(&E) -> Option<String>,
) -> Option<String> {
    cause.downcast_ref().and_then(advice)
}

fn on_namespace(error: &namespace::Error) -> Option<String> {
    match error {
        namespace::Error::Open { kind, path, source } => advice::open_namespace(kind, path, source),
        namespace::Error::Enter { kind, source, .. } => advice::enter_namespace(kind, source),
        namespace::Error::NoProc => Some("as root, 'mount -t proc proc /proc' mounts it".into()),
        namespace::Error::Command(_) if !namespace::may_enter() => {
            Some("new namespaces take a user namespace, or CAP_SYS_ADMIN with --netns-only".into())
        }
        namespace::Error::Detach(source) | namespace::Error::Command(command::Error(source)) => {
            advice::user_namespace(source, advice::setting)
        }
        namespace::Error::Identity(error) => Some(on_identity(error)),
        namespace::Error::Watch(_) => None,
    }
}

fn on_identity(error: &identity::Error) -> String {
    match error {
        identity::Error::Invalid(_) => {
            "names have to be in /etc/passwd and /etc/group, numbers need not, and go to 4294967294".into()
        }
        identity::Error::Refused { .. } => "that takes root, or no --runas".into(),
    }
}

fn on_socket(error: &socket::Error) -> Option<String> {
    match error {
        socket::Error::InUse(_) => Some("a process listens there: end it, or take another path".into()),
        socket::Error::Bind { source, .. } => advice::file(source),
        socket::Error::NoName => Some("--socket takes another path".into()),
        socket::Error::Fd(_) => Some("it has to be a connected UNIX socket, open when passt starts".into()),
        socket::Error::Device(_) | socket::Error::Listening(_) => None,
    }
}

fn on_host(error: &host::Error) -> Option<String> {
    match error {
        host::Error::NoInterface(_) => Some("'ip link' shows the interfaces that the host has".into()),
        host::Error::Links(_) => None,
    }
}

fn on_background(error: &background::Error) -> Option<String> {
    match error {
        background::Error::PidFile { source, .. } => advice::file(source),
        background::Error::Detach(_) => None,
    }
}
