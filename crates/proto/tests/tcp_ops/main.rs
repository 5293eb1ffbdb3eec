//! Arbitrary sequences of operations on a TCP connection: see [`driver`].

mod driver;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn rules_hold_for_any_sequence_of_operations(script in prop::collection::vec(any::<u8>(), 0..600)) {
        driver::run(&script);
    }
}
