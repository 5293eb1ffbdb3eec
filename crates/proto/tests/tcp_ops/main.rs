//! Arbitrary sequences of operations on a TCP connection: see [`driver`].

mod driver;

use proptest::prelude::*;

/// Many scripts, unless the environment says how many.
fn config() -> ProptestConfig {
    let named = std::env::var_os("PROPTEST_CASES").is_some();
    if named { ProptestConfig::default() } else { ProptestConfig::with_cases(5000) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn rules_hold_for_any_sequence_of_operations(script in prop::collection::vec(any::<u8>(), 0..600)) {
        driver::run(&script);
    }
}
