//! Landlock, where the kernel has it: no file system at all, no abstract UNIX sockets and no
//! signals to processes outside.
//!
//! TCP ports are left alone: which ones a guest connects to is its own business, and which
//! ones are bound follows the rules for forwarding.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};

/// What is asked for; an older kernel restricts as much of it as it knows.
const WANTED: ABI = ABI::V6;

/// Restricts this thread and those that it starts. With `signals` it may go on sending signals: a
/// command that it has started is outside of its domain. That it is this one alone is for the
/// filter to say.
pub(super) fn restrict(signals: bool) -> Result<(), RulesetError> {
    let scopes = if signals { Scope::AbstractUnixSocket.into() } else { Scope::from_all(WANTED) };
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .scope(scopes)?
        .create()?;
    let status = ruleset.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        log::debug!("This kernel has no Landlock");
    }
    Ok(())
}
