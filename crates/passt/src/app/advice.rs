//! Which advice an error that ends the start is told with.

use std::error::Error;

use crate::advice;
use crate::life::{background, command, identity, namespace, socket};
use crate::log::LogError;
use crate::netconf::host;
use crate::setup::SetupError;

use super::pasta::TapError;

/// What can be done about the first of the causes that anything can be done about.
pub(super) fn on(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(on_cause)
}

fn on_cause(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(namespace::Error::Identity(error)) = cause.downcast_ref() {
        Some(on_identity(error))
    } else if let Some(error) = cause.downcast_ref() {
        Some(on_identity(error))
    } else if let Some(error) = cause.downcast_ref() {
        on_namespace(error)
    } else if let Some(error) = cause.downcast_ref() {
        on_socket(error)
    } else if let Some(TapError { source, .. }) = cause.downcast_ref() {
        advice::tap(source, advice::setting)
    } else if let Some(background::Error::PidFile { source, .. }) = cause.downcast_ref() {
        advice::file(source)
    } else if let Some(LogError::File { error, .. }) = cause.downcast_ref() {
        advice::file(error)
    } else if let Some(SetupError::Interface) = cause.downcast_ref() {
        Some("it needs an address and a route: 'ip address' and 'ip route' show who has".into())
    } else if let Some(host::Error::NoInterface(_)) = cause.downcast_ref() {
        Some("'ip link' shows the interfaces that the host has".into())
    } else {
        None
    }
}

fn on_namespace(error: &namespace::Error) -> Option<String> {
    match error {
        namespace::Error::Open { path, source, .. } => advice::open_namespace(path, source),
        namespace::Error::Enter { kind, source, .. } => advice::enter_namespace(kind, source),
        namespace::Error::NoProc => Some("as root, 'mount -t proc proc /proc' mounts it".into()),
        namespace::Error::Command(_) if !namespace::may_enter() => {
            Some("new namespaces take a user namespace, or CAP_SYS_ADMIN with --netns-only".into())
        }
        namespace::Error::Detach(source) | namespace::Error::Command(command::Error(source)) => {
            advice::user_namespace(source, advice::setting)
        }
        namespace::Error::Identity(_) | namespace::Error::Watch(_) => None,
    }
}

fn on_identity(error: &identity::Error) -> String {
    match error {
        identity::Error::Invalid(_) => {
            "names have to be in /etc/passwd and /etc/group, numbers need not".into()
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
