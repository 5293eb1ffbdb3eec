//! What is not tested under qemu's user emulation, and why.

use super::Processor;

/// Parts of tests' names, and why they are left out for a processor.
pub(super) fn of(processor: &Processor) -> Vec<(&'static str, &'static str)> {
    let emulated = processor.emulator.is_some();
    EMULATION.iter().copied().filter(|_| emulated).collect()
}

/// What the emulation does not translate.
const EMULATION: [(&str, &str); 0] = [];
